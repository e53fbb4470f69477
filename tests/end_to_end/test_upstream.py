"""The side towards AOS: TLS, pool, deadlines, and what happens when it does not answer properly."""

import asyncio
import errno
import json
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from gateway.errors import UPSTREAM_DETAILS
from gateway.upstream.failure import connect_failure
from tests.testbed.answers import Conversation
from tests.testbed.aos import (
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    Received,
    ScriptedAos,
    close_unanswered,
    never,
    record,
    reset_unanswered,
    truncated,
)
from tests.testbed.client import RawClient, RawResponse, TruncatedResponse, request_bytes
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.tls import Authority

from .kit import OTHER_ROUTE, MovableTime, cache_status, flood, get, is_hit, running_record, settled, until

_OK = Answer(200, body=b"fine")
_ERROR_MEMBERS = {"type", "title", "status", "detail", "instance", "code", "message", "extend", "showdetail"}

# What the caller's error says.
_SAYS = {
    "connection_read_timeout": "did not answer in time",
    "connection_refused": "refused the connection",
    "connection_terminated": "closed the connection before",
    "connection_timeout": "connection to the upstream was not established in time",
    "destination_ip_unroutable": "no route to the upstream",
    "dns_error": "name could not be resolved",
    "http_protocol_error": "not well-formed HTTP",
    "http_response_incomplete": "ended before it was complete",
    "http_response_transfer_coding": "transfer coding",
    "tls_certificate_error": "certificate is not trusted",
    "tls_protocol_error": "could not agree on a TLS connection",
}


def _is_our_problem(response: RawResponse, status: int, proxy_error: str) -> None:
    assert response.status == status
    assert response.get("proxy-status") == b"aos-gateway; error=" + proxy_error.encode()
    assert response.get("content-type") == b"application/problem+json"
    assert response.get("cache-control") == b"no-store"
    found = response.json()
    assert set(found) == _ERROR_MEMBERS
    assert found["status"] == status
    assert found["code"].startswith(f"GATEWAY.{status}")
    assert len(found["code"]) == len("GATEWAY.5020001")
    assert found["message"] == found["detail"]
    assert _SAYS.get(proxy_error, "") in found["detail"]
    date = parsedate_to_datetime((response.get("date") or b"").decode())
    assert abs(date.timestamp() - time.time()) < 5
    assert (found["extend"], found["showdetail"]) == ("", False)
    request_id = response.get("x-request-id")
    assert request_id is not None
    assert request_id.decode() in found["instance"]


async def test_an_https_upstream_is_trusted_by_the_ca_file(authority: Authority) -> None:
    async with ScriptedAos(tls=authority.server_context()) as aos:
        aos.answer(settled())
        async with running(aos.url, upstream__ca_file=str(authority.ca_file)) as gateway:
            assert (await get(gateway)).body == record()
            assert is_hit(await get(gateway))
            assert (await get(gateway, OTHER_ROUTE)).status == 200
        assert aos.received[0].get("host") == aos.address.encode()
        assert aos.connections == 1


@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE])
async def test_an_upstream_of_another_authority_gets_no_request(
    authority: Authority, tmp_path: Path, target: str
) -> None:
    async with ScriptedAos(tls=Authority(tmp_path).server_context()) as aos:
        async with running(aos.url, upstream__ca_file=str(authority.ca_file)) as gateway:
            _is_our_problem(await get(gateway, target), 502, "tls_certificate_error")
        assert aos.heads == []


async def test_an_upstream_with_another_name_gets_no_request(authority: Authority) -> None:
    async with ScriptedAos(tls=authority.server_context("elsewhere.example")) as aos:
        async with running(aos.url, upstream__ca_file=str(authority.ca_file)) as gateway:
            _is_our_problem(await get(gateway), 502, "tls_certificate_error")
        assert aos.heads == []


async def test_an_upstream_that_speaks_no_tls_is_a_502() -> None:
    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with running(f"https://127.0.0.1:{port}") as gateway:
            _is_our_problem(await get(gateway), 502, "tls_protocol_error")


@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE])
async def test_a_refused_connection_is_a_502(free_port: int, target: str) -> None:
    async with running(f"http://127.0.0.1:{free_port}") as gateway:
        _is_our_problem(await get(gateway, target), 502, "connection_refused")


@pytest.mark.parametrize(
    ("url", "proxy_error"),
    [
        ("http://no-such-host.invalid", "dns_error"),
        ("http://255.255.255.255", "destination_ip_unroutable"),
    ],
)
async def test_an_upstream_that_cannot_be_found_is_a_502(url: str, proxy_error: str) -> None:
    async with running(url) as gateway:
        _is_our_problem(await get(gateway), 502, proxy_error)


