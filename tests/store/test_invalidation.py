"""Two gateways on one Redis: an invalidation through one leaves nothing usable in the other."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.invalidation_message import InvalidationMessage
from gateway.core.caching.key import KeySpace
from tests.store.conftest import Replicas
from tests.store.kit import FOLDED, STACK, UPSTREAM, Replica, until
from tests.testbed.faultproxy import CUT, PASS, STALL, FaultProxy
from tests.testbed.redis_server import RedisServer

Proxies = Callable[[str], Awaitable[FaultProxy]]
OLD, NEW = b'{"old": 1}', b'{"new": 1}'


@pytest.fixture
async def pair(replicas: Replicas, redis: RedisServer) -> tuple[Replica, Replica]:
    return await replicas(redis.url, redis.prefix), await replicas(redis.url, redis.prefix)


async def invalidate(one: Replica, *, stack: bytes = FOLDED, settles: bool = True) -> None:
    assert await one.tiers.invalidate([stack], "write" if settles else "purge", settles=settles)


async def received(one: Replica, stack: bytes = FOLDED) -> None:
    await until(lambda: stack in one.detached, "the message", 1.0)


# What the other one held


async def test_an_invalidation_through_one_empties_the_memory_of_the_other_within_a_second(
    pair: tuple[Replica, Replica],
) -> None:
    one, other = pair
    await one.fill(one.key())
    await other.found(other.key())
    assert other.in_memory(other.key())
    started_s = time.monotonic()
    await invalidate(one)
    await received(other)
    assert time.monotonic() - started_s < 1
    assert not other.in_memory(other.key())
    assert [await replica.found(replica.key()) for replica in pair] == [None, None]
    assert set(other.metrics.invalidations) == {"message"}


async def test_an_invalidation_concerns_every_caller_and_action_of_the_stack_and_no_other_stack(
    pair: tuple[Replica, Replica],
) -> None:
    one, other = pair
    keys = [
        one.key(caller, stack=stack, action=action)
        for caller, stack, action in itertools.product((b"a", b"b"), (STACK, STACK.upper()), (b"x", b"y"))
    ]
    neighbour = one.key(stack=b"stack-2")
    for key in (*keys, neighbour):
        await one.fill(key)
        await other.found(key)
    await invalidate(one)
    await received(other)
    for replica in pair:
        assert [await replica.found(key) for key in keys] == [None] * len(keys)
        assert await replica.found(neighbour) is not None


async def test_own_messages_are_ignored(pair: tuple[Replica, Replica]) -> None:
    one, other = pair
    await invalidate(one)
    await received(other)
    await invalidate(other, stack=b"later")
    await received(one, b"later")  # its own message came before this one
    assert one.detached.count(FOLDED) == 1
    assert one.metrics.invalidations["message"] == one.detached.count(b"later")


async def test_malformed_messages_are_ignored(pair: tuple[Replica, Replica], redis: RedisServer) -> None:
    one, other = pair
    channel = KeySpace(redis.prefix, UPSTREAM).channel
    await one.fill(one.key())
    long_name = InvalidationMessage("s" * 65, 0.0, True, "other")
    for data in (b"", b"x" * 10_000, b"[]", b'{"stack": 1}', msgspec.json.encode(long_name), b"\xff"):
        await redis.command("PUBLISH", channel, data)
    await invalidate(other, stack=b"later")
    await received(one, b"later")
    assert set(one.detached) == {b"later"}
    assert one.in_memory(one.key())


# Fills under way


@pytest.mark.parametrize("side", [0, 1], ids=["here", "on the other replica"])
@pytest.mark.parametrize("has_generation", [True, False])
async def test_a_fill_under_way_during_an_invalidation_leaves_nothing_usable(
    pair: tuple[Replica, Replica], side: int, has_generation: bool
) -> None:
    filling = pair[side]
    key = filling.key()
    if has_generation:
        await pair[0].fill(pair[0].key(b"b"))
    fill_token = await filling.begin_fill(key)
    await invalidate(pair[0])
    await received(pair[1])
    assert filling.tiers.store(fill_token, filling.entry(OLD)) is Reason.INVALIDATED
    assert [await replica.found(key) for replica in pair] == [None, None]
    await until(lambda: refilled(filling, pair), "the stack to be stored again")


async def refilled(filling: Replica, pair: tuple[Replica, Replica]) -> bool:
    """Store once more; an invalidation repeated on a new connection may undo it."""
    key = filling.key()
    filling.tiers.store(await filling.begin_fill(key), filling.entry(NEW))
    found = [await replica.found(key) for replica in pair]
    assert OLD not in found
    return found == [NEW, NEW]


async def test_a_fill_that_ends_before_the_message_arrives_leaves_nothing_usable(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(redis.url, redis.prefix)
    deaf = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    key = deaf.key()
    fill_token = await deaf.begin_fill(key)
    proxy.mode = STALL
    await invalidate(one)
    entry = deaf.entry(OLD)
    assert deaf.tiers.store(fill_token, entry) is None  # it cannot know yet
    assert deaf.in_memory(key)
    proxy.mode = PASS
    await received(deaf)
    assert not deaf.in_memory(key)
    await until(lambda: _exists(redis, key.name), "the store")
    assert [await replica.found(key) for replica in (one, deaf)] == [None, None]
    fill_token = await one.begin_fill(key)  # mints another generation
    assert fill_token.generation is not None
    assert [await replica.found(key) for replica in (one, deaf)] == [None, None]


async def _exists(redis: RedisServer, name: bytes) -> bool:
    return await redis.command("EXISTS", name) == 1


async def test_a_queued_store_is_void_after_an_invalidation(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix)
    key = one.key()
    assert one.tiers.store(await one.begin_fill(key), one.entry(OLD)) is None
    await invalidate(one)  # before the queue is sent
    await one.fill(one.key(stack=b"stack-2"))
    assert await redis.command("EXISTS", key.name) == 0


async def test_fills_and_invalidations_in_any_order_never_leave_an_older_record(
    pair: tuple[Replica, Replica],
) -> None:
    one, other = pair
    for number, order in enumerate(itertools.permutations(("begin", "invalidate", "store", "receive"))):
        if order.index("begin") > order.index("store") or order.index("invalidate") > order.index("receive"):
            continue
        key = one.key(stack=b"stack-%d" % number)
        fill_token = None
        for step in order:
            match step:
                case "begin":
                    fill_token = await other.begin_fill(key)
                case "invalidate":
                    await invalidate(one, stack=key.stack)
                case "store":
                    assert fill_token is not None
                    other.tiers.store(fill_token, other.entry(OLD))
                case _:
                    await received(other, key.stack)
        # A fetch begun later sees the write.
        if order.index("begin") < order.index("invalidate"):
            assert await one.found(key) is None, order
            assert await other.found(key) is None, order


# Single keys


async def test_losing_any_single_key_never_makes_an_invalidated_entry_usable(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    invalidated = [one.key(caller, action=action) for caller in (b"a", b"b") for action in (b"x", b"y")]
    for key in invalidated:
        await one.fill(key, one.entry(OLD))
    old = await redis.contents()
    await invalidate(one)
    refilled, neighbour = invalidated[0], one.key(stack=b"stack-2")
    await one.fill(refilled, one.entry(NEW))
    await one.fill(neighbour)
    after = await redis.contents()
    assert set(old) | set(after) == set(after)
    for lost in after:
        reader = await replicas(redis.url, redis.prefix, memory_bytes=0, subscribed=False)
        await _put(redis, {name: value for name, value in after.items() if name != lost})
        assert [await reader.found(key) for key in invalidated[1:]] == [None] * 3
        assert await reader.found(refilled) in {NEW, None}
        await reader.begin_fill(invalidated[1])  # mints if the generation was lost
        assert [await reader.found(key) for key in invalidated[1:]] == [None] * 3
        assert await reader.found(refilled) in {NEW, None}


async def test_an_old_value_put_back_at_any_entrys_key_is_not_usable(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key, one.entry(OLD))
    old = await redis.contents()
    await invalidate(one)
    await one.fill(one.key(b"b"))
    await redis.command("SET", key.name, old[key.name])  # a store that was long on its way
    assert await one.found(key) is None
    assert one.metrics.entries_invalid > 0


async def _put(redis: RedisServer, contents: dict[bytes, bytes]) -> None:
    for name in await redis.keys():
        await redis.command("DEL", name)
    for name, value in contents.items():
        await redis.command("SET", name, value)


async def test_a_redis_that_evicts_whatever_it_likes_never_brings_an_entry_back(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    keys = [one.key(b"%d" % number) for number in range(20)]
    for key in keys:
        await one.fill(key, one.entry(OLD + b" " * 1000))
    await invalidate(one)
    fill_token = await one.begin_fill(keys[0])
    assert fill_token.generation is not None
    used = await own_redis.command("INFO", "memory")
    assert isinstance(used, bytes)
    limit_bytes = int(used.split(b"used_memory:")[1].split(b"\r")[0]) + 100_000
    await own_redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    await own_redis.command("CONFIG", "SET", "maxmemory", limit_bytes)
    for number in range(300):
        await own_redis.command("SET", f"filler-{number}", b"x" * 1000)
        assert await one.found(keys[number % len(keys)]) is None
    stats = await own_redis.command("INFO", "stats")
    assert isinstance(stats, bytes)
    assert b"evicted_keys:0\r" not in stats


# Lost subscriptions


async def test_while_the_subscription_is_lost_copies_serve_at_most_for_memory_ttl_s(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(redis.url, redis.prefix)
    deaf = await replicas(f"redis://{proxy.address}/0", redis.prefix, memory_ttl_s=10.0)
    key = deaf.key()
    await deaf.fill(key, deaf.entry(OLD))
    proxy.mode = CUT
    await invalidate(one)
    await until(lambda: not deaf.is_subscribed, "the loss to be noticed")
    assert await deaf.found(key) == OLD
    deaf.times.move(10)
    assert await deaf.found(key) is None


async def test_a_subscription_confirmed_again_empties_memory_and_detaches_every_fetch(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    key, neighbour = one.key(), one.key(stack=b"stack-2")
    await one.fill(key)
    fill_token = one.tiers.fill_token(neighbour)
    assert len(one.started_over) == 1
    await redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: len(one.started_over) == 2, "the second confirmation")
    assert not one.in_memory(key)
    assert await one.found(key) is not None  # Redis still knows what is usable
    assert one.tiers.store(fill_token, one.entry()) is Reason.INVALIDATED
    assert one.tiers.invalidations.is_uncertain(one.times.clock.monotonic_s())


async def test_an_invalidation_missed_without_a_subscription_counts_once_it_is_back(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(redis.url, redis.prefix)
    deaf = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    await deaf.fill(deaf.key(), deaf.entry(OLD))
    proxy.mode = CUT
    await invalidate(one)
    assert deaf.in_memory(deaf.key())
    proxy.mode = PASS
    await until(lambda: len(deaf.started_over) == 2, "the second confirmation")
    assert await deaf.found(deaf.key()) is None


async def test_a_silent_subscription_counts_as_lost(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    proxy.mode = STALL
    started_s = time.monotonic()
    await until(lambda: not one.is_subscribed, "the silence to be noticed")
    assert 1.5 < time.monotonic() - started_s < 4
    proxy.mode = PASS
    await until(lambda: len(one.started_over) == 2, "the second confirmation")


async def test_a_quiet_subscription_stays_up(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix)
    calls = (await redis.commands_run()).get("ping", 0)

    async def is_pinged() -> bool:
        return (await redis.commands_run()).get("ping", 0) >= calls + 2

    await until(is_pinged, "the pings", pause_s=0.05)
    assert len(one.started_over) == 1


# Settling


async def test_a_write_settles_on_both_sides_and_a_purge_on_neither(pair: tuple[Replica, Replica]) -> None:
    await invalidate(pair[0])
    await invalidate(pair[0], stack=b"purged", settles=False)
    await received(pair[1], b"purged")
    for replica in pair:
        now_s = replica.times.clock.monotonic_s()
        assert replica.tiers.invalidations.is_settling(FOLDED, now_s)
        assert not replica.tiers.invalidations.is_settling(b"purged", now_s)


async def test_a_late_message_settles_from_the_write_and_not_from_the_message(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, settle_s=60.0)
    other = await replicas(own_redis.url, own_redis.prefix, settle_s=60.0)
    own_redis.kill()
    assert not await one.tiers.invalidate([FOLDED], "write", settles=True)
    one.times.move(50)  # Redis is down for that long
    await own_redis.restart()
    await other.subscribed()
    # It may be published before the other one is subscribed; the next connection repeats it.
    await one.confirmed()
    if not other.detached:
        await own_redis.command("CLIENT", "KILL", "TYPE", "normal")
        await one.tiers.lookup(one.key())
    await received(other)
    now_s = other.times.clock.monotonic_s()
    assert other.tiers.invalidations.is_settling(FOLDED, now_s)
    assert not other.tiers.invalidations.is_settling(FOLDED, now_s + 11)


# Other gateways on the same Redis


async def test_invalidating_does_not_depend_on_the_secret(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix, secret=b"old secret")
    other = await replicas(redis.url, redis.prefix, secret=b"new secret")
    await other.fill(other.key(), other.entry(OLD))
    await invalidate(one)
    await received(other)
    assert await other.found(other.key()) is None


async def test_another_prefix_is_another_deployment(replicas: Replicas, redis: RedisServer) -> None:
    one, other = await replicas(redis.url, redis.prefix), await replicas(redis.url, redis.prefix + "x")
    await one.fill(one.key())
    await other.fill(other.key())
    await invalidate(other)
    await invalidate(other, stack=b"later")
    await asyncio.sleep(0)
    assert await one.found(one.key()) is not None
    assert one.detached == []
