"""Entries in Redis: round trips, deadlines, and untrusted values."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from gateway.clock import Clock
from gateway.core.caching.entry import seal
from gateway.core.caching.key import ENTRY_VERSION
from gateway.core.caching.lease import Reply
from gateway.store.lookup import FAILED
from gateway.store.redis_errors import StoreError
from gateway.store.redis_leases import RedisLeases
from tests.store.kit import (
    GENERATION_TTL_S,
    MINT_TTL_S,
    DirectRedis,
    Times,
    as_stored,
    direct_redis,
    entry_of,
    key_of,
    until,
    write_of,
)
from tests.testbed.faultproxy import STALL, FaultProxy
from tests.testbed.faults import PASS
from tests.testbed.redis_server import RedisServer

Proxies = Callable[[str], Awaitable[FaultProxy]]


@pytest.fixture
async def direct(redis: RedisServer) -> AsyncIterator[DirectRedis]:
    one = direct_redis(redis.url, redis.prefix)
    yield one
    await one.close()


@pytest.fixture
async def through(redis: RedisServer) -> AsyncIterator[Callable[[FaultProxy], DirectRedis]]:
    """Makes stores behind a fault proxy; ask for it before `fault_proxy`, so that they are closed later."""
    made: list[DirectRedis] = []

    def make(proxy: FaultProxy) -> DirectRedis:
        made.append(direct_redis(f"redis://{proxy.address}/0", redis.prefix))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def commands(server: RedisServer) -> dict[str, int]:
    ours = {"mget", "get", "set", "del", "pexpire", "publish"}
    return {name: calls for name, calls in (await server.commands_run()).items() if name in ours}


async def run_by(server: RedisServer, work: Awaitable[object]) -> dict[str, int]:
    """Return how often each command ran during some work."""
    before = await commands(server)
    await work
    after = await commands(server)
    return {
        name: calls - before.get(name, 0) for name, calls in after.items() if calls != before.get(name, 0)
    }


# Round trips


async def test_look_ups_of_one_turn_of_the_loop_are_one_command(
    direct: DirectRedis, redis: RedisServer
) -> None:
    keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(50)]
    stored = {}
    for number, key in enumerate(keys[::2]):
        generation = await direct.store.mint(key)
        assert generation is not None
        stored[key.name] = entry_of(b"%d" % number)
        await direct.put(key, stored[key.name], generation)
    found: list[Any] = []

    async def look_up() -> None:
        found.extend(await asyncio.gather(*(direct.lookup(key) for key in keys)))

    assert await run_by(redis, look_up()) == {"mget": 1}
    assert [as_stored(one.entry) for one in found] == [stored.get(key.name) for key in keys]


async def test_look_ups_of_the_same_entry_are_one(direct: DirectRedis, redis: RedisServer) -> None:
    stored, absent = key_of(redis.prefix), key_of(redis.prefix, stack=b"other")
    generation = await direct.store.mint(stored)
    assert generation is not None
    entry = entry_of(b"body")
    await direct.put(stored, entry, generation)
    before = await keys_read(redis)
    # Equal keys, as two connections make them.
    found = await asyncio.gather(
        *(direct.lookup(key_of(redis.prefix)) for _ in range(9)), *(direct.lookup(absent) for _ in range(9))
    )
    assert [as_stored(one.entry) for one in found] == [entry] * 9 + [None] * 9
    assert await keys_read(redis) - before == 2 * 2


async def keys_read(server: RedisServer) -> int:
    info = await server.command("INFO", "stats")
    assert isinstance(info, bytes)
    lines = dict(line.partition(b":")[::2] for line in info.splitlines())
    return int(lines[b"keyspace_hits"]) + int(lines[b"keyspace_misses"])


async def test_very_many_look_ups_are_split_so_that_nobody_else_waits_for_them(
    direct: DirectRedis, redis: RedisServer
) -> None:
    keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(130)]
    ran = await run_by(redis, asyncio.gather(*(direct.lookup(key) for key in keys)))
    assert ran == {"mget": 3}


async def test_changes_are_sent_together_and_each_store_renews_its_generation(
    direct: DirectRedis, redis: RedisServer
) -> None:
    key, other = key_of(redis.prefix), key_of(redis.prefix, b"b")
    generation = await direct.store.mint(key)
    assert generation is not None
    assert 0 < await pttl(redis, key.generation) <= MINT_TTL_S * 1000
    ran = await run_by(
        redis, direct.store.write([write_of(key, entry_of(ttl_s=50), generation), write_of(other, None)])
    )
    assert ran == {"set": 1, "pexpire": 1, "del": 1}
    assert MINT_TTL_S * 1000 < await pttl(redis, key.generation) <= GENERATION_TTL_S * 1000
    assert 0 < await pttl(redis, key.name) <= 50_000


async def pttl(server: RedisServer, name: bytes) -> int:
    left = await server.command("PTTL", name)
    assert isinstance(left, int)
    return left


async def test_a_stack_has_one_generation_whoever_mints_it(direct: DirectRedis, redis: RedisServer) -> None:
    other = direct_redis(redis.url, redis.prefix, secret=b"another")
    key = key_of(redis.prefix)
    minted = await asyncio.gather(
        direct.store.mint(key), other.store.mint(key), other.store.mint(key_of(redis.prefix, b"b"))
    )
    assert len(set(minted)) == 1
    assert (await direct.lookup(key)).generation == minted[0]
    await other.close()


async def test_a_generation_is_never_minted_twice(direct: DirectRedis, redis: RedisServer) -> None:
    key = key_of(redis.prefix)
    seen = set()
    for _ in range(5):
        seen.add(await direct.store.mint(key))
        await direct.invalidate(key)
    assert len(seen) == 5


async def test_an_invalidation_deletes_and_then_publishes(direct: DirectRedis, redis: RedisServer) -> None:
    key = key_of(redis.prefix)
    await direct.store.mint(key)
    ran = await run_by(redis, direct.store.invalidate([(key.stack, b"message"), (b"other", None)]))
    assert ran == {"del": 2, "publish": 1}
    assert (await direct.lookup(key)).generation is None


async def test_an_invalidation_refused_in_part_is_not_confirmed(own_redis: RedisServer) -> None:
    await own_redis.command("ACL", "SETUSER", "default", "-publish")
    direct = direct_redis(own_redis.url, own_redis.prefix)
    confirmed = await direct.store.invalidate([(b"a", b"message"), (b"b", None)])
    assert confirmed == [(True, False), (True, False)]
    await direct.close()


async def test_an_entry_that_is_over_is_not_sent(direct: DirectRedis, redis: RedisServer) -> None:
    key = key_of(redis.prefix)
    assert await run_by(redis, direct.put(key, entry_of(ttl_s=-1), b"g" * 16)) == {}


# Deadlines


@pytest.fixture
def paused(own_redis: RedisServer) -> RedisServer:
    own_redis.pause()
    return own_redis


async def test_a_silent_redis_costs_about_the_timeout_and_no_retry(paused: RedisServer) -> None:
    direct = direct_redis(paused.url, paused.prefix, timeout_s=0.1)
    key = key_of(paused.prefix)

    async def drop() -> str:
        with pytest.raises(StoreError) as raised:
            await direct.drop(key)
        return raised.value.kind

    works: list[tuple[Awaitable[object], object]] = [
        (direct.lookup(key), FAILED),
        (direct.store.mint(key), None),
        (drop(), "timeout"),
    ]
    for work, outcome in works:
        started_s = time.monotonic()
        assert await work == outcome
        assert 0.09 <= time.monotonic() - started_s < 0.6
    paused.resume()
    await direct.close()


async def test_more_look_ups_than_connections_still_end_in_time(paused: RedisServer) -> None:
    direct = direct_redis(paused.url, paused.prefix, timeout_s=0.1, max_connections=1)
    started_s = time.monotonic()
    lookups = []
    for _ in range(5):
        waiting = asyncio.ensure_future(direct.lookup(key_of(paused.prefix)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # so that the next one is a command of its own
        lookups.append(waiting)
    assert await asyncio.gather(*lookups) == [FAILED] * 5
    assert time.monotonic() - started_s < 0.6
    paused.resume()
    await direct.close()


async def test_a_dead_redis_fails_at_once_and_is_asked_once(own_redis: RedisServer) -> None:
    direct = direct_redis(own_redis.url, own_redis.prefix)
    key = key_of(own_redis.prefix)
    await direct.lookup(key)
    assert direct.node.condition.is_up
    own_redis.kill()
    started_s = time.monotonic()
    assert await direct.lookup(key) is FAILED
    assert time.monotonic() - started_s < 0.5
    assert not direct.node.condition.is_up
    assert direct.metrics.redis_failures == {("lookup", "connection"): 1}
    await direct.close()


async def test_a_connection_that_breaks_is_not_tried_again_in_secret(
    redis: RedisServer, through: Callable[[FaultProxy], DirectRedis], fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    direct = through(proxy)
    sent: list[bytes] = []

    async def cut(way: object, piece: bytes) -> None:
        if b"MGET" in piece:
            sent.append(piece)
            raise ConnectionAbortedError

    await direct.lookup(key_of(redis.prefix))
    proxy.tap = cut
    assert await direct.lookup(key_of(redis.prefix)) is FAILED
    assert len(sent) == 1
    proxy.tap = None
    proxy.failures.clear()  # the tap failed on purpose
    assert not (await direct.lookup(key_of(redis.prefix))).has_failed


async def test_redis_is_used_again_as_soon_as_it_answers(own_redis: RedisServer) -> None:
    direct = direct_redis(own_redis.url, own_redis.prefix)
    key = key_of(own_redis.prefix)
    await direct.lookup(key)
    own_redis.kill()
    assert await direct.lookup(key) is FAILED
    await own_redis.restart()
    assert not (await direct.lookup(key)).has_failed
    assert direct.node.condition.is_up
    await direct.close()


async def test_each_connection_is_reported_before_it_carries_a_command(own_redis: RedisServer) -> None:
    direct = direct_redis(own_redis.url, own_redis.prefix)
    key = key_of(own_redis.prefix)
    assert direct.opened.count == 0
    await direct.lookup(key)
    await direct.lookup(key)
    assert direct.opened.count == 1
    await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def answered() -> bool:
        return not (await direct.lookup(key)).has_failed

    await until(answered, "a look-up on a new connection")
    assert direct.opened.count == 2
    await direct.close()


# Waiters that leave


async def test_a_waiter_that_leaves_cancels_neither_the_command_nor_the_others(
    redis: RedisServer, through: Callable[[FaultProxy], DirectRedis], fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    direct = through(proxy)
    key, other = key_of(redis.prefix), key_of(redis.prefix, b"b")
    generation = await direct.store.mint(key)
    assert generation is not None
    await direct.put(other, entry_of(b"other"), generation)
    proxy.mode = STALL
    leaving = asyncio.ensure_future(direct.lookup(key))
    staying = asyncio.ensure_future(direct.lookup(other))
    storing = asyncio.ensure_future(direct.put(key, entry_of(b"stored"), generation))
    opened = proxy.connections
    await proxy.wait_until(lambda: proxy.connections > opened, "the second command's connection")
    leaving.cancel()
    storing.cancel()
    await asyncio.wait({leaving, storing})
    assert leaving.cancelled()
    assert storing.cancelled()
    proxy.mode = PASS
    found = (await staying).entry
    assert found is not None
    assert found.body == b"other"

    async def is_stored() -> bool:
        return (await direct.lookup(key)).entry is not None

    await until(is_stored, "the store that nobody waited for any more")
    assert proxy.connections == opened + 1  # no command cost its connection


# Values that are not to be trusted


def resealed(sealed: bytes, name: bytes, place: int, value: object) -> bytes:
    """Change one member of stored bytes and put the tag right, as one who can write into Redis could."""
    members = msgspec.msgpack.decode(sealed[:-32])
    members[place] = value
    content = msgspec.msgpack.encode(members)
    tag = blake2b(b"%d:%s" % (len(name), name), digest_size=32, person=b"aosgw-tag")
    tag.update(content)
    return content + tag.digest()


def poisons(prefix: str, generation: bytes) -> dict[str, bytes]:
    """Return what may stand at a key in place of its entry, by name."""
    key = key_of(prefix)
    good = seal(key, generation, entry_of(), b"")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    moved = {
        "another caller's": key_of(prefix, b"b"),
        "another action's": key_of(prefix, action=b"b"),
        "another stack's": key_of(prefix, stack=b"b"),
        "another deployment's": key_of("p"),
    }
    return {
        "nothing": b"",
        "garbage": b"garbage",
        "as long as a tag": b"\x00" * 32,
        "json": b'{"a": 1}',
        "cut short": good[:-1],
        "cut in half": good[: len(good) // 2],
        "a tag alone": good[-32:],
        "with a byte more": good + b"\x00",
        "with a flipped bit": bytes(flipped),
        "of another secret": seal(key, generation, entry_of(), b"secret"),
        "under another generation": seal(key, b"g" * 16, entry_of(), b""),
        "from the future": seal(key, generation, entry_of(now_s=time.time() + 60), b""),
        "of an older version": resealed(good, key.name, 0, ENTRY_VERSION - 1),
        "of a newer version": resealed(good, key.name, 0, ENTRY_VERSION + 1),
        "with an impossible end": resealed(good, key.name, 4, float("inf")),
        "with a negative age": resealed(good, key.name, 5, -1),
        "with a member of another type": resealed(good, key.name, 7, "200"),
        **{name: seal(other, generation, entry_of(), b"") for name, other in moved.items()},
    }


POISONS = sorted(poisons("p" * 8, b"g" * 15 + b"h"))


@pytest.mark.parametrize("name", POISONS)
async def test_poisoned_bytes_are_a_miss_and_counted(
    direct: DirectRedis, redis: RedisServer, name: str
) -> None:
    key = key_of(redis.prefix)
    generation = await direct.store.mint(key)
    assert generation is not None
    await redis.command("SET", key.name, poisons(redis.prefix, generation)[name])
    found = await direct.lookup(key)
    assert (found.entry, found.generation) == (None, generation)
    assert direct.metrics.entries_invalid == 1
    stored = entry_of(b"healed")
    await direct.put(key, stored, generation)
    assert as_stored((await direct.lookup(key)).entry) == stored


async def test_the_bytes_that_the_poisons_are_made_from_are_found(
    direct: DirectRedis, redis: RedisServer
) -> None:
    key = key_of(redis.prefix)
    generation = await direct.store.mint(key)
    assert generation is not None
    good = seal(key, generation, entry_of(), b"")
    for sealed in (good, resealed(good, key.name, 0, ENTRY_VERSION)):
        await redis.command("SET", key.name, sealed)
        assert (await direct.lookup(key)).entry is not None
    assert direct.metrics.entries_invalid == 0


@pytest.mark.parametrize("kind", ["list", "hash", "set"])
async def test_another_type_at_an_entrys_key_is_a_miss(
    direct: DirectRedis, redis: RedisServer, kind: str
) -> None:
    key = key_of(redis.prefix)
    generation = await direct.store.mint(key)
    command = {"list": ("LPUSH",), "hash": ("HSET",), "set": ("SADD",)}[kind]
    await redis.command(*command, key.name, b"a", *([b"b"] if kind == "hash" else []))
    found = await direct.lookup(key)
    assert (found.entry, found.generation) == (None, generation)


async def test_another_type_at_a_generations_key_leaves_nothing_usable_and_mints_nothing(
    direct: DirectRedis, redis: RedisServer
) -> None:
    key = key_of(redis.prefix)
    generation = await direct.store.mint(key)
    assert generation is not None
    await direct.put(key, entry_of(), generation)
    await redis.command("DEL", key.generation)
    await redis.command("LPUSH", key.generation, b"a")
    found = await direct.lookup(key)
    assert (found.entry, found.generation) == (None, None)
    assert await direct.store.mint(key) is None
    assert direct.metrics.redis_failures == {("mint", "answer"): 1}
    await direct.invalidate(key)
    assert await direct.store.mint(key) is not None


@pytest.mark.parametrize("value", [b"", b"short", b"g" * 17, b"0"])
async def test_a_generation_of_another_length_is_none(
    direct: DirectRedis, redis: RedisServer, value: bytes
) -> None:
    key = key_of(redis.prefix)
    await redis.command("SET", key.generation, value)
    await redis.command("SET", key.name, seal(key, value, entry_of(), b""))
    found = await direct.lookup(key)
    assert (found.entry, found.generation) == (None, None)
    assert await direct.store.mint(key) is None


async def test_an_entry_without_its_generation_is_absent_and_not_counted_as_invalid(
    direct: DirectRedis, redis: RedisServer
) -> None:
    key = key_of(redis.prefix)
    await direct.put(key, entry_of(), b"g" * 16)
    found = await direct.lookup(key)
    assert (found.entry, found.generation) == (None, None)
    assert direct.metrics.entries_invalid == 0


async def test_a_clock_that_is_a_little_ahead_elsewhere_does_not_matter(redis: RedisServer) -> None:
    ahead, here = Times(), direct_redis(redis.url, redis.prefix)
    ahead.move(4)
    there = direct_redis(redis.url, redis.prefix, clock=ahead.clock)
    key = key_of(redis.prefix)
    generation = await there.store.mint(key)
    assert generation is not None
    await there.put(key, entry_of(now_s=ahead.clock.wall_s()), generation)
    assert (await here.lookup(key)).entry is not None
    await there.close()
    await here.close()


async def test_a_secret_of_any_length_keeps_out_who_does_not_know_it(redis: RedisServer) -> None:
    key = key_of(redis.prefix)
    stores = [
        direct_redis(redis.url, redis.prefix, secret=secret) for secret in (b"", b"s", b"s" * 64, b"s" * 65)
    ]
    generation = await stores[0].store.mint(key)
    assert generation is not None
    for writer in stores:
        await writer.put(key, entry_of(), generation)
        finders = [one for one in stores if (await one.lookup(key)).entry is not None]
        assert finders == [writer]
    for one in stores:
        await one.close()


async def test_new_stacks_of_one_turn_cost_one_round_trip_a_batch(
    direct: DirectRedis, redis: RedisServer
) -> None:
    keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(200)]
    generations = await asyncio.gather(*map(direct.store.mint, keys))
    assert len(set(generations)) == 200
    assert None not in generations
    assert sum(direct.metrics.redis_s["mint",].counts) == 4
    assert direct.opened.count <= 4


async def test_leases_of_one_turn_cost_one_round_trip_and_each_has_its_own_replies(
    direct: DirectRedis, redis: RedisServer
) -> None:
    leases = RedisLeases(direct.store, b"", Clock())
    keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(50)]
    generations = [await direct.store.mint(key) for key in keys]
    lookups = [
        leases.lookup(key, generation or b"", 5.0, b"")
        for key, generation in zip(keys, generations, strict=True)
    ]
    await redis.command("RPUSH", lookups[7].names[0], "x")
    replies = await asyncio.gather(*map(leases.claim, lookups), return_exceptions=True)
    refused = replies.pop(7)
    assert isinstance(refused, Reply)
    assert (refused.lease, refused.left_s) == (None, float("inf"))
    lookups.pop(7)
    for lookup, reply in zip(lookups, replies, strict=True):
        assert isinstance(reply, Reply)
        assert (reply.lease, reply.generation) == (lookup.nonce, lookup.generation)
    assert sum(direct.metrics.redis_s["lease",].counts) == 1
    assert direct.opened.count == 1


async def test_what_redis_refuses_fails_no_other_of_the_same_turn(
    direct: DirectRedis, redis: RedisServer
) -> None:
    keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(3)]
    await redis.command("RPUSH", keys[1].generation, "x")
    one, refused, other = await asyncio.gather(*map(direct.store.mint, keys))
    assert refused is None
    assert one is not None
    assert other is not None
    assert direct.node.condition.breaker.is_closed
