"""The real Redis of the tests."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.testbed.redis_server import RedisReplyError, RedisServer
from tests.testbed.resp import UnfinishedReply, decode, encode


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


async def test_it_listens_on_a_unix_socket_and_cleans_up() -> None:
    with RedisServer(unix=True) as server:
        path = Path(server.address.removeprefix("unix:"))
        assert await server.command("PING") == "PONG"
        assert server.url == f"unix://{path}"
        pid = server.pid
    assert not path.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


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
