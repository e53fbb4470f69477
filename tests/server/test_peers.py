"""The tiers of several workers: what one sends, and what the others do until they have received it."""

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import pytest

from gateway.clock import Clock
from gateway.config.model import CacheConfig
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.entry import RunningEntry
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.server.messages import Invalidate, Message
from gateway.server.peers import ChannelPeers
from gateway.server.shared_counts import SharedCounts, open_shared_counts
from gateway.store.lookup import ABSENT, LookupResult
from gateway.store.peers import Invalidation
from gateway.store.tiers import Tiers
from gateway.telemetry.metrics import Metrics
from tests.store.kit import FOLDED, UPSTREAM, entry_of, key_of

PREFIX = "p"
KEY = key_of(PREFIX)
OTHER = key_of(PREFIX, stack=b"other")


class Worker:
    """Tiers of one of two workers.

    Attributes:
        sent: messages to the parent, not delivered yet.
        started_over: how often all fetches had to be detached.
    """

    def __init__(self, number: int, counts: int) -> None:
        self.sent: list[Message] = []
        self.started_over = 0
        self.peers = ChannelPeers(number, self.sent.append, SharedCounts(counts, number))
        self.tiers = Tiers(
            CacheConfig(),
            3600.0,
            None,
            keys=KeySpace(PREFIX, UPSTREAM),
            secret=b"",
            clock=Clock(),
            metrics=Metrics(),
            on_invalidate=lambda stack: None,
            on_drop=lambda _: None,
            on_start_over=self._start_over,
            peers=self.peers,
        )

    def keep(self, *keys: EntryKey) -> None:
        for key in keys:
            fill_token = self.tiers.begin_fetch(self.tiers.fill_token(key))
            assert self.tiers.store(fill_token, entry_of()) is None

    async def has(self, key: EntryKey) -> bool:
        return (await self.tiers.lookup(key)).entry is not None

    async def invalidate(self) -> Invalidate:
        await self.tiers.invalidate([FOLDED], "write", settles=True)
        message = self.sent.pop()
        assert isinstance(message, Invalidate)
        return message

    def receive(self, message: Message) -> None:
        assert isinstance(message, Invalidate)
        self.tiers.invalidations_received(message.invalidations)
        if not self.peers.received(message):
            self.tiers.start_over()

    def _start_over(self) -> None:
        self.started_over += 1


@pytest.fixture
async def workers() -> AsyncIterator[tuple[Worker, Worker]]:
    counts = open_shared_counts(2)
    one, other = Worker(0, os.dup(counts)), Worker(1, counts)
    yield one, other
    for each in (one, other):
        await each.tiers.close(0.1)


async def test_after_an_invalidation_a_lookup_waits_for_it_and_then_serves_other_stacks(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    message = await one.invalidate()
    assert other.tiers.peek(OTHER) is None
    looking = [asyncio.create_task(other.has(key)) for key in (KEY, OTHER)]
    await asyncio.sleep(0)
    # They do not wait for a later one.
    other.receive(message)
    await one.invalidate()
    assert await asyncio.gather(*looking) == [False, True]
    assert other.started_over == 0


async def test_a_lookup_waits_only_briefly_for_an_invalidation(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    await one.invalidate()
    async with asyncio.timeout(1):
        assert await asyncio.gather(*(other.has(key) for key in (KEY, OTHER))) == [False, False]
    assert other.started_over == 1
    other.keep(KEY)
    assert await other.has(KEY)


async def test_a_worker_that_has_missed_an_invalidation_starts_over(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    await one.invalidate()
    other.receive(await one.invalidate())
    assert other.started_over == 1
    assert not await other.has(OTHER)


async def test_a_dropped_entry_is_sent_and_nobody_waits_for_it(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    await _fetch_and_drop(one, b"a", everywhere=True)
    assert await other.has(KEY)
    (message,) = one.sent
    other.receive(message)
    assert (await other.has(KEY), await other.has(OTHER)) == (False, True)


async def _fetch_and_drop(worker: Worker, caller: bytes, *, everywhere: bool) -> None:
    """Do what a fetch does whose response may not be stored: everywhere, or of a running execution."""
    tiers, key = worker.tiers, key_of(PREFIX, caller)
    fill_token = tiers.fill_token(key)
    lookup = await tiers.lookup(key)
    tiers.drop(tiers.begin_fetch(fill_token), lookup, everywhere=everywhere)


async def test_polls_that_are_not_stored_send_nothing(workers: tuple[Worker, Worker]) -> None:
    one, _ = workers
    for caller in (b"a", b"a", b"b"):
        await _fetch_and_drop(one, caller, everywhere=False)
    assert one.sent == []


async def test_a_stored_entry_that_is_dropped_is_sent_once(workers: tuple[Worker, Worker]) -> None:
    tiers, sent, key = workers[0].tiers, workers[0].sent, KEY
    workers[0].keep(key)
    for _ in range(3):
        # The first request came without a look-up, as with no-cache; later ones know it is absent.
        lookup = LookupResult(None, is_absent=bool(sent))
        tiers.drop(tiers.begin_fetch(tiers.fill_token(key)), lookup, everywhere=False)
    assert sent == [Invalidate(0, 0, [Invalidation(entry=key.local)])]
    assert tiers.peek(key) is None


async def test_a_received_drop_ends_the_copy_and_the_fetches_under_way(
    workers: tuple[Worker, Worker],
) -> None:
    tiers, key, other = workers[0].tiers, KEY, key_of(PREFIX, b"b")
    fill_token = tiers.begin_fetch(tiers.fill_token(key))
    neighbour = tiers.begin_fetch(tiers.fill_token(other))
    workers[0].receive(Invalidate(1, 0, [Invalidation(entry=key.local)]))
    assert tiers.store(fill_token, entry_of()) is Reason.INVALIDATED
    assert tiers.store(neighbour, entry_of()) is None
    assert tiers.peek(key) is None
    workers[0].keep(key)


async def test_a_received_invalidation_voids_fetches_under_way_and_leaves_nothing_pending_without_redis(
    workers: tuple[Worker, Worker],
) -> None:
    tiers, key = workers[0].tiers, KEY
    fill_token = tiers.begin_fetch(tiers.fill_token(key))
    workers[0].receive(Invalidate(1, 1, [Invalidation(stack=FOLDED, settles=True)]))
    assert tiers.store(fill_token, entry_of()) is Reason.INVALIDATED
    assert tiers.invalidations.pending == 0


async def test_that_an_execution_still_runs_is_no_news_to_the_other_workers(
    workers: tuple[Worker, Worker],
) -> None:
    one, _ = workers
    running = msgspec.convert(msgspec.structs.asdict(entry_of()), RunningEntry)
    fill_token = one.tiers.begin_fetch(one.tiers.fill_token(KEY))
    assert one.tiers.store(fill_token, running) is None
    for lookup in (await one.tiers.lookup(KEY), ABSENT):
        one.tiers.drop(one.tiers.begin_fetch(one.tiers.fill_token(KEY)), lookup, everywhere=False)
        assert one.sent == []
        assert one.tiers.peek(KEY) is None
        one.tiers.store(one.tiers.begin_fetch(one.tiers.fill_token(KEY)), running)
    # That it may not be seen any more is.
    one.tiers.drop(one.tiers.begin_fetch(one.tiers.fill_token(KEY)), ABSENT, everywhere=True)
    assert len(one.sent) == 1
    # And so is that a settled one runs again.
    one.keep(KEY)
    one.tiers.drop(one.tiers.begin_fetch(one.tiers.fill_token(KEY)), ABSENT, everywhere=False)
    assert len(one.sent) == 2
