"""Callers who are slow, silent, too many, or leave."""

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import STACK_ID, TARGET, Answer, Received, ScriptedAos, never, record
from tests.testbed.client import RawClient, request_bytes
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.response import assert_refused

_TOKEN = ("X-Auth-Token", "alice")
_GET = request_bytes("GET", TARGET, [_TOKEN])
_DEADLINE_S = 0.2
_STEP_S = 0.02


async def _until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # there is no event to wait for
            await asyncio.sleep(_STEP_S)


async def _drip(client: RawClient, data: bytes) -> None:
    """Send data a byte at a time until all is sent or the gateway has had enough."""
    for byte in data:
        try:
            await client.send(bytes([byte]))
        except ConnectionError:
            return
        await asyncio.sleep(_STEP_S)


@pytest.mark.parametrize(
    "before", [b"", b"\r\n", b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"]
)
async def test_a_head_that_drips_is_answered_with_408_however_steadily_it_comes(
    aos: ScriptedAos, before: bytes
) -> None:
    aos.answer(Answer())
    async with (
        running(aos.url, server__header_timeout_s=_DEADLINE_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        if before.strip():
            await client.send(before)
            assert (await client.read_response("POST")).status == 200
        started_s = time.monotonic()
        dripping = asyncio.create_task(_drip(client, b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 500))
        assert_refused(await client.read_response(), 408)
        assert await client.at_eof(2)
        assert time.monotonic() - started_s < 3 * _DEADLINE_S
        dripping.cancel()
    assert len(aos.heads) == bool(before.strip())


async def test_a_slow_head_behind_a_request_is_refused_after_its_answer(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=b"first")))
    async with (
        running(aos.url, server__header_timeout_s=_DEADLINE_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("GET", "/x") + b"GET / HT")
        await gate.wait_reached()
        await asyncio.sleep(2 * _DEADLINE_S)
        gate.open()
        assert (await client.read_response()).body == b"first"
        assert_refused(await client.read_response(), 408)
        assert await client.at_eof(2)


@pytest.mark.parametrize("begins", [b"", b"\r\n\r\n"])
async def test_a_new_connection_that_asks_nothing_is_closed(aos: ScriptedAos, begins: bytes) -> None:
    async with (
        running(aos.url, server__header_timeout_s=_DEADLINE_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(begins)
        if begins:
            assert_refused(await client.read_response(), 408)
        assert await client.at_eof(3 * _DEADLINE_S)


async def test_blank_lines_do_not_keep_an_idle_connection_open(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    async with (
        running(aos.url, server__keepalive_timeout_s=_DEADLINE_S, server__header_timeout_s=1) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("GET", "/x"))
        assert (await client.read_response()).status == 200
        dripping = asyncio.create_task(_drip(client, b"\r\n" * 500))
        started_s = time.monotonic()
        assert await client.at_eof(3) or (await client.read_response()).status == 408
        assert time.monotonic() - started_s < 2
        dripping.cancel()


@pytest.mark.parametrize("framing", [("Content-Length", "100"), ("Transfer-Encoding", "chunked")])
async def test_a_body_that_stalls_is_answered_with_408_and_cut_upstream(
    aos: ScriptedAos, framing: tuple[str, str]
) -> None:
    aos.answer(Answer())
    async with (
        running(aos.url, server__body_timeout_s=_DEADLINE_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("PUT", f"/v2/stacks/{STACK_ID}", [framing]) + b"5\r\nab")
        assert_refused(await client.read_response("PUT"), 408)
        assert await client.at_eof(2)
        await aos.wait_until(lambda: bool(aos.cut), "the upstream to see the cut")
        assert aos.received == []
        assert gateway.app.upstream.slots.in_use == 0


async def test_a_body_that_is_slow_but_steady_arrives(aos: ScriptedAos) -> None:
    aos.answer(Answer(201))
    async with (
        running(aos.url, server__body_timeout_s=_DEADLINE_S, server__header_timeout_s=_DEADLINE_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("POST", "/x", [("Content-Length", "20")]))
        await _drip(client, b"a" * 20)
        assert (await client.read_response("POST")).status == 201
    assert aos.received[0].body == b"a" * 20


async def test_a_caller_who_reads_nothing_of_many_hits_is_cut(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record(padding="x" * 500_000)))
    async with running(aos.url, server__body_timeout_s=_DEADLINE_S) as gateway:
        client = await RawClient.connect(gateway.address)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(_GET * 50)
        await _until(lambda: not gateway.app.server.connections)
        client.abort()
        assert aos.count() == 1


async def test_a_caller_who_leaves_the_rest_of_an_answer_is_not_waited_for_when_idle(
    aos: ScriptedAos,
) -> None:
    aos.answer(Answer(body=record(padding="x" * 50_000)))
    async with running(
        aos.url, server__body_timeout_s=_DEADLINE_S, server__keepalive_timeout_s=_DEADLINE_S
    ) as gateway:
        client = await RawClient.connect(gateway.address)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(_GET)
        await _until(lambda: bool(gateway.app.server.connections))
        (connection,) = gateway.app.server.connections
        while connection.transport is not None and not connection.transport.get_write_buffer_size():
            await client.send(_GET)
            await asyncio.sleep(0.002)
        assert not connection.writing_paused
        await _until(lambda: not gateway.app.server.connections)
        client.abort()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_read_whose_caller_leaves_before_the_answer_stops_upstream(
    aos: ScriptedAos, method: str
) -> None:
    aos.answer(never)
    async with running(aos.url) as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes(method, "/x"))
            await aos.wait_received(1)
        await aos.wait_until(lambda: aos.open_connections == 0, "the gateway to let go")
        assert gateway.app.upstream.slots.in_use == 0


async def test_a_silent_stream_whose_caller_leaves_stops_upstream(aos: ScriptedAos) -> None:
    async def begin(_: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await conversation.wait_closed(20)

    aos.answer(begin)
    async with running(aos.url) as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes("GET", "/x"))
            await client.read_head()
        await aos.wait_until(lambda: aos.open_connections == 0, "the gateway to let go")
        assert gateway.app.upstream.slots.in_use == 0


@pytest.mark.parametrize(
    "fields", [[], [("X-HTTP-Method-Override", "DELETE")]], ids=["DELETE", "GET that overrides"]
)
async def test_a_write_whose_caller_leaves_goes_on_and_invalidates(
    aos: ScriptedAos, fields: list[tuple[str, str]]
) -> None:
    aos.answer(Answer(body=record()))
    gate = aos.gate()
    method = "GET" if fields else "DELETE"
    target = f"/v2/stacks/{STACK_ID}/x"
    aos.on(method, target, gate.before(Answer(204)))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as reader:
        for _ in range(2):
            answer = await reader.request("GET", TARGET, [_TOKEN])
        assert b"hit" in answer.all("cache-status")[-1]
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes(method, target, fields))
            await gate.wait_reached()
        await asyncio.sleep(_STEP_S)
        assert gateway.app.upstream.slots.in_use == 1
        gate.open()
        await _until(lambda: gateway.app.upstream.slots.in_use == 0)
        answer = await reader.request("GET", TARGET, [_TOKEN])
        assert b"fwd=uri-miss" in answer.all("cache-status")[-1]


async def test_a_fetch_goes_on_for_those_who_stay(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=record())))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as stays:
        async with await RawClient.connect(gateway.address) as leaves:
            await leaves.send(_GET)
            await gate.wait_reached()
            await stays.send(_GET)
            await asyncio.sleep(_STEP_S)
        await asyncio.sleep(_STEP_S)
        gate.open()
        assert (await stays.read_response()).body == record()
    assert aos.count() == 1


async def test_connections_beyond_the_bound_get_503_and_the_others_are_served(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    async with running(aos.url, server__max_connections=20) as gateway:
        held = [await RawClient.connect(gateway.address) for _ in range(20)]
        assert (await held[0].request("GET", TARGET, [_TOKEN])).status == 200
        for _ in range(30):
            async with await RawClient.connect(gateway.address) as client:
                answer = await client.read_response()
                assert_refused(answer, 503)
                assert answer.get("retry-after") == b"1"
                assert await client.at_eof()
        assert (await held[1].request("GET", TARGET, [_TOKEN])).status == 200
        for client in held:
            await client.close()


@pytest.mark.parametrize("with_body", [False, True])
async def test_very_many_pipelined_requests_are_answered_in_order(aos: ScriptedAos, with_body: bool) -> None:
    count = 300

    async def echo(received: Received, conversation: Conversation) -> None:
        await conversation.answer(Answer(body=received.target.encode() + received.body))

    aos.answer(echo)
    body = b"\r\n\r\nGET /no HTTP/1.1\r\n\r\n" if with_body else None
    method = "POST" if with_body else "GET"
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        await client.send(b"".join(request_bytes(method, f"/{number}", body=body) for number in range(count)))
        for number in range(count):
            answer = await client.read_response(method)
            assert answer.body == b"/%d" % number + (body or b"")
    assert [received.target for received in aos.received] == [f"/{number}" for number in range(count)]


async def test_what_a_pipelining_caller_makes_the_gateway_hold_is_bounded(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer()))
    async with running(aos.url) as gateway:
        client = await RawClient.connect(gateway.address)
        one = request_bytes("GET", "/x")
        client.writer.write(one * 200_000)
        await gate.wait_reached()
        await asyncio.sleep(10 * _STEP_S)
        (connection,) = gateway.app.server.connections
        assert len(connection._messages) < 100
        assert len(connection._backlog) < 1_000_000  # type: ignore[attr-defined]
        assert client.writer.transport.get_write_buffer_size() > 1_000_000
        client.abort()
        gate.open()


async def test_200_slow_callers_of_each_kind_do_not_hold_up_the_others(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(body=record()))
    slow = [await RawClient.connect(gateway.address) for _ in range(400)]
    for number, client in enumerate(slow):
        await client.send(
            b"GET /" if number % 2 else b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\na"
        )
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(50):
            assert (await client.request("GET", TARGET, [_TOKEN], timeout_s=1)).status == 200
    for client in slow:
        client.abort()
    await aos.wait_until(lambda: aos.open_connections <= 1, "the uploads to be cut")