@pytest.mark.parametrize(
    ("error", "status", "proxy_error"),
    [
        (OSError(errno.EMFILE, "x"), 502, "proxy_internal_error"),
        (OSError(errno.EHOSTUNREACH, "x"), 502, "destination_ip_unroutable"),
        (OSError(errno.ETIMEDOUT, "x"), 504, "connection_timeout"),
        (OSError(errno.ECONNRESET, "x"), 502, "connection_terminated"),
        (OSError("several"), 502, "destination_unavailable"),
    ],
)
def test_a_failed_connection_has_the_systems_reason(error: OSError, status: int, proxy_error: str) -> None:
    found = connect_failure(error)
    assert (found.status, found.proxy_error, found.was_sent) == (status, proxy_error, False)
    assert found.detail == UPSTREAM_DETAILS[proxy_error]


def _states(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("upstream ")]


async def test_the_log_says_once_that_the_upstream_fails_and_when_it_answers_again(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    time = MovableTime()
    async with running(f"http://127.0.0.1:{free_port}", clock=time.clock) as gateway:
        for target in (TARGET, OTHER_ROUTE, TARGET):
            await get(gateway, target)
            time.ahead_s += 100
        async with ScriptedAos(port=free_port) as aos:
            aos.queue(_OK, _OK)
            aos.answer(close_unanswered)
            for _ in range(4):
                await get(gateway, OTHER_ROUTE)
    down, up, cut = _states(caplog)
    assert down == "upstream down: connection_refused: Connection refused"
    assert re.fullmatch(r"upstream up again after 30\d\.\d s and 3 failures", up)
    assert cut == "upstream down: connection_terminated"


@pytest.mark.parametrize(
    ("names", "trusts", "reason"),
    [
        (("127.0.0.1",), False, "tls_certificate_error: unable to get local issuer certificate"),
        (
            ("elsewhere.example",),
            True,
            "tls_certificate_error: IP address mismatch, certificate is not valid for",
        ),
    ],
)
async def test_the_log_gives_the_reason_why_a_certificate_is_not_trusted(
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    names: tuple[str, ...],
    reason: str,
    *,
    trusts: bool,
) -> None:
    trusted = authority if trusts else Authority(tmp_path)
    async with (
        ScriptedAos(tls=authority.server_context(*names)) as aos,
        running(aos.url, upstream__ca_file=str(trusted.ca_file)) as gateway,
    ):
        await get(gateway)
    [line] = _states(caplog)
    assert line.startswith(f"upstream down: {reason}")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://no-such-host.invalid", "dns_error: "),
        ("https://127.0.0.1:{port}", "tls_protocol_error: "),
        ("http://127.0.0.1:{port}", "http_protocol_error"),
    ],
)
async def test_the_log_names_unknown_hosts_and_peers_that_speak_something_else(
    caplog: pytest.LogCaptureFixture, url: str, reason: str
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"sesame\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with running(url.format(port=port)) as gateway:
            await get(gateway)
    [line] = _states(caplog)
    assert line.startswith(f"upstream down: {reason}")
    assert len(line) >= len(f"upstream down: {reason}") + 5 * reason.endswith(": ")
    assert "sesame" not in line


@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE])
async def test_a_silent_upstream_is_a_504(aos: ScriptedAos, target: str) -> None:
    aos.answer(never)
    async with running(aos.url, upstream__read_timeout_s=0.2) as gateway:
        _is_our_problem(await get(gateway, target), 504, "connection_read_timeout")
    assert len(aos.heads) == 1


async def test_silence_on_a_reused_connection_is_not_asked_again(aos: ScriptedAos) -> None:
    aos.queue(_OK)
    aos.answer(never)
    async with running(aos.url, upstream__read_timeout_s=0.2) as gateway:
        await get(gateway, OTHER_ROUTE)
        assert (await get(gateway, OTHER_ROUTE)).status == 504
    assert len(aos.heads) == 2


_NO_ANSWERS: dict[str, tuple[AnyAnswer, str]] = {
    "cut": (close_unanswered, "connection_terminated"),
    "reset": (reset_unanswered, "connection_terminated"),
    "half a head": (truncated(_OK, 12), "connection_terminated"),
    "another protocol": (b"SSH-2.0-x\r\n\r\n", "http_protocol_error"),
    "an unknown coding": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\nabc",
        "http_response_transfer_coding",
    ),
}


