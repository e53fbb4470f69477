"""The contract of every store: memory, Redis, Valkey, and the tiers over both."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import pytest

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey
from gateway.core.http.messages import Head
from gateway.store.lookup import FAILED, LookupResult
from gateway.store.memory import MemoryStore
from gateway.store.redis_errors import StoreError
from tests.store.conftest import Replicas
from tests.store.kit import DirectRedis, Replica, Times, as_stored, direct_redis, entry_of, key_of
from tests.testbed.redis_server import RedisServer

KINDS = ["memory", "redis", "valkey", "tiers", "tiers on redis alone", "tiers in memory alone"]


class Store(Protocol):
    """What all of them do; a failure is `StoreError`, that of a look-up in its result."""

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Return the fresh entry under a key."""

    async def put(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Store an entry until its end."""

    async def drop(self, key: EntryKey) -> None:
        """Remove one entry."""

    async def invalidate(self, key: EntryKey) -> None:
        """Make every entry of the key's stack unusable."""

    async def close(self) -> None:
        """Close everything."""


class MemoryAsStore:
    """The memory tier under the contract."""

    def __init__(self, memory: MemoryStore, times: Times) -> None:
        self._memory = memory
        self._clock = times.clock

    async def lookup(self, key: EntryKey) -> LookupResult:
        return LookupResult(self._memory.get(key.local))

    async def put(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        self._memory.put(key, entry, self._clock.monotonic_s() + entry.ttl_s(self._clock.wall_s()))

    async def drop(self, key: EntryKey) -> None:
        self._memory.discard(key.local)

    async def invalidate(self, key: EntryKey) -> None:
        self._memory.discard_stack(key.stack)

    async def close(self) -> None:
        self._memory.clear()


class TiersAsStore:
    """The tiers under the contract: what is queued has been sent when a call returns."""

    def __init__(self, one: Replica) -> None:
        self._one = one

    async def lookup(self, key: EntryKey) -> LookupResult:
        return await self._one.tiers.lookup(key)

    async def put(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        is_live = entry.ttl_s(self._one.times.clock.wall_s()) > 0
        self._one.tiers.store(await self._one.begin_fill(key), entry)
        await self._one.in_redis(key, entry if is_live else None)

    async def drop(self, key: EntryKey) -> None:
        self._one.drop(key)
        await self._one.in_redis(key, None)

    async def invalidate(self, key: EntryKey) -> None:
        if not await self._one.tiers.invalidate([key.stack], "purge", settles=False):
            raise StoreError("failed")
        await self._one.confirmed()

    async def close(self) -> None:
        await self._one.tiers.close(1.0)


@dataclass
class Case:
    """A store under the contract."""

    store: Store
    times: Times
    prefix: str

    def key(self, caller: bytes = b"a", *, stack: bytes = b"Stack-1", action: bytes = b"x") -> EntryKey:
        """Return a key."""
        return key_of(self.prefix, caller, stack=stack, action=action)

    async def put(self, key: EntryKey, entry: Entry | None = None) -> Entry:
        """Store an entry under the stack's generation."""
        entry = entry or entry_of()
        generation: bytes | None = b""
        if isinstance(self.store, DirectRedis):
            generation = await self.store.store.mint(key)
        assert generation is not None
        await self.store.put(key, entry, generation)
        return entry

    async def get(self, key: EntryKey) -> Entry | None:
        """Look an entry up."""
        result = await self.store.lookup(key)
        assert not result.has_failed
        return as_stored(result.entry)


@pytest.fixture(params=KINDS)
async def case(request: pytest.FixtureRequest, replicas: Replicas) -> AsyncIterator[Case]:
    kind: str = request.param
    server: RedisServer | None = None
    if "memory" not in kind:
        server = request.getfixturevalue("valkey" if kind == "valkey" else "redis")
    prefix = server.prefix if server else "p"
    if kind.startswith("tiers"):
        one = await replicas(
            server.url if server else None,
            prefix,
            memory_bytes=0 if kind == "tiers on redis alone" else 1 << 20,
        )
        yield Case(TiersAsStore(one), one.times, prefix)
        return
    times = Times()
    store: Store
    if server:
        store = direct_redis(server.url, prefix, clock=times.clock)
    else:
        store = MemoryAsStore(MemoryStore(1 << 20, times.clock), times)
    yield Case(store, times, prefix)
    await store.close()


async def test_what_was_never_stored_is_absent(case: Case) -> None:
    assert await case.get(case.key()) is None


async def test_what_was_stored_is_found_with_head_body_and_times(case: Case) -> None:
    stored = await case.put(case.key(), entry_of(b'\x00\xff{"b": 2}\r\n'))
    assert await case.get(case.key()) == stored


async def test_an_empty_body_and_an_empty_reason_are_kept(case: Case) -> None:
    entry = msgspec.structs.replace(entry_of(b""), lines=Head(200, b"", ()).lines())
    await case.put(case.key(), entry)
    assert await case.get(case.key()) == entry


async def test_a_neighbour_does_not_find_it(case: Case) -> None:
    await case.put(case.key())
    for other in (
        case.key(b"b"),
        case.key(action=b"y"),
        case.key(stack=b"stack-1"),  # invalidated together, but another raw id is another record
        case.key(stack=b"stack-2"),
    ):
        assert await case.get(other) is None


async def test_a_second_store_replaces_the_first(case: Case) -> None:
    await case.put(case.key(), entry_of(b"first", ttl_s=90))
    second = await case.put(case.key(), entry_of(b"second"))
    assert await case.get(case.key()) == second


async def test_an_entry_ends_with_its_time_to_live(case: Case) -> None:
    await case.put(case.key(), entry_of(ttl_s=20))
    case.times.move(19)
    assert await case.get(case.key()) is not None
    case.times.move(1.5)
    assert await case.get(case.key()) is None


async def test_what_is_over_already_is_not_found(case: Case) -> None:
    await case.put(case.key(), entry_of(ttl_s=-1))
    assert await case.get(case.key()) is None


async def test_what_is_dropped_is_absent_and_its_neighbours_stay(case: Case) -> None:
    await case.put(case.key())
    await case.put(case.key(b"b"))
    await case.store.drop(case.key())
    await case.store.drop(case.key(b"never stored"))
    assert await case.get(case.key()) is None
    assert await case.get(case.key(b"b")) is not None


async def test_what_was_dropped_can_be_stored_again(case: Case) -> None:
    await case.put(case.key())
    await case.store.drop(case.key())
    stored = await case.put(case.key(), entry_of(b"again"))
    assert await case.get(case.key()) == stored


async def test_an_invalidation_concerns_every_entry_of_the_stack_and_no_other(case: Case) -> None:
    of_stack = [
        case.key(caller, stack=stack, action=action)
        for caller in (b"a", b"b")
        for stack in (b"Stack-1", b"STACK-1")
        for action in (b"x", b"y")
    ]
    others = [case.key(stack=stack) for stack in (b"stack-11", b"stack-", b"tack-1")]
    for key in (*of_stack, *others):
        await case.put(key)
    await case.store.invalidate(case.key())
    assert [await case.get(key) for key in of_stack] == [None] * len(of_stack)
    assert None not in [await case.get(key) for key in others]


async def test_an_unknown_stack_can_be_invalidated(case: Case) -> None:
    await case.store.invalidate(case.key(stack=b"unknown"))
    assert await case.get(case.key()) is None


async def test_an_invalidated_stack_can_be_stored_again(case: Case) -> None:
    await case.put(case.key(), entry_of(b"before"))
    await case.store.invalidate(case.key())
    after = await case.put(case.key(), entry_of(b"after"))
    assert await case.get(case.key()) == after


async def test_a_store_can_be_closed_twice(case: Case) -> None:
    await case.put(case.key())
    await case.store.close()
    await case.store.close()


@pytest.fixture(params=["killed", "paused"])
async def broken(
    request: pytest.FixtureRequest, own_redis: RedisServer
) -> AsyncIterator[tuple[DirectRedis, EntryKey]]:
    redis = direct_redis(own_redis.url, own_redis.prefix, timeout_s=0.05)
    key = key_of(own_redis.prefix)
    generation = await redis.store.mint(key)
    assert generation is not None
    await redis.put(key, entry_of(), generation)
    if request.param == "killed":
        own_redis.kill()
    else:
        own_redis.pause()
    yield redis, key
    if request.param == "paused":
        own_redis.resume()
    await redis.close()


async def test_a_redis_that_fails_is_an_error_and_never_an_absent_entry(
    broken: tuple[DirectRedis, EntryKey],
) -> None:
    redis, key = broken
    assert await redis.lookup(key) is FAILED
    assert await redis.store.mint(key) is None
    for failing in (redis.put(key, entry_of(), b"g" * 16), redis.drop(key), redis.invalidate(key)):
        with pytest.raises(StoreError):
            await failing
