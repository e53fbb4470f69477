"""Access lines: their content, format and selection."""

import io
import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config.model import LogConfig
from gateway.core.caching.cache_status import CacheStatus, Forward, Reason
from gateway.core.caching.identity import IdentityReader
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.caller_digest import CallerDigest
from gateway.telemetry.log_format import FIELDS, JsonLines, TextLines, formatter
from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.workers import one_to_each

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_DIGEST = CallerDigest(IdentityReader((), b"key", shared=False), b"key")
_PARENT = ("traceparent", f"00-{_TRACE}-00f067aa0ba902b7-01")


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The access lines, read back from JSON."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, one: logging.LogRecord) -> None:
            found.append(json.loads(JsonLines().format(one)))

    handler, log = Handler(), logging.getLogger("gateway.access")
    level = log.level
    log.addHandler(handler)
    log.setLevel("INFO")
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


async def test_a_line_has_request_outcome_and_durations(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with running(aos.url) as gateway:
        headers = [("X-Request-Id", "r-1"), _PARENT]
        miss = await fetch(gateway.address, TARGET, token="sesame", headers=headers)
        hit = await fetch(gateway.address, TARGET, token="sesame", headers=headers)
    first, second = lines
    assert first["logger"] == "gateway.access"
    assert (first["request_id"], first["trace_id"]) == ("r-1", _TRACE)
    assert (first["method"], first["path"], first["route"]) == ("GET", TARGET, "execution")
    assert (first["status"], first["cache"], first["reason"]) == (200, "miss", "")
    assert 0 < first["upstream_ms"] <= first["duration_ms"]
    assert first["sent_bytes"] > len(miss.body)
    assert (second["trace_id"], second["cache"], second["upstream_ms"]) == (_TRACE, "hit", None)
    assert second["sent_bytes"] > len(hit.body)
    assert "sesame" not in json.dumps(lines)


async def test_a_line_has_caller_user_agent_and_bytes(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.answer(Answer(body=record()))
    agent = ("User-Agent", "curl/8 (" + "x" * 500)
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        for headers in (
            [("X-Auth-Token", "sesame"), agent],
            [("X-Auth-Token", "sesame"), agent],
            [("X-Auth-Token", "sesame"), ("Cache-Control", "no-cache")],
            [("X-Auth-Token", "another")],
            [],
        ):
            await client.request("GET", TARGET, headers)
        sent = request_bytes("GET", TARGET, [("X-Auth-Token", "sesame"), agent])
        await client.request("PUT", "/v2/x", [("X-Auth-Token", "sesame")], b"12345")
    miss, hit, other_lane, stranger, nobody, put = lines
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    assert re.fullmatch("[0-9a-f]{12}", miss["caller"])
    assert {line["caller"] for line in (hit, other_lane, put)} == {miss["caller"]}
    assert stranger["caller"] != miss["caller"]
    assert "caller" not in nobody
    assert (miss["cache"], hit["cache"]) == ("miss", "hit")
    assert miss["user_agent"] == hit["user_agent"] == ("curl/8 (" + "x" * 500)[:128]
    assert "user_agent" not in nobody
    assert miss["received_bytes"] == hit["received_bytes"] == len(sent)
    assert put["received_bytes"] > 5
    assert "sesame" not in json.dumps(lines)


async def test_the_address_is_that_forwarded_by_a_trusted_proxy(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.answer(Answer(body=record()))
    async with running(aos.url, server__trusted_proxies=["127.0.0.0/8"]) as gateway:
        for address in ("192.0.2.1", "192.0.2.1", "2001:db8::7"):
            await fetch(gateway.address, TARGET, token="a", headers=[("X-Forwarded-For", address)])
    assert [line["peer"] for line in lines] == ["192.0.2.1", "192.0.2.1", "2001:db8::7"]


async def test_a_caller_has_the_same_digest_with_the_same_secret_and_none_where_that_is_off(
    aos: ScriptedAos, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    aos.answer(Answer(body=record()))
    signed = "SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature="
    for secret, named in (("s", True), ("s", True), ("other", True), ("", True), ("s", False)):
        monkeypatch.delenv("_AOSGW_CALLER_KEY", raising=False)
        async with running(aos.url, cache__secret=secret, log__caller=named) as gateway:
            await fetch(gateway.address, TARGET, token="sesame")
            for signature in ("1", "2"):
                fields = [("Authorization", signed + signature), ("Host", aos.address)]
                await fetch(gateway.address, TARGET, headers=fields)
    callers = [line.get("caller") for line in lines]
    assert callers[:3] == callers[3:6]
    assert all(one == other for one, other in zip(callers[1::3], callers[2::3], strict=True))
    assert len(set(callers[:2] + callers[6:8] + callers[9:11])) == 6
    assert callers[12:] == [None] * 3
    assert not any(text in json.dumps(lines) for text in ("sesame", "AK", "Signature"))


@pytest.mark.operation
async def test_workers_and_the_process_that_takes_over_name_a_caller_alike(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    process = GatewayProcess("--upstream", aos.url, "--workers", "2")
    try:
        await process.ready()
        async with one_to_each(process.address, 2, b"sesame"):
            pass
        os.kill(process.pid, signal.SIGUSR2)
        assert await process.ended() == 0
        text = process.output()
        taken_over = int(re.findall(r"process (\d+) has taken over", text)[0])
        await fetch(process.address, TARGET, token="sesame")
        os.kill(taken_over, signal.SIGTERM)
        await until(lambda: process.output().count('"stopped"') == 2, "its end")
        reported = [json.loads(line) for line in process.output().splitlines()]
    finally:
        process.discard()
    found = [line["caller"] for line in reported if line["logger"] == "gateway.access"]
    assert len(found) > 3
    assert len(set(found)) == 1


async def test_a_failure_is_a_warning_with_its_origin_and_error(
    aos: ScriptedAos, free_port: int, lines: list[dict[str, Any]], lane: str
) -> None:
    for answer in (Answer(404), Answer(503), Answer(429, headers=[("Retry-After", "60")])):
        aos.queue(answer)
    async with running(aos.url) as gateway:
        for _ in range(4):
            await fetch(gateway.address, TARGET, token="a")
    async with running(f"http://127.0.0.1:{free_port}") as gateway:
        await fetch(gateway.address, TARGET, token="a")
    assert [
        (line["level"], line["status"], line["answered_by"], line.get("error"), line.get("code"))
        for line in lines
    ] == [
        ("info", 404, "aos", None, None),
        ("warning", 503, "aos", None, None),
        ("warning", 429, "aos", None, None),
        ("warning", 429, "gateway", None, None),
        ("warning", 502, "gateway", "connection_refused", "GATEWAY.5020001"),
    ]


_HOST = b"Host: h\r\n"


@pytest.mark.parametrize(
    ("data", "status", "method", "path"),
    [
        (b"GARBAGE sesame\r\n\r\n", 400, "", ""),
        (b"GET /a?sesame HTTP/1.1\r\nHost : sesame\r\n\r\n", 400, "GET", "/a"),
        (b"GET /a HTTP/1.1\r\n" + _HOST + b"X-Auth-Token: sesame\x00\r\n\r\n", 400, "GET", "/a"),
        (b"GET /a HTTP/3.0\r\n" + _HOST + b"\r\n", 505, "", ""),
        (b"GET /a HTTP/1.1\r\n" + _HOST + b"A: " + b"sesame" * 20_000, 431, "GET", "/a"),
        (b"GET /" + b"a" * 120_000, 414, "", ""),
        (b"GET /a HTTP/1.1\r\n" + _HOST + b"X-Auth-Token: sesame", 408, "GET", "/a"),
        (b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: sesame\r\n\r\n", 400, "POST", "/a"),
    ],
)
async def test_a_request_that_the_parser_refuses_has_a_line_too(
    aos: ScriptedAos, lines: list[dict[str, Any]], data: bytes, status: int, method: str, path: str
) -> None:
    aos.answer(Answer(body=record()))
    async with (
        running(aos.url, server__header_timeout_s=0.2) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.request("GET", TARGET, [("X-Auth-Token", "sesame")])
        await client.send(data)
        response = await client.read_response()
    assert response.status == status
    _, line = lines
    assert (line["status"], line["method"], line["path"]) == (status, method, path)
    assert (line["peer"], line["cache"], line["answered_by"]) == ("127.0.0.1", "none", "gateway")
    assert (line["error"], line["code"]) == ("http_request_error", response.json()["code"])
    assert line["request_id"].encode() == response.get("X-Request-Id")
    assert 0 < line["received_bytes"] <= len(data)
    assert line["sent_bytes"] > len(response.body)
    assert "sesame" not in json.dumps(lines)


async def test_a_connection_too_many_has_a_line(aos: ScriptedAos, lines: list[dict[str, Any]]) -> None:
    async with (
        running(aos.url, server__max_connections=1) as gateway,
        await RawClient.connect(gateway.address),
        await RawClient.connect(gateway.address) as client,
    ):
        assert (await client.read_response()).status == 503
    [line] = lines
    assert (line["level"], line["status"], line["code"]) == ("warning", 503, "GATEWAY.5030002")


async def test_what_fails_in_here_has_a_line(
    aos: ScriptedAos, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("sesame")

    monkeypatch.setattr("gateway.cache.cache.Cache._share", fail)
    async with running(aos.url) as gateway:
        assert (await fetch(gateway.address, TARGET, token="a")).status == 500
    [line] = lines
    assert (line["level"], line["status"], line["path"]) == ("warning", 500, TARGET)
    assert (line["error"], line["code"]) == ("proxy_internal_error", "GATEWAY.5000001")
    assert "sesame" not in json.dumps(lines)


async def test_rejected_requests_are_not_logged_where_access_lines_are_off(
    aos: ScriptedAos, lines: list[dict[str, Any]]
) -> None:
    async with (
        running(aos.url, log__access="off") as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(b"GARBAGE\r\n\r\n")
        assert (await client.read_response()).status == 400
    assert lines == []


async def test_a_caller_who_leaves_before_the_response_is_logged_and_counted(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    gate = aos.gate()
    aos.on("GET", TARGET, gate.before(Answer(body=record())))
    async with running(aos.url, log__access="errors") as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.send(
                request_bytes("GET", TARGET, [("X-Auth-Token", "sesame"), ("X-Request-Id", "r")])
            )
            await gate.wait_reached()
        await until(lambda: gateway.app.metrics.requests_aborted == 1, "the caller to be missed")
        gate.open()
    [line] = lines
    assert (line["request_id"], line["path"]) == ("r", TARGET)
    assert (line["status"], line["cache"], line["sent_bytes"]) == (499, "none", 0)
    assert line["duration_ms"] > 0


_RUNNING = Answer(body=record("Running"))
_BUSY = Answer(429, headers=[("Retry-After", "60")])


@pytest.mark.parametrize(
    ("answers", "ends", "status", "reason"),
    [
        pytest.param([_RUNNING], "by time", 200, "waited", id="its time is over"),
        pytest.param([_RUNNING], "by a record", 200, "waited", id="the execution has ended"),
        pytest.param([_RUNNING, Answer(404)], "by itself", 404, "waited", id="it is gone"),
        pytest.param([_BUSY], "by time", 429, "waited", id="throttled all the time"),
        pytest.param([_RUNNING], "by leaving", 499, "", id="the caller leaves"),
    ],
)
async def test_a_request_that_waited_says_how_long(
    aos: ScriptedAos, lines: list[dict[str, Any]], answers: list[Answer], ends: str, status: int, reason: str
) -> None:
    aos.queue(*answers)
    aos.answer(answers[-1])
    prefer = ("Prefer", f"wait={1 if ends == 'by time' else 20}")
    async with running(aos.url, wait__interval_s=0.1, wait__max_interval_s=0.1) as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes("GET", TARGET, [("X-Auth-Token", "a"), prefer]))
            await until(lambda: aos.count() >= len(answers), "the first looks")
            if ends == "by a record":
                aos.answer(Answer(body=record()))
            if ends != "by leaving":
                assert (await client.read_response()).status == status
        await until(lambda: len(lines) == 1, "its line")
        metrics = gateway.app.metrics
        # Slow is what took longer than its caller wanted.
        assert metrics.request_s["miss",].total_s < 0.5
    [line] = lines
    assert (line["status"], line["reason"]) == (status, reason)
    assert 0 < line["waited_ms"] <= line["duration_ms"]
    assert ends != "by time" or 900 < line["waited_ms"] < 5000


async def test_a_request_that_did_not_wait_says_nothing_of_it(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.queue(Answer(body=record("Running")), Answer(body=record()))
    prefer = [("Prefer", "wait=5")]
    async with running(aos.url) as gateway:
        await fetch(gateway.address, TARGET, token="a")
        await fetch(gateway.address, TARGET, token="a")
        # It has ended: there is nothing to wait for.
        await fetch(gateway.address, TARGET, token="a", headers=prefer)
    async with running(aos.url, wait__max_s=0) as gateway:
        aos.answer(Answer(body=record("Running")))
        await fetch(gateway.address, TARGET, token="a", headers=prefer)
    assert len(lines) == 4
    assert not any("waited_ms" in line for line in lines)


async def test_a_hit_in_redis_has_its_duration(
    aos: ScriptedAos, redis: RedisServer, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with running(aos.url, redis__url=redis.url, cache__memory_bytes=0) as gateway:

        async def hit() -> bool:
            answer = await fetch(gateway.address, TARGET, token="a")
            return b"; hit" in answer.all("Cache-Status")[-1]

        await until(hit, "a hit")
        assert sum(gateway.app.metrics.request_s["hit",].counts) == 1
    assert lines[-1]["cache"] == "hit"
    assert lines[-1]["duration_ms"] > 0


async def test_reasons_routes_and_streamed_bytes_are_logged_and_no_query(
    aos: ScriptedAos, lines: list[dict[str, Any]]
) -> None:
    aos.answer(Answer(body=b"x" * 200_000))
    async with running(aos.url) as gateway:
        for target in (f"/v2/stacks/{STACK_ID}?token=sesame", "/v2/templates", f"{TARGET}?a=sesame"):
            await fetch(gateway.address, target, token="sesame")
        await fetch(gateway.address, "/v2/x", headers=[("Expect", "sesame")])
    assert [line["route"] for line in lines] == ["stack", "other", "execution", "other"]
    assert [line["reason"] for line in lines] == ["route", "route", "query", ""]
    assert [line["cache"] for line in lines] == ["bypass", "bypass", "bypass", "none"]
    assert all(line["sent_bytes"] > 200_000 for line in lines[:3])
    assert lines[3]["status"] == 417
    assert "sesame" not in json.dumps(lines)


async def test_a_sample_leaves_out_hits_alone(
    aos: ScriptedAos, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with running(aos.url, log__sample=0.0) as gateway:
        for _ in range(3):
            await fetch(gateway.address, TARGET, token="a")
        await fetch(gateway.address, TARGET, token="a", headers=[("Cache-Control", "no-cache")])
    assert [line["cache"] for line in lines] == ["miss", "miss"]


async def test_debug_lines_tell_decisions_fills_invalidations_and_connections(
    aos: ScriptedAos, caplog: pytest.LogCaptureFixture, lane: str
) -> None:
    aos.queue(Answer(body=record("Running")), Answer(body=record()), Answer(202))
    caplog.set_level("DEBUG", "gateway")
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        for method, target, *more in (
            ("GET", TARGET),
            ("GET", TARGET, ("X-Request-Id", "r-2")),
            ("GET", TARGET, ("Cache-Control", "max-age=60")),
            ("DELETE", f"/v2/stacks/{STACK_ID}"),
        ):
            await client.request(method, target, [("X-Auth-Token", "sesame"), *more])
    reported = [
        re.sub(r"\d+ (?=s$|are)", "N ", one.getMessage())
        for one in caplog.records
        if one.name in {"gateway.cache.cache", "gateway.downstream.connection", "gateway.upstream.upstream"}
    ]
    assert reported == [
        "connection from 127.0.0.1, N are open",
        "no entry to serve: none is stored",
        "opened a connection to the upstream, N are in use",
        "fetched: 200, phase Running: phase",
        "no entry to serve: none is stored",
        "fetched: 200, phase Succeeded: stored",
        "hit, fresh for another N s",
        "bypasses the cache: route",
        f"invalidates after a write: [b'{STACK_ID}']",
        "end of a connection from 127.0.0.1",
    ]
    assert [getattr(one, FIELDS)["request_id"] for one in caplog.records if "Succeeded" in one.message] == [
        "r-2"
    ]
    assert "sesame" not in caplog.text


def test_the_share_of_hits_is_drawn_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([0.1, 0.24, 0.25, 0.9])
    monkeypatch.setattr("random.random", lambda: next(numbers))
    log = AccessLog(LogConfig(sample=0.25), _DIGEST)
    hit, miss = CacheStatus(ttl_s=1), CacheStatus(Forward.URI_MISS, 200, reason=Reason.PHASE)
    assert [log.wants(200, hit) for _ in range(4)] == [True, True, False, False]
    assert log.wants(200, miss)
    assert log.wants(502, None)
    errors = AccessLog(LogConfig(access="errors"), _DIGEST)
    assert [errors.wants(status, miss) for status in (200, 399, 400)] == [False, False, True]
    assert not errors.wants_hit()
    assert not AccessLog(LogConfig(access="off"), _DIGEST).wants(500, None)


def test_a_line_is_json_or_text_as_configured_and_by_itself_text_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(formatter("auto"), TextLines)
    assert isinstance(formatter("json"), JsonLines)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(formatter("auto"), JsonLines)
    assert isinstance(formatter("text"), TextLines)


def _record(message: str, **fields: object) -> logging.LogRecord:
    one = logging.LogRecord("gateway", logging.WARNING, __file__, 1, message, (), None)
    one.created, one.msecs = 1_700_000_000.0, 7.0
    setattr(one, FIELDS, fields)
    return one


def test_both_forms_tell_the_same() -> None:
    one = _record("request", status=200, reason="", path="/x")
    assert JsonLines().format(one) == (
        '{"time":"2023-11-14T22:13:20.007Z","level":"warning","logger":"gateway","message":"request",'
        '"status":200,"reason":"","path":"/x"}'
    )
    assert TextLines().format(one) == "2023-11-14T22:13:20Z WARNING gateway request status=200 path=/x"


def test_what_a_caller_writes_cannot_look_like_another_field_or_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = _record("request", user_agent='a "b" status=200', status=404)
    assert TextLines().format(one).endswith(r' user_agent="a \"b\" status=200" status=404')
    AccessLog(LogConfig(), _DIGEST).write(
        request_id=b"r\x1b",
        peer=b"::1",
        method="GET",
        path=b"/\xff\r\n",
        status=502,
        took_s=0.0,
        received_bytes=1,
        sent_bytes=1,
        user_agent=b"a\x1b[31m\n\x80\x00",
    )
    reported = getattr(caplog.records[-1], FIELDS)
    assert (reported["request_id"], reported["path"], reported["user_agent"]) == ("r?", "/???", "a?[31m???")


def test_a_traceback_and_odd_characters_stay_on_one_line_of_json() -> None:
    one = _record("a\nb \udc80")
    try:
        raise ValueError("x")
    except ValueError as error:
        one.exc_info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(one)
    assert "\n" not in line
    reported = json.loads(line)
    assert reported["message"] == "a\nb ?"
    assert reported["exception"].startswith("Traceback")


@pytest.mark.parametrize("which", ["json", "text"])
async def test_a_process_writes_every_line_in_the_configured_form(aos: ScriptedAos, which: str) -> None:
    aos.answer(Answer(body=b"{}"))
    process = GatewayProcess("--upstream", aos.url, environ={"AOS_GATEWAY_LOG__FORMAT": which})
    try:
        await process.ready()
        await fetch(process.address, "/v2/x", token="sesame")
        assert await process.stop() == 0
        written = process.output().splitlines()
    finally:
        process.discard()
    assert any("/v2/x" in line for line in written)
    assert all(line.startswith("{") == (which == "json") for line in written), written
    if which == "json":
        assert {"serving", "draining;", "stopped"} <= {
            json.loads(line)["message"].split()[0] for line in written
        }
