"""How an exchange with AOS ends: its place and its connection are given back, and nothing stays behind."""

import asyncio
import gc
from typing import Literal

import pytest

from gateway.errors import UpstreamError
from gateway.upstream.exchange import READ_AHEAD_BYTES, Exchange
from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, never, record
from tests.testbed.client import RawClient, TruncatedResponse, request_bytes
from tests.testbed.gateway import RunningGateway, running

from .kit import ALICE, OTHER_ROUTE, get, until

_HOST = ((b"Host", b"h"),)


async def test_a_connection_whose_response_nobody_read_is_read_again(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    """Its last byte is the one at which reading pauses."""
    gate = aos.gate()

    async def answer(_: Received, conversation: Conversation) -> None:
        whole = Answer(body=bytes(READ_AHEAD_BYTES + 1)).whole()
        await conversation.send(whole[:-1])
        await gate.passed()
        await conversation.send(whole[-1:])

    aos.queue(answer)
    aos.answer(Answer(body=b"fine"))
    exchange = await gateway.app.upstream.send("GET", b"/first", _HOST, None)
    await until(lambda: exchange.reader.waiting_bytes == READ_AHEAD_BYTES)
    gate.open()
    await until(lambda: exchange.reader.is_complete)
    exchange.close()
    assert (await get(gateway, OTHER_ROUTE)).body == b"fine"
    assert aos.connections == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_no_more_is_read_than_a_slow_caller_takes(
    aos: ScriptedAos, gateway: RunningGateway, framing: Literal["length", "chunked"]
) -> None:
    pieces = [bytes([number]) * 100_003 for number in range(240)]
    aos.answer(Answer(chunks=pieces, framing=framing))
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("GET", OTHER_ROUTE))
        await client.read_head()
        (exchange,) = gateway.app.upstream._under_way
        (caller,) = gateway.app.server.connections
        await until(lambda: exchange._is_paused)
        assert caller.transport is not None
        held_bytes = exchange.reader.waiting_bytes + caller.transport.get_write_buffer_size()
        assert READ_AHEAD_BYTES < held_bytes < 1_000_000
        assert (await client.read_body()).body == b"".join(pieces)


async def test_a_connection_that_lacks_a_part_of_an_upload_is_not_used_again(aos: ScriptedAos) -> None:
    """AOS would take the next request, another caller's, for the rest of the body."""
    gate = aos.gate()
    aos.on("POST", "/", gate.before(Answer(201)), at="head")
    aos.answer(Answer(body=b"fine"))
    body = bytes(32_000_000)
    async with (
        running(aos.url, upstream__read_timeout_s=0.5) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        sending = asyncio.create_task(client.send(request_bytes("POST", "/x", body=body)))
        await gate.wait_reached()
        (exchange,) = gateway.app.upstream._under_way
        await until(lambda: exchange.work is not None and exchange.work.done())
        gate.open()
        assert (await client.read_response("POST")).status == 201
        sending.cancel()
        assert not gateway.app.upstream._idle
        assert (await get(gateway, OTHER_ROUTE)).body == b"fine"
    assert aos.connections == 2


@pytest.mark.parametrize("fast_lane", [True, False])
@pytest.mark.parametrize("comes_first", [True, False])
async def test_a_streamed_response_whose_caller_leaves_in_the_same_moment_is_closed(
    aos: ScriptedAos, fast_lane: bool, comes_first: bool
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=record(spec__objectData="x" * 500_000))))
    async with (
        running(aos.url, cache__max_body_bytes=1000, server__fast_lane=fast_lane) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("GET", TARGET, [("X-Auth-Token", ALICE)]))
        await gate.wait_reached()
        (exchange,) = gateway.app.upstream._under_way
        (caller,) = gateway.app.server.connections
        go_on = exchange.on_change
        assert go_on is not None

        def leave_and_go_on() -> None:
            assert caller.transport is not None
            caller.transport.abort()
            if exchange.reader.waiting_bytes <= 1000:
                return
            if comes_first:
                go_on()
            else:
                asyncio.get_running_loop().call_soon(go_on)

        exchange.on_change = leave_and_go_on
        gate.open()
        await until(lambda: not gateway.app.server.connections)
        await until(lambda: not gateway.app.upstream._under_way)
        assert gateway.app.upstream.slots.in_use == 0


async def test_closing_repeats_nothing(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(Answer(body=b"fine"))
    aos.answer(never)
    assert (await get(gateway, OTHER_ROUTE)).status == 200
    asked = asyncio.create_task(gateway.app.upstream.send("GET", b"/x", _HOST, None))
    await aos.wait_heads(2)
    await gateway.app.upstream.close()
    with pytest.raises(UpstreamError):
        await asyncio.wait_for(asked, 1)
    assert (len(aos.heads), aos.connections) == (2, 1)


async def test_an_upload_that_breaks_off_after_the_head_cuts_the_response(
    aos: ScriptedAos, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    aos.on("POST", "/", Answer(chunks=[b"one", b"two"], framing="chunked", body_gate=aos.gate()), at="head")
    async with await RawClient.connect(gateway.address) as client:
        head = request_bytes("POST", "/x", [("Transfer-Encoding", "chunked")])
        await client.send(head + b"3\r\nabc\r\n")
        await client.read_head("POST")
        await client.send(b"no size\r\n")
        with pytest.raises((TruncatedResponse, ConnectionError)):
            await client.read_body()
    assert not caplog.records


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (request_bytes("GET", TARGET, [("X-Auth-Token", ALICE)]), Answer(body=record("Running"))),
        (request_bytes("GET", OTHER_ROUTE), Answer(body=b"fine")),
        (request_bytes("GET", OTHER_ROUTE), Answer(chunks=[bytes(100_000)] * 10, framing="chunked")),
        (request_bytes("POST", "/x", body=b"body"), Answer(201)),
    ],
    ids=["a poll", "forwarded", "streamed", "an upload"],
)
async def test_an_exchange_that_is_over_is_gone_without_the_garbage_collector(
    aos: ScriptedAos, lane: str, sent: bytes, answer: Answer
) -> None:
    aos.answer(answer)
    async with (
        running(aos.url) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await client.send(sent)
                await client.read_response(sent.split()[0].decode())
            await until(lambda: not gateway.app.upstream._under_way)
            await asyncio.sleep(0)
            left = [each for each in gc.get_objects() if isinstance(each, Exchange)]
        finally:
            gc.enable()
        # aiohttp keeps the last response of a connection.
        assert len(left) < 2


async def test_interim_responses_say_that_the_upstream_is_at_work(aos: ScriptedAos) -> None:
    async def work(_: Received, conversation: Conversation) -> None:
        for _turn in range(4):
            await conversation.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.25)
        await conversation.answer(Answer(body=b"fine"))

    aos.answer(work)
    async with running(aos.url, upstream__read_timeout_s=0.6) as gateway:
        assert (await get(gateway, OTHER_ROUTE)).body == b"fine"
