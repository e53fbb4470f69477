"""What the log tells of a request, in which form, and of which ones."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access_log import AccessLog
from gateway.core.status import Forward, Reason, Verdict
from gateway.log_lines import FIELDS, JsonLines, TextLines, formatter
from tests.store.kit import until
from tests.support.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.support.client import RawClient, fetch, request_bytes
from tests.support.gateway import GatewayProcess, running
from tests.support.redis_server import RedisServer

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
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


async def test_a_line_tells_who_what_how_and_how_long(
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
    assert 0 < first["upstream_ms"] <= first["took_ms"]
    assert first["sent_bytes"] > len(miss.body)
    assert (second["trace_id"], second["cache"], second["upstream_ms"]) == (_TRACE, "hit", None)
    assert second["sent_bytes"] > len(hit.body)
    assert "sesame" not in json.dumps(lines)


async def test_a_caller_who_leaves_before_the_answer_has_a_line_and_is_counted(
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
        await until(lambda: gateway.app.metrics.unanswered == 1, "the caller to be missed")
        gate.open()
    [line] = lines
    assert (line["request_id"], line["path"]) == ("r", TARGET)
    assert (line["status"], line["cache"], line["sent_bytes"]) == (499, "none", 0)
    assert line["took_ms"] > 0


async def test_a_hit_in_redis_tells_how_long_it_took(
    aos: ScriptedAos, redis: RedisServer, lines: list[dict[str, Any]], lane: str
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with running(aos.url, redis__url=redis.url, cache__memory_bytes=0) as gateway:

        async def hit() -> bool:
            answer = await fetch(gateway.address, TARGET, token="a")
            return b"; hit" in answer.all("Cache-Status")[-1]

        await until(hit, "a hit")
        assert sum(gateway.app.metrics.request_s["hit"].counts) == 1
    assert lines[-1]["cache"] == "hit"
    assert lines[-1]["took_ms"] > 0


async def test_reasons_routes_and_streamed_bytes_are_told_and_no_query(
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


def test_the_share_of_hits_is_drawn_by_lot() -> None:
    numbers = iter([0.1, 0.24, 0.25, 0.9])
    log = AccessLog("all", 0.25, lambda: next(numbers))
    hit, miss = Verdict(ttl_s=1), Verdict(Forward.URI_MISS, 200, reason=Reason.PHASE)
    assert [log.wants(200, hit) for _ in range(4)] == [True, True, False, False]
    assert log.wants(200, miss)
    assert log.wants(502, None)
    errors = AccessLog("errors")
    assert [errors.wants(status, miss) for status in (200, 399, 400)] == [False, False, True]
    assert not errors.wants_hit()
    assert not AccessLog("off").wants(500, None)


def test_a_line_is_json_or_text_as_configured_and_by_itself_text_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(formatter("auto", Terminal()), TextLines)
    assert isinstance(formatter("auto", io.StringIO()), JsonLines)
    assert isinstance(formatter("json", Terminal()), JsonLines)
    assert isinstance(formatter("text", io.StringIO()), TextLines)


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


def test_a_traceback_and_odd_characters_stay_on_one_line_of_json() -> None:
    one = _record("a\nb \udc80")
    try:
        raise ValueError("x")
    except ValueError as error:
        one.exc_info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(one)
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "a\nb ?"
    assert told["exception"].startswith("Traceback")


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