@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE])
@pytest.mark.parametrize(("answer", "proxy_error"), _NO_ANSWERS.values(), ids=_NO_ANSWERS.keys())
async def test_no_valid_answer_is_a_502(
    aos: ScriptedAos, gateway: RunningGateway, target: str, answer: AnyAnswer, proxy_error: str
) -> None:
    aos.queue(answer)
    aos.answer(Answer(404))
    _is_our_problem(await get(gateway, target), 502, proxy_error)
    assert len(aos.heads) == 1
    # Nothing of it is left for the next request.
    assert (await get(gateway, target)).status == 404


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_truncated_record_is_a_502_and_is_not_stored(
    aos: ScriptedAos, gateway: RunningGateway, framing: str
) -> None:
    whole = Answer(body=record()) if framing == "length" else Answer(chunks=[record()], framing="chunked")
    aos.queue(truncated(whole, 500), truncated(whole, len(whole.whole()) - 1))
    aos.answer(settled())
    for _ in range(2):
        _is_our_problem(await get(gateway), 502, "http_response_incomplete")
    assert not is_hit(await get(gateway))


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_streamed_answer_that_breaks_off_is_cut(
    aos: ScriptedAos, gateway: RunningGateway, framing: str, with_reset: bool
) -> None:
    body = b"x" * 100_000
    whole = Answer(body=body) if framing == "length" else Answer(chunks=[body], framing="chunked")
    aos.answer(truncated(whole, 50_000, with_reset=with_reset))
    with pytest.raises((TruncatedResponse, ConnectionError)):
        await get(gateway, OTHER_ROUTE)


async def test_a_streamed_answer_that_stalls_is_cut(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"x", body_gate=aos.gate()))
    async with running(aos.url, upstream__read_timeout_s=0.2) as gateway:
        with pytest.raises(TruncatedResponse):
            await get(gateway, OTHER_ROUTE)


_LATE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"


@pytest.mark.parametrize("first", [_OK, Answer(chunks=[b"fine"], framing="chunked")])
async def test_bytes_right_behind_an_answer_never_become_another(
    aos: ScriptedAos, gateway: RunningGateway, first: Answer
) -> None:
    aos.queue(first.whole() + _LATE)
    aos.answer(Answer(404, body=b"own"))
    assert (await get(gateway, OTHER_ROUTE)).body == first.whole().count(b"fine") * b"fine"
    assert (await get(gateway, OTHER_ROUTE)).body == b"own"
    assert aos.connections == 2


