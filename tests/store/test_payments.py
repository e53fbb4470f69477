"""What is owed and refused: said once, tried again less and less, in nobody's way."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.core.caching.key import KeySpace
from tests.store.conftest import Replicas
from tests.store.kit import FOLDED, UPSTREAM, Replica, until
from tests.testbed.redis_server import RedisServer

# Three tries of what is refused: after 0.5, 1 and 2 s.
TRIES_S = 1.7


async def forget(one: Replica, *stacks: bytes) -> bool:
    return await one.tiers.forget(stacks, "write", settles=True)


def lines_about(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


@pytest.mark.parametrize(
    ("refuses", "allows", "messages"),
    [("-del", "+del", 3), ("-publish", "+publish", 0)],
    ids=["no right to DEL", "no right to PUBLISH"],
)
async def test_a_refused_forget_is_said_once_and_published_once_and_paid_when_it_may_be(
    replicas: Replicas,
    own_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
    refuses: str,
    allows: str,
    messages: int,
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    other = await replicas(own_redis.url, own_redis.prefix)
    await own_redis.command("ACL", "SETUSER", "default", refuses)
    for stack in (b"s", b"t", b"u"):
        assert not await forget(one, stack)
    await asyncio.sleep(TRIES_S)
    assert len(other.detached) == messages
    assert one.tiers.invalidations.owed == 3
    [line] = lines_about(caplog, "redis forget")
    assert "NOPERM" in line
    assert refuses[1:] in line
    await own_redis.command("ACL", "SETUSER", "default", allows)
    await one.paid(8.0)
    await until(lambda: sorted(other.detached) == [b"s", b"t", b"u"], "each to be told once")
    assert "up again" in lines_about(caplog, "redis forget")[1]


async def test_what_is_refused_holds_up_no_other_forget(replicas: Replicas, own_redis: RedisServer) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    allowed = KeySpace(own_redis.prefix, UPSTREAM).generation(b"allowed")
    await own_redis.command("ACL", "SETUSER", "default", "resetkeys", b"~" + allowed)
    for number in range(200):
        assert not await forget(one, b"refused-%d" % number)
    assert await forget(one, b"allowed")
    assert not one.tiers.invalidations.owes(b"allowed")
    assert one.tiers.invalidations.owed == 200


@pytest.mark.parametrize("trouble", ["no right to DEL", "read-only", "password"])
async def test_a_stop_does_not_wait_for_what_is_refused(
    replicas: Replicas, own_redis: RedisServer, trouble: str
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    match trouble:
        case "no right to DEL":
            await own_redis.command("ACL", "SETUSER", "default", "-del")
        case "read-only":
            await own_redis.command("REPLICAOF", "127.0.0.1", "1")
        case _:
            await own_redis.command("CONFIG", "SET", "requirepass", "sesame")
            own_redis.password = "sesame"
            await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert not await forget(one, FOLDED)
    began_s = time.monotonic()
    await one.tiers.close(20.0)
    assert time.monotonic() - began_s < 8


async def test_a_repeat_of_very_many_forgets_leaves_other_stacks_alone(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    now_s = one.times.clock.monotonic_s()
    for number in range(5000):
        one.tiers.invalidations.note(b"s-%d" % number, now_s, 0.0, settles=True)
    await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def is_repeating() -> bool:
        found = await one.tiers.lookup(key)
        return not found.has_failed and one.tiers.invalidations.owed > 1000

    await until(is_repeating, "a new connection")
    assert await one.found(key) is not None
    assert not await forget(one, b"s-4999") or one.tiers.invalidations.owed > 0
    await one.paid(10.0)
    assert await one.found(key) is not None
