"""Stopping: what is under way may end, and what may not is cut and counted."""

import asyncio

import pytest

from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, never, record
from tests.testbed.client import RawClient, TruncatedResponse, request_bytes
from tests.testbed.gateway import StartGateway, running
from tests.testbed.redis_server import RedisServer

from .kit import ALICE, OTHER_ROUTE, get, is_hit, settled

_TOKEN = ("X-Auth-Token", ALICE)
_GET = request_bytes("GET", TARGET, [_TOKEN])


async def test_a_drain_lets_a_request_end_and_refuses_new_ones(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    async with (
        running(aos.url) as gateway,
        await RawClient.connect(gateway.address) as idle,
        await RawClient.connect(gateway.address) as busy,
    ):
        await busy.send(_GET)
        await gate.wait_reached()
        closing = asyncio.create_task(gateway.app.close(5))
        assert await idle.at_eof()
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(gateway.address)
        gate.open()
        answer = await busy.read_response()
        assert (answer.status, answer.get("connection")) == (200, b"close")
        assert await busy.at_eof()
        await closing


async def test_a_drain_lets_an_upload_and_a_stream_end(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.on("POST", "/", Answer(201, body=b"made"))
    aos.on("GET", "/", Answer(chunks=[b"one", b"two"], framing="chunked", body_gate=gate))
    async with (
        running(aos.url) as gateway,
        await RawClient.connect(gateway.address) as uploads,
        await RawClient.connect(gateway.address) as downloads,
    ):
        await uploads.send(request_bytes("POST", "/x", [("Content-Length", "6")]) + b"one")
        await downloads.send(request_bytes("GET", OTHER_ROUTE))
        await downloads.read_head()
        await aos.wait_heads(2)
        async with await RawClient.connect(gateway.address) as idle:
            closing = asyncio.create_task(gateway.app.close(5))
            # From here on the drain has begun.
            assert await idle.at_eof()
        await uploads.send(b"two")
        assert (await uploads.read_response("POST")).status == 201
        gate.open()
        assert (await downloads.read_body()).body == b"onetwo"
        await closing
    assert aos.received[-1].body == b"onetwo" or aos.received[0].body == b"onetwo"


async def test_what_outlasts_the_drain_is_cut(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"x", body_gate=aos.gate()))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("GET", OTHER_ROUTE))
        await client.read_head()
        async with asyncio.timeout(3):
            await gateway.app.close(0.1)
        with pytest.raises(TruncatedResponse):
            await client.read_body()
        assert gateway.app.upstream.slots.in_use == 0


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_write_that_outlasts_the_drain_invalidates(
    aos: ScriptedAos, redis: RedisServer, leaves: bool
) -> None:
    aos.on("GET", "/", settled())
    aos.on("DELETE", "/", never)
    async with running(aos.url, redis__url=redis.url, redis__prefix=redis.prefix) as gateway:
        await get(gateway)
        async with await RawClient.connect(gateway.address) as client:
            await client.send(request_bytes("DELETE", f"/v2/stacks/{STACK_ID}"))
            await aos.wait_received(2)
            if leaves:
                await client.close()
            async with asyncio.timeout(3):
                await gateway.app.close(0.1)
    async with running(aos.url, redis__url=redis.url, redis__prefix=redis.prefix) as restarted:
        assert not is_hit(await get(restarted))


async def test_sigterm_lets_a_request_end_and_exits_0(aos: ScriptedAos, start_gateway: StartGateway) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    process = await start_gateway()
    async with (
        await RawClient.connect(process.address) as busy,
        await RawClient.connect(process.address) as idle,
    ):
        await busy.send(_GET)
        await gate.wait_reached()
        stopping = asyncio.create_task(process.stop())
        assert await idle.at_eof(5)
        gate.open()
        assert (await busy.read_response()).body == record()
        assert await stopping == 0
    assert "Traceback" not in process.output()