async def test_late_bytes_on_an_idle_connection_never_become_an_answer(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    sent = asyncio.Event()

    async def talk_on(_: Received, conversation: Conversation) -> None:
        await conversation.answer(_OK)
        await gate.passed()
        await conversation.send(_LATE)
        sent.set()

    aos.queue(talk_on)
    aos.answer(Answer(404, body=b"own"))
    assert (await get(gateway, OTHER_ROUTE)).body == b"fine"
    gate.open()
    await sent.wait()
    for target in (OTHER_ROUTE, TARGET):
        assert (await get(gateway, target)).body == b"own"


async def test_a_head_with_a_body_behind_it_leaves_nothing_for_the_next(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.on("HEAD", "/", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")
    aos.answer(Answer(404, body=b"own"))
    await get(gateway, OTHER_ROUTE, method="HEAD")
    assert (await get(gateway, OTHER_ROUTE)).body == b"own"


async def test_an_error_said_while_idle_never_becomes_an_answer(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    async def time_out(_: Received, conversation: Conversation) -> None:
        await conversation.answer(_OK)
        await conversation.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        conversation.close()

    aos.queue(time_out)
    aos.answer(_OK)
    for _ in range(2):
        assert (await get(gateway, OTHER_ROUTE)).status == 200


@pytest.mark.parametrize("cut", [close_unanswered, reset_unanswered])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_get_on_a_stale_connection_is_sent_once_more(
    aos: ScriptedAos, gateway: RunningGateway, method: str, cut: AnyAnswer
) -> None:
    aos.queue(_OK, cut)
    aos.answer(_OK)
    await get(gateway, OTHER_ROUTE)
    assert (await get(gateway, OTHER_ROUTE, method=method)).status == 200
    assert [received.connection for received in aos.received] == [1, 1, 2]


async def test_a_get_that_is_cut_twice_is_not_sent_a_third_time(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.queue(_OK)
    aos.answer(close_unanswered)
    await get(gateway, OTHER_ROUTE)
    assert (await get(gateway, OTHER_ROUTE)).status == 502
    assert len(aos.heads) == 3


async def test_a_get_whose_answer_had_begun_is_not_sent_again(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.queue(_OK, truncated(_OK, 5))
    await get(gateway, OTHER_ROUTE)
    assert (await get(gateway, OTHER_ROUTE)).status == 502
    assert len(aos.heads) == 2


async def test_a_get_with_a_body_is_not_sent_again(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(_OK, close_unanswered)
    await get(gateway, OTHER_ROUTE)
    assert (await get(gateway, OTHER_ROUTE, body=b"{}")).status == 502
    assert len(aos.heads) == 2


async def test_a_connection_is_used_again_until_it_is_too_old(aos: ScriptedAos) -> None:
    time = MovableTime()
    aos.answer(_OK)
    async with running(aos.url, clock=time.clock, upstream__connection_max_age_s=60) as gateway:
        for ahead_s in (0, 50, 61, 100):
            time.ahead_s = ahead_s
            await get(gateway, OTHER_ROUTE)
    assert [received.connection for received in aos.received] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(chunks=[b"a", b"b"], framing="chunked"),
        Answer(204),
        Answer(404, body=b"x"),
        running_record(),
        Answer(chunks=[b"a"], framing="chunked", trailers=[("X-Sum", "1")]),
    ],
)
async def test_a_connection_is_used_again_after_any_complete_answer(
    aos: ScriptedAos, gateway: RunningGateway, answer: Answer
) -> None:
    aos.answer(answer)
    for target in (OTHER_ROUTE, TARGET) * 2:
        await get(gateway, target)
    await get(gateway, OTHER_ROUTE, method="POST", body=b"x")
    assert aos.connections == 1


async def test_trailers_do_not_become_fields(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(Answer(chunks=[b"a"], framing="chunked", trailers=[("X-Sum", "1"), ("Set-Cookie", "a=1")]))
    aos.answer(_OK)
    for _ in range(2):
        answer = await get(gateway, OTHER_ROUTE)
        assert answer.get("x-sum") is answer.get("set-cookie") is None


async def test_a_connection_that_says_close_is_not_used_again(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(headers=[("Connection", "close")], body=b"x"))
    for _ in range(3):
        answer = await get(gateway, OTHER_ROUTE)
        assert (answer.status, answer.get("connection")) == (200, None)
    assert aos.connections == 3


async def test_requests_beyond_pool_and_queue_are_refused_and_the_queue_is_served(
    aos: ScriptedAos,
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(_OK))
    async with running(aos.url, upstream__max_connections=2, upstream__max_waiting=1) as gateway:
        asked = [asyncio.create_task(get(gateway, f"/x/{number}")) for number in range(3)]
        await gate.wait_reached(2)
        await until(lambda: gateway.app.upstream.slots.waiting == 1)
        refused = await get(gateway, OTHER_ROUTE)
        _is_our_problem(refused, 503, "connection_limit_reached")
        assert refused.get("retry-after") == b"1"
        gate.open()
        assert [response.status for response in await asyncio.gather(*asked)] == [200] * 3
        assert aos.connections == 2
        assert gateway.app.upstream.slots.in_use == 0


async def test_a_request_waits_for_a_connection_no_longer_than_the_read_timeout(aos: ScriptedAos) -> None:
    is_over = asyncio.Event()

    async def drip(_: Received, conversation: Conversation) -> None:
        """Hold the one connection for longer than the read timeout, never silent for as long."""
        sent = 0
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        while not is_over.is_set() and sent < 500:
            await conversation.send(b"x")
            sent += 1
            await asyncio.sleep(0.02)
        await conversation.send(b"x" * (500 - sent))

    aos.answer(drip)
    async with running(aos.url, upstream__max_connections=1, upstream__read_timeout_s=0.3) as gateway:
        first = asyncio.create_task(get(gateway, OTHER_ROUTE))
        await aos.wait_received(1)
        assert (await get(gateway, "/waits")).status == 503
        is_over.set()
        assert (await first).body == b"x" * 500
        assert gateway.app.upstream.slots.waiting == 0


async def test_a_caller_who_leaves_a_stream_frees_its_connection(aos: ScriptedAos) -> None:
    aos.answer(flood)
    async with running(aos.url, upstream__max_connections=1) as gateway:
        client = await RawClient.connect(gateway.address)
        await client.send(request_bytes("GET", OTHER_ROUTE))
        await client.read_head()
        client.abort()
        await aos.wait_until(lambda: aos.open_connections == 0, "the gateway to let go")
        aos.answer(_OK)
        assert (await get(gateway, OTHER_ROUTE)).status == 200


@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE, f"/v2/stacks/{STACK_ID}/actions/x?y"])
async def test_a_gateways_own_error_has_a_cache_status(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.answer(close_unanswered)
    found = cache_status(await get(gateway, target))
    assert found in {
        "aos-gateway; fwd=uri-miss",
        "aos-gateway; fwd=bypass; detail=route",
        "aos-gateway; fwd=bypass; detail=query",
    }


async def test_an_error_names_the_request_by_the_callers_own_id(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(close_unanswered)
    answer = await get(gateway, TARGET, ("X-Request-Id", "mine-1"))
    assert answer.get("x-request-id") == b"mine-1"
    assert json.loads(answer.body)["instance"] == "urn:aos-gateway:request:mine-1"
