"""Invalidations that Redis refuses: logged once, sent again less and less often, delaying no others."""

import asyncio
import time

import pytest

from gateway.core.caching.key import KeySpace
from tests.store.conftest import Replicas
from tests.store.kit import FOLDED, UPSTREAM, Replica, until
from tests.testbed.redis_server import RedisServer

# In this time a refused invalidation is sent again after 0.5 and 1 s.
TRIES_S = 1.7


async def invalidate(one: Replica, *stacks: bytes) -> bool:
    return await one.tiers.invalidate(stacks, "write", settles=True)


def lines_about(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


@pytest.mark.parametrize(
    ("refuses", "allows", "messages"),
    [("-del", "+del", 3), ("-publish", "+publish", 0)],
    ids=["no right to DEL", "no right to PUBLISH"],
)
async def test_a_refused_invalidation_is_logged_and_published_once_and_confirmed_when_allowed(
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
        assert not await invalidate(one, stack)
    await asyncio.sleep(TRIES_S)
    assert len(other.detached) == messages
    assert one.pending == 3
    [line] = lines_about(caplog, "redis invalidate")
    assert "NOPERM" in line
    assert refuses[1:] in line
    await own_redis.command("ACL", "SETUSER", "default", allows)
    await one.confirmed(8.0)
    await until(lambda: sorted(other.detached) == [b"s", b"t", b"u"], "each to be received once")
    assert "up again" in lines_about(caplog, "redis invalidate")[1]


async def test_a_refused_invalidation_delays_no_other(replicas: Replicas, own_redis: RedisServer) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    allowed = KeySpace(own_redis.prefix, UPSTREAM).generation(b"allowed")
    await own_redis.command("ACL", "SETUSER", "default", "resetkeys", b"~" + allowed)
    for number in range(200):
        assert not await invalidate(one, b"refused-%d" % number)
    assert await invalidate(one, b"allowed")
    assert not one.invalidations.is_pending(b"allowed")
    assert one.pending == 200


@pytest.mark.parametrize("trouble", ["no right to DEL", "read-only", "password"])
async def test_closing_does_not_wait_for_refused_invalidations(
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
    assert not await invalidate(one, FOLDED)
    began_s = time.monotonic()
    await one.tiers.close(20.0)
    assert time.monotonic() - began_s < 8


async def test_repeating_very_many_invalidations_leaves_other_stacks_alone(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    now_s = one.times.clock.monotonic_s()
    for number in range(5000):
        one.invalidations.invalidated_elsewhere(b"s-%d" % number, now_s, 0.0, settles=True)
    await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def is_repeating() -> bool:
        found = await one.tiers.lookup(key)
        return not found.has_failed and one.pending > 1000

    await until(is_repeating, "a new connection")
    assert await one.found(key) is not None
    assert not await invalidate(one, b"s-4999") or one.pending > 0
    await one.confirmed(10.0)
    assert await one.found(key) is not None
