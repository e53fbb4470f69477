"""The fault proxy: what each mode does to connections that are open and to new ones."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.testbed.address import free_port
from tests.testbed.answers import Gate
from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, TruncatedResponse, fetch
from tests.testbed.faultproxy import CUT, HALF_OPEN, PASS, RESET, STALL, FaultProxy, Kind, Mode, Way
from tests.testbed.redis_server import RedisServer
from tests.testbed.wire import ConnectionCut

Start = Callable[[str], Awaitable[FaultProxy]]

ANSWER = Answer(body=b"0123456789")


@pytest.fixture
async def proxy(aos: ScriptedAos, fault_proxy: Start) -> FaultProxy:
    aos.answer(ANSWER)
    return await fault_proxy(aos.address)


async def test_bytes_pass_unchanged_both_ways(aos: ScriptedAos, proxy: FaultProxy) -> None:
    big = bytes(range(256)) * 4000
    aos.answer(Answer(body=big))
    response = await fetch(proxy.address, "/", method="PUT", body=big)
    assert response.body == aos.received[0].body == big
    assert bytes(proxy.recorded[Way.UP]) == aos.received[0].raw_head + big
    assert bytes(proxy.recorded[Way.DOWN]) == response.raw_head + big
    await proxy.wait_until(lambda: proxy.open_connections == 0, "the end")
    await aos.wait_until(lambda: aos.open_connections == 0, "the end behind the proxy")


async def test_a_half_close_passes(aos: ScriptedAos, proxy: FaultProxy) -> None:
    gate = aos.gate()
    aos.answer(gate.before(ANSWER))
    async with await RawClient.connect(proxy.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await gate.wait_reached()
        client.half_close()
        await aos.wait_until(lambda: aos.open_connections == 0, "the half close")
        gate.open()
        assert (await client.read_response()).body == ANSWER.body


@pytest.mark.parametrize(("mode", "is_reset"), [(CUT, False), (RESET, True)])
async def test_open_and_new_connections_end(proxy: FaultProxy, mode: Mode, is_reset: bool) -> None:
    async with await RawClient.connect(proxy.address) as client:
        await client.request("GET", "/")
        proxy.mode = mode
        assert await client.at_eof()
        assert client.was_reset is is_reset
    async with await RawClient.connect(proxy.address) as client:
        assert await client.at_eof()
    proxy.mode = PASS
    assert (await fetch(proxy.address, "/")).body == ANSWER.body


@pytest.mark.parametrize("is_reset", [False, True])
async def test_an_answer_ends_after_exactly_so_many_bytes(proxy: FaultProxy, is_reset: bool) -> None:
    kind = Kind.RESET if is_reset else Kind.CUT
    proxy.mode = Mode(kind, after_down_bytes=len(ANSWER.head()) + 3)
    with pytest.raises(TruncatedResponse) as caught:
        await fetch(proxy.address, "/")
    assert caught.value.response.body == b"012"


async def test_a_request_ends_after_exactly_so_many_bytes(aos: ScriptedAos, proxy: FaultProxy) -> None:
    proxy.mode = Mode(Kind.CUT, after_up_bytes=7)
    with pytest.raises(ConnectionCut):
        await fetch(proxy.address, "/")
    await aos.wait_until(lambda: aos.cut == [b"GET / H"], "seven bytes")


async def test_a_stall_keeps_bytes_until_it_is_over(aos: ScriptedAos, proxy: FaultProxy) -> None:
    proxy.mode = STALL
    call = asyncio.ensure_future(fetch(proxy.address, "/"))
    with pytest.raises(TimeoutError):
        await aos.wait_heads(1, timeout_s=0.05)
    proxy.mode = Mode(Kind.STALL, ways=frozenset({Way.DOWN}))
    await aos.wait_received(1)
    assert not call.done()
    proxy.mode = PASS
    assert (await call).body == ANSWER.body


async def test_a_stall_in_the_middle_keeps_the_rest(proxy: FaultProxy) -> None:
    proxy.mode = Mode(Kind.STALL, after_down_bytes=len(ANSWER.head()) + 3)
    async with await RawClient.connect(proxy.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.read_head()
        assert await client.read_some() == b"012"
        proxy.mode = PASS
        assert (await client.read_body()).body == ANSWER.body


async def test_half_open_takes_the_target_and_says_nothing(aos: ScriptedAos, proxy: FaultProxy) -> None:
    async with await RawClient.connect(proxy.address) as client:
        await client.request("GET", "/")
        proxy.mode = HALF_OPEN
        await aos.wait_until(lambda: aos.open_connections == 0, "the target's end")
        proxy.mode = PASS
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert not await client.at_eof(timeout_s=0.05)
    await proxy.wait_until(lambda: proxy.open_connections == 0, "the client's end")
    assert len(aos.received) == 1
    proxy.mode = HALF_OPEN
    async with await RawClient.connect(proxy.address) as client:
        await client.send(b"x")
        assert not await client.at_eof(timeout_s=0.05)
    assert aos.connections == 1


async def test_each_direction_can_be_delayed(aos: ScriptedAos, proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    proxy.mode = Mode(delay_up_s=0.05, delay_down_s=0.1)
    call = asyncio.ensure_future(fetch(proxy.address, "/"))
    await aos.wait_received(1)
    assert loop.time() - start_s >= 0.05
    await call
    assert loop.time() - start_s >= 0.15


async def test_a_new_mode_ends_a_delay(proxy: FaultProxy) -> None:
    proxy.mode = Mode(delay_up_s=60)
    call = asyncio.ensure_future(fetch(proxy.address, "/", timeout_s=5))
    await proxy.wait_until(lambda: proxy.connections == 1, "the connection")
    proxy.mode = PASS
    assert (await call).status == 200


async def test_a_throttle_carries_no_more_than_it_says(aos: ScriptedAos, proxy: FaultProxy) -> None:
    aos.answer(Answer(body=b"x" * 2000))
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    proxy.mode = Mode(bytes_per_s=20_000)
    assert len((await fetch(proxy.address, "/")).body) == 2000
    assert loop.time() - start_s >= 0.1


async def test_a_tap_can_hold_a_piece_at_a_gate(own_redis: RedisServer, fault_proxy: Start) -> None:
    proxy, gate = await fault_proxy(own_redis.address), Gate()

    async def tap(way: Way, piece: bytes) -> None:
        if way is Way.UP and b"PUBLISH" in piece:
            await gate.passed()

    proxy.tap = tap
    async with await RawClient.connect(proxy.address) as client:
        await client.send(b"PING\r\nPUBLISH c m\r\n")
        await gate.wait_reached()
        assert not await client.at_eof(timeout_s=0.02)
        gate.open()
        await proxy.wait_until(lambda: bytes(proxy.recorded[Way.DOWN]) == b"+PONG\r\n:0\r\n", "replies")


async def test_a_dead_target_is_a_reset(fault_proxy: Start, free_port: int) -> None:
    proxy = await fault_proxy(f"127.0.0.1:{free_port}")
    async with await RawClient.connect(proxy.address) as client:
        assert await client.at_eof()
        assert client.was_reset


async def test_closing_ends_what_is_stalled(aos: ScriptedAos) -> None:
    proxy = await FaultProxy(aos.address).start()
    proxy.mode = STALL
    async with await RawClient.connect(proxy.address) as client:
        await client.send(b"x")
        await proxy.wait_until(lambda: proxy.open_connections == 1, "the connection")
        await proxy.close()
        assert await client.at_eof()


async def test_a_closed_proxy_refuses_and_opens_again_at_the_same_address(aos: ScriptedAos) -> None:
    aos.answer(ANSWER)
    async with FaultProxy(aos.address, free_port()) as proxy:
        address = proxy.address
        assert (await fetch(address, "/")).body == ANSWER.body
        await proxy.close()
        with pytest.raises(ConnectionRefusedError):
            await fetch(address, "/")
        await proxy.start()
        assert proxy.address == address
        assert (await fetch(address, "/")).body == ANSWER.body
