"""The tiers of one gateway: what is stored where, what is queued, and failures of Redis."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.invalidation_message import read_message
from gateway.core.caching.key import EntryKey
from gateway.store.lookup import EarlyLookup, LookupResult
from tests.store.conftest import Replicas
from tests.store.kit import FOLDED, GENERATION_TTL_S, MINT_TTL_S, as_stored, prepare_fill, until
from tests.testbed.answers import Gate
from tests.testbed.faultproxy import FaultProxy
from tests.testbed.faults import STALL, Way
from tests.testbed.redis_server import RedisServer

Proxies = Callable[[str], Awaitable[FaultProxy]]

# What is kept where


async def test_a_copy_from_redis_is_kept_in_memory(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix)
    other = await replicas(redis.url, redis.prefix)
    stored = await one.fill(one.key())
    assert as_stored((await other.tiers.lookup(other.key())).entry) == stored
    assert other.in_memory(other.key())


async def test_a_copy_lives_in_memory_for_memory_ttl_s_and_then_comes_from_redis_again(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_ttl_s=10.0)
    key = one.key()
    await one.fill(key, one.entry(ttl_s=50))
    for _ in range(3):
        one.times.move(11)
        assert not one.in_memory(key)
        assert await one.found(key) is not None
        assert one.in_memory(key)
    one.times.move(11)
    assert not one.in_memory(key)


async def test_a_copy_never_lives_past_its_entrys_own_end(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix, memory_ttl_s=1000.0)
    await one.fill(one.key(), one.entry(ttl_s=20))
    one.times.move(20)
    assert not one.in_memory(one.key())
    assert await one.found(one.key()) is None


async def test_the_age_of_a_copy_counts_from_the_start_of_its_fetch(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_ttl_s=10.0)
    key = one.key()
    entry = one.entry()
    fill_token = await one.begin_fill(key)
    one.times.move(8)  # the fetch takes this long
    assert one.tiers.store(fill_token, entry) is None
    assert one.in_memory(key)
    one.times.move(2)
    assert not one.in_memory(key)


async def test_without_redis_a_copy_lives_as_long_as_its_entry(replicas: Replicas) -> None:
    one = await replicas(None, "p", memory_ttl_s=10.0)
    await one.fill(one.key(), one.entry(ttl_s=60))
    one.times.move(59)
    assert one.in_memory(one.key())
    one.times.move(1)
    assert not one.in_memory(one.key())


async def test_a_wall_clock_that_jumps_does_not_prolong_a_copy(replicas: Replicas) -> None:
    one = await replicas(None, "p")
    await one.fill(one.key(), one.entry(ttl_s=60))
    jumped = msgspec.structs.replace(one.entry(), expires_s=time.time() + 3600)
    fill_token = one.tiers.fill_token(one.key(b"b"))
    one.tiers.store(fill_token, jumped)
    one.times.move(61)
    assert not one.in_memory(one.key())
    assert one.in_memory(one.key(b"b"))


async def test_without_any_tier_that_takes_it_the_reason_is_returned(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    fill_token = one.tiers.fill_token(one.key())  # no generation
    assert one.tiers.store(fill_token, one.entry()) is Reason.NOT_KEPT


async def test_memory_alone_takes_what_redis_has_no_generation_for(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    assert one.tiers.store(one.tiers.fill_token(one.key()), one.entry()) is None
    assert one.in_memory(one.key())
    assert await redis.keys() == []


async def test_what_is_queued_beyond_the_bound_is_not_stored_in_redis_and_counted(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    body = b"x" * (12 << 20)  # larger than memory, so Redis is the only tier
    tokens = [await one.begin_fill(one.key(caller)) for caller in (b"a", b"b", b"c")]
    taken = [one.tiers.store(fill_token, one.entry(body)) for fill_token in tokens]
    assert taken == [None, None, Reason.NOT_KEPT]
    assert one.metrics.not_stored == {"queue-full": 1}


# Generations


async def test_a_fill_mints_a_generation_before_its_fetch_and_its_store_renews_it(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    key = one.key()
    fill_token = await one.begin_fill(key)
    assert await redis.command("GET", key.generation) == fill_token.generation
    minted_ms = await redis.command("PTTL", key.generation)
    assert isinstance(minted_ms, int)
    assert 0 < minted_ms <= MINT_TTL_S * 1000
    entry = one.entry()
    one.tiers.store(fill_token, entry)
    await one.in_redis(key, entry)

    async def is_renewed() -> bool:
        left_ms = await redis.command("PTTL", key.generation)
        return isinstance(left_ms, int) and MINT_TTL_S * 1000 < left_ms <= GENERATION_TTL_S * 1000

    await until(is_renewed, "the generation to be renewed")


async def test_a_fill_after_a_failed_look_up_neither_mints_nor_stores_in_redis(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    fill_token = await prepare_fill(
        one.tiers, one.tiers.fill_token(one.key()), LookupResult(None, has_failed=True)
    )
    assert fill_token.generation is None
    assert await redis.keys() == []


async def test_a_fill_without_a_look_up_uses_the_generation_that_is_there(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    first = await one.begin_fill(one.key())
    second = await prepare_fill(one.tiers, one.tiers.fill_token(one.key(b"b")), LookupResult(None))
    assert second.generation == first.generation is not None


# Drops


async def test_a_fill_that_began_before_a_drop_is_not_stored(replicas: Replicas, redis: RedisServer) -> None:
    one = await replicas(redis.url, redis.prefix)
    key, neighbour = one.key(), one.key(b"b")
    fill_token, other = await one.begin_fill(key), await one.begin_fill(neighbour)
    one.drop(key)
    assert one.tiers.store(fill_token, one.entry()) is Reason.INVALIDATED
    assert one.tiers.store(other, one.entry()) is None
    assert await one.found(key) is None
    assert await one.found(neighbour) is not None


@pytest.mark.parametrize("has_redis", [True, False], ids=["with redis", "memory alone"])
@pytest.mark.parametrize(
    ("ends", "is_found"),
    [
        ("older stored, newer stored", b"newer"),
        ("newer stored, older stored", b"newer"),
        ("older refused, newer stored", b"newer"),
        ("newer stored, older refused", b"newer"),
        ("older stored, newer refused", None),
        ("newer refused, older stored", None),
        ("older stored", b"older"),
        ("older refused", None),
    ],
)
async def test_of_two_fetches_the_one_that_began_later_counts_in_whatever_order_they_end(
    replicas: Replicas, redis: RedisServer, has_redis: bool, ends: str, is_found: bytes | None
) -> None:
    one = await replicas(redis.url if has_redis else None, redis.prefix)
    key = one.key()
    lookups, tokens = {}, {}
    for name in ("older", "newer"):
        fill_token = one.tiers.fill_token(key)
        lookups[name] = await one.tiers.lookup(key)
        tokens[name] = await prepare_fill(one.tiers, fill_token, lookups[name])
    for end in ends.split(", "):
        name, what = end.split()
        if what == "stored":
            one.tiers.store(tokens[name], one.entry(name.encode()))
        else:
            one.tiers.drop(tokens[name], lookups[name], everywhere=True)
    await until(lambda: one.state.queued_writes == 0, "the queue to be sent")
    assert await one.found(key) == is_found
    if has_redis:
        one.times.move(31)  # what is in memory ends

        async def is_in_redis() -> bool:
            return await one.found(key) == is_found

        await until(is_in_redis, "Redis to have the same")


async def test_drops_of_absent_entries_send_nothing_to_redis_and_void_no_other_fill(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    fill_token = await one.begin_fill(one.key())
    changed = one.invalidations.changes.number
    keys = [one.key(stack=b"strange-%d" % number) for number in range(20)]
    for key in keys:
        lookup = await one.tiers.lookup(key)
        one.tiers.drop(one.tiers.begin_fetch(one.tiers.fill_token(key)), lookup, everywhere=True)
    assert one.state.queued_writes == 0
    assert one.invalidations.changes.number == changed + len(keys)  # the fetches alone
    entry = one.entry()
    assert one.tiers.store(fill_token, entry) is None
    await one.in_redis(one.key(), entry)
    sent = bytes(proxy.recorded[Way.UP])
    assert not [key for key in keys if b"DEL\r\n$%d\r\n%s" % (len(key.name), key.name) in sent]


async def test_what_was_stored_since_it_was_seen_absent_is_dropped(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    key = one.key()
    fill_token = one.tiers.fill_token(key)
    lookup = await one.tiers.lookup(key)
    await one.fill(key)  # its fetch began before the other one
    one.tiers.drop(one.tiers.begin_fetch(fill_token), lookup, everywhere=True)
    assert await one.found(key) is None
    await one.in_redis(key, None)


@pytest.mark.parametrize("answers", [True, False], ids=["Redis answers", "Redis does not answer"])
async def test_a_fault_in_one_requests_callback_keeps_no_other_from_its_outcome(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies, answers: bool
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    if not answers:
        proxy.mode = STALL
    reported: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    outcome: asyncio.Future[EarlyLookup | None] = loop.create_future()
    fault = ZeroDivisionError()

    def fails(_: EarlyLookup | None) -> None:
        raise fault

    one.tiers.lookup_soon(one.key(b"a"), fails)
    one.tiers.lookup_soon(one.key(b"b"), outcome.set_result)
    async with asyncio.timeout(5):
        found = await outcome
    assert found is not None
    assert found.lookup.has_failed is not answers
    assert reported == [fault]


async def test_a_fill_that_waits_in_the_queue_during_a_drop_is_not_stored(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    key = one.key()
    one.tiers.store(await one.begin_fill(key), one.entry())
    one.drop(key)  # no turn of the loop between the two: both are still queued
    neighbour = await one.fill(one.key(b"b"))
    assert await one.found(key) is None
    assert await redis.command("EXISTS", key.name) == 0
    assert as_stored((await one.tiers.lookup(one.key(b"b"))).entry) == neighbour


async def test_a_look_up_under_way_during_a_drop_finds_nothing(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    gate = gated(proxy, Way.DOWN, b"marked")
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    key = one.key()
    await one.fill(key, one.entry(b"first"))
    await (await replicas(redis.url, redis.prefix)).fill(key, one.entry(b"marked"))
    one.times.move(31)  # its memory copy ends
    looking = asyncio.ensure_future(one.tiers.lookup(key))
    await gate.wait_reached()
    one.drop(key)
    gate.open()
    assert (await looking).entry is None
    assert not one.in_memory(key)


async def test_a_dropped_entry_is_not_served_while_its_removal_is_under_way(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    gate = gated(proxy, Way.UP, b"\r\nDEL\r\n")
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    await one.fill(one.key(b"b"))
    one.drop(key)
    await gate.wait_reached()
    assert await one.found(one.key(b"b")) is not None  # look-ups go round the one that hangs
    assert await one.found(key) is None
    gate.open()
    await one.in_redis(key, None)


async def test_a_drop_that_redis_does_not_answer_makes_the_stack_unusable(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0, timeout_s=0.1)
    key = one.key()
    await one.fill(key)
    own_redis.pause()
    one.drop(key)
    await until(lambda: one.pending == 1, "the invalidation")
    assert not (await one.tiers.lookup(key)).has_failed  # not even asked
    own_redis.resume()
    await one.confirmed(2.0)
    assert await one.found(key) is None
    assert await own_redis.command("EXISTS", key.generation) == 0


# Pending invalidations


async def test_a_pending_stack_is_neither_read_nor_minted_nor_stored(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0, timeout_s=0.1)
    key = one.key()
    await one.fill(key)
    fill_token = await one.begin_fill(one.key(b"b"))
    own_redis.pause()
    assert not await one.tiers.invalidate([FOLDED], "write", settles=True)
    assert one.invalidations.is_pending(FOLDED)
    lookup = await one.tiers.lookup(key)
    assert (lookup.entry, lookup.generation, lookup.has_failed) == (None, None, False)
    assert (await one.begin_fill(key)).generation is None
    assert one.tiers.store(fill_token, one.entry()) is Reason.INVALIDATED
    fresh = msgspec.structs.replace(one.tiers.fill_token(key), generation=fill_token.generation)
    assert one.tiers.store(fresh, one.entry()) is Reason.NOT_KEPT
    own_redis.resume()
    await one.confirmed(2.0)
    assert await one.found(key) is None
    assert await own_redis.command("EXISTS", key.generation) == 0


async def test_a_pending_invalidation_is_confirmed_soon_after_redis_restarts(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    await one.fill(one.key())
    own_redis.kill()
    assert not await one.tiers.invalidate([FOLDED], "write", settles=True)
    await own_redis.restart()
    await one.confirmed(2.0)
    stored = await one.fill(one.key(), one.entry(b"again"))
    assert as_stored((await one.tiers.lookup(one.key())).entry) == stored


async def test_a_stack_invalidated_during_its_look_up_is_not_found(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    gate = gated(proxy, Way.DOWN, b"marked")
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    key = one.key()
    await (await replicas(redis.url, redis.prefix)).fill(key, one.entry(b"marked"))
    looking = asyncio.ensure_future(one.tiers.lookup(key))
    await gate.wait_reached()
    assert await one.tiers.invalidate([FOLDED], "write", settles=True)
    gate.open()
    found = await looking
    assert (found.entry, found.generation) == (None, None)
    assert not one.in_memory(key)


async def test_redis_confirms_an_invalidation_before_it_returns(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix)
    await one.fill(one.key())
    assert await one.tiers.invalidate([FOLDED], "write", settles=True)
    assert await redis.command("EXISTS", one.key().generation) == 0
    assert one.metrics.invalidations["write"] == 1
    assert one.detached == [FOLDED]


async def test_an_invalidation_waits_for_redis_at_most_for_its_timeout(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, timeout_s=0.1)
    own_redis.pause()
    started_s = time.monotonic()
    assert not await one.tiers.invalidate([FOLDED, b"t", b"u"], "write", settles=True)
    assert time.monotonic() - started_s < 0.6
    assert one.pending == 3


async def test_a_cancelled_invalidation_is_still_sent(replicas: Replicas, own_redis: RedisServer) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    await one.fill(one.key())
    own_redis.pause()
    invalidating = asyncio.ensure_future(one.tiers.invalidate([FOLDED], "write", settles=True))
    await until(lambda: one.pending == 1, "the invalidation")
    invalidating.cancel()
    await asyncio.wait({invalidating})
    assert invalidating.cancelled()
    assert not one.in_memory(one.key())
    own_redis.resume()
    await one.confirmed()
    assert await own_redis.command("EXISTS", one.key().generation) == 0


async def test_closing_sends_pending_invalidations(replicas: Replicas, own_redis: RedisServer) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, timeout_s=0.1)
    key = one.key()
    await one.fill(key)
    own_redis.pause()
    assert not await one.tiers.invalidate([FOLDED], "write", settles=True)
    closing = asyncio.ensure_future(one.tiers.close(5.0))
    await asyncio.sleep(0)
    own_redis.resume()
    await closing
    assert await own_redis.command("EXISTS", key.generation) == 0


async def test_a_new_connection_repeats_the_recent_invalidations(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    other = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    key = one.key()
    await other.fill(key, other.entry(b"invalidated"))
    before = await own_redis.contents()
    await one.tiers.invalidate([FOLDED], "write", settles=True)
    await until(lambda: FOLDED in other.detached, "the message")
    await one.confirmed()
    # A failover to a server without the invalidation: the former contents, new connections.
    await own_redis.restart()
    for name, value in before.items():
        await own_redis.command("SET", name, value)

    async def answered() -> bool:
        first, second = await one.tiers.lookup(key), await other.tiers.lookup(key)
        assert first.entry is None
        assert second.entry is None
        return not first.has_failed and not second.has_failed

    await until(answered, "both replicas to be connected")
    await one.confirmed()
    await other.confirmed()
    assert await own_redis.command("EXISTS", key.generation) == 0
    assert await one.found(key) is None


# Redis in trouble


@pytest.mark.parametrize("name", ["FLUSHALL", "DEL"])
async def test_a_redis_that_lost_everything_is_a_miss_and_fills_again(
    replicas: Replicas, redis: RedisServer, name: str
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    await redis.command(name, *([] if name == "FLUSHALL" else await redis.keys()))
    assert await one.found(key) is None
    stored = await one.fill(key, one.entry(b"again"))
    assert as_stored((await one.tiers.lookup(key)).entry) == stored


async def test_a_flush_between_mint_and_store_leaves_nothing_usable(
    replicas: Replicas, redis: RedisServer
) -> None:
    one = await replicas(redis.url, redis.prefix, memory_bytes=0)
    key = one.key()
    fill_token = await one.begin_fill(key)
    await redis.command("FLUSHALL")
    one.tiers.store(fill_token, one.entry(b"orphan"))
    await until(lambda: _exists(redis, key), "the store")
    assert await one.found(key) is None
    await one.begin_fill(key)
    assert await one.found(key) is None  # another generation is not its own


async def _exists(redis: RedisServer, key: EntryKey) -> bool:
    return await redis.command("EXISTS", key.name) == 1


async def test_a_full_redis_still_invalidates(replicas: Replicas, own_redis: RedisServer) -> None:
    one = await replicas(own_redis.url, own_redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    await own_redis.command("CONFIG", "SET", "maxmemory", "1")
    refused = await one.begin_fill(one.key(stack=b"another"))
    assert refused.generation is None
    one.tiers.store(await one.begin_fill(one.key(b"b")), one.entry())
    await until(lambda: one.metrics.not_stored["redis-failed"] == 1, "the error")
    assert await one.found(key) is not None
    assert await one.tiers.invalidate([FOLDED], "write", settles=True)
    assert await one.found(key) is None


async def test_a_redis_absent_at_the_start_is_used_once_it_is_there(
    replicas: Replicas, own_redis: RedisServer
) -> None:
    own_redis.kill()
    one = await replicas(own_redis.url, own_redis.prefix, subscribed=False)
    assert (await one.tiers.lookup(one.key())).has_failed
    await own_redis.restart()
    await one.subscribed()
    stored = await one.fill(one.key())
    assert as_stored((await one.tiers.lookup(one.key())).entry) == stored


async def test_a_message_has_the_age_and_the_kind_of_a_write(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix)
    await one.tiers.invalidate([FOLDED], "write", settles=True)
    await one.tiers.invalidate([b"purged"], "purge", settles=False)
    sent = bytes(proxy.recorded[Way.UP])
    messages = [read_message(line) for line in sent.split(b"\r\n") if line.startswith(b'{"stack"')]
    sent_about = {one.stack: (one.settles, one.age_s < 1) for one in messages if one is not None}
    assert sent_about == {"stack-1": (True, True), "purged": (False, True)}


def gated(proxy: FaultProxy, way: Way, marker: bytes) -> Gate:
    """Hold back every piece that goes this way with a marker in it, until the gate is opened."""
    gate = Gate()

    async def hold(towards: Way, piece: bytes) -> None:
        if towards is way and marker in piece:
            await gate.passed()

    proxy.tap = hold
    return gate


async def test_a_stalled_redis_stops_no_look_up_in_memory(
    replicas: Replicas, redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis.address)
    one = await replicas(f"redis://{proxy.address}/0", redis.prefix, timeout_s=0.1)
    await one.fill(one.key())
    proxy.mode = STALL
    assert await one.found(one.key()) is not None
    assert (await one.tiers.lookup(one.key(b"b"))).has_failed
