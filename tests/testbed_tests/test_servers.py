"""The Redis server of the tests, and the proxy that makes faults."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.testbed.address import free_port
from tests.testbed.answers import Gate
from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, TruncatedResponse, fetch
from tests.testbed.faultproxy import CUT, HALF_OPEN, PASS, RESET, STALL, FaultProxy, Kind, Mode, Way
from tests.testbed.redis_server import RedisReplyError, RedisServer
from tests.testbed.resp import UnfinishedReply, decode, encode
from tests.testbed.wire import ConnectionCut


async def test_a_clean_redis_is_empty_and_has_a_prefix_of_its_own(redis: RedisServer) -> None:
    before = redis.prefix
    await redis.command("SET", f"{before}:k", b"\x00\xff")
    redis.flush()
    assert redis.prefix != before
    assert await redis.keys() == []


async def test_replies_are_decoded_whatever_their_type(redis: RedisServer) -> None:
    assert await redis.command("SET", "k", b"\r\n\x00") == "OK"
    assert await redis.command("GET", "k") == b"\r\n\x00"
    assert await redis.command("GET", "absent") is None
    assert await redis.command("INCR", "n") == 1
    assert await redis.command("MGET", "k", "absent", "n") == [b"\r\n\x00", None, b"1"]
    with pytest.raises(RedisReplyError, match="wrong number"):
        await redis.command("GET")
    assert await redis.contents() == {b"k": b"\r\n\x00", b"n": b"1"}
    assert redis.command_now("DEL", "k", "n") == 2


async def test_the_second_target_is_a_real_valkey(valkey: RedisServer) -> None:
    info = await valkey.command("INFO", "server")
    assert isinstance(info, bytes)
    assert b"valkey_version" in info


async def test_commands_are_counted(redis: RedisServer) -> None:
    await redis.command("CONFIG", "RESETSTAT")
    await redis.command("GET", "a")
    await redis.command("GET", "b")
    assert (await redis.commands_run())["get"] == 2


async def test_a_killed_redis_comes_back_empty_at_the_same_address(own_redis: RedisServer) -> None:
    await own_redis.command("SET", "k", "v")
    address, pid = own_redis.address, own_redis.pid
    own_redis.kill()
    assert not own_redis.is_running
    with pytest.raises(ConnectionRefusedError):
        await own_redis.command("PING")
    await own_redis.restart()
    assert own_redis.address == address
    assert own_redis.pid != pid
    assert await own_redis.keys() == []


async def test_a_paused_redis_is_silent_until_it_resumes(own_redis: RedisServer) -> None:
    own_redis.pause()
    waiting = asyncio.ensure_future(own_redis.command("PING"))
    with pytest.raises(TimeoutError):
        await own_redis.command("PING", timeout_s=0.05)
    assert not waiting.done()
    own_redis.resume()
    assert await waiting == "PONG"
    own_redis.pause()  # and a paused one can be stopped, which the fixture does


async def test_a_full_redis_refuses_to_set_and_still_deletes() -> None:
    with RedisServer(maxmemory="1mb") as server:
        with pytest.raises(RedisReplyError, match="OOM"):
            await server.command("SET", "k", b"x" * 2_000_000)
        assert await server.command("DEL", "k") == 0
        assert await server.command("PUBLISH", "c", "m") == 0


async def test_a_password_is_asked_for_and_stands_in_the_url() -> None:
    with RedisServer(password="pass-word", settings={"databases": "2"}) as server:
        assert await server.command("PING") == "PONG"
        assert server.url == f"redis://:pass-word@{server.address}/0"
        server.password = None
        with pytest.raises(RedisReplyError, match="NOAUTH"):
            await server.command("PING")


def test_a_redis_that_can_not_start_says_why() -> None:
    server = RedisServer(settings={"maxmemory": "nonsense"})
    with pytest.raises(RuntimeError, match="maxmemory"):
        server.start()
    server.stop()


def test_half_a_reply_is_unfinished() -> None:
    whole = b"*2\r\n$1\r\na\r\n:7\r\n"
    assert decode(whole) == ([b"a", 7], len(whole))
    for end in range(len(whole)):
        with pytest.raises(UnfinishedReply):
            decode(whole[:end])
    assert encode("SET", b"\xff", 1) == b"*3\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$1\r\n1\r\n"


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
