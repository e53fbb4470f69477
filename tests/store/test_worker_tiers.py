"""Tiers of workers: what one tells, and what the others do until they hear it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from gateway.clock import Clock
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.server.channel import Invalidate, Invalidation, Message
from gateway.server.shared_counts import SharedCounts, open_shared_counts
from gateway.store.lookup import LookupResult
from gateway.store.tiers import TierSettings
from gateway.store.worker_tiers import WorkerPeers, WorkerTiers
from gateway.telemetry.metrics import Metrics
from tests.store.kit import FOLDED, UPSTREAM, entry_of, key_of, prepare_fill

PREFIX = "p"
KEY = key_of(PREFIX)
OTHER = key_of(PREFIX, stack=b"other")


class Worker:
    """Tiers of one of two workers.

    Attributes:
        said: what it has told, not delivered yet.
        started_over: how often all flights had to be detached.
    """

    def __init__(self, number: int, counts: int) -> None:
        self.said: list[Message] = []
        self.started_over = 0
        self.tiers = WorkerTiers(
            WorkerPeers(number, self.said.append, SharedCounts(counts, number)),
            TierSettings(1_000_000, 30.0, 3600.0, 600.0, None),
            keys=KeySpace(PREFIX, UPSTREAM),
            secret=b"",
            clock=Clock(),
            metrics=Metrics(),
            on_forget=lambda stack: None,
            on_start_over=self._start_over,
        )

    def keep(self, *keys: EntryKey) -> None:
        for key in keys:
            fill_token = self.tiers.begin_fetch(self.tiers.fill_token(key))
            assert self.tiers.store(fill_token, entry_of()) is None

    async def has(self, key: EntryKey) -> bool:
        return (await self.tiers.lookup(key)).entry is not None

    async def forget(self) -> Invalidate:
        await self.tiers.forget([FOLDED], "write", settles=True)
        told = self.said.pop()
        assert isinstance(told, Invalidate)
        return told

    def _start_over(self) -> None:
        self.started_over += 1


@pytest.fixture
async def workers() -> AsyncIterator[tuple[Worker, Worker]]:
    counts = open_shared_counts(2)
    one, other = Worker(0, os.dup(counts)), Worker(1, counts)
    yield one, other
    for each in (one, other):
        await each.tiers.close(0.1)


async def test_nothing_is_served_at_once_and_what_was_not_forgotten_is_once_it_was_heard(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    told = await one.forget()
    assert other.tiers.peek(OTHER) is None
    looking = [asyncio.create_task(other.has(key)) for key in (KEY, OTHER)]
    await asyncio.sleep(0)
    # Another write meanwhile is none of theirs.
    other.tiers.hear(told)
    await one.forget()
    assert await asyncio.gather(*looking) == [False, True]
    assert other.started_over == 0


async def test_what_does_not_come_is_waited_for_no_longer_than_a_moment(
    workers: tuple[Worker, Worker],
) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    await one.forget()
    async with asyncio.timeout(1):
        assert await asyncio.gather(*(other.has(key) for key in (KEY, OTHER))) == [False, False]
    assert other.started_over == 1
    other.keep(KEY)
    assert await other.has(KEY)


async def test_who_has_missed_something_starts_over(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    await one.forget()
    other.tiers.hear(await one.forget())
    assert other.started_over == 1
    assert not await other.has(OTHER)


async def test_what_is_dropped_is_told_without_holding_up_anybody(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    other.keep(KEY, OTHER)
    one.tiers.drop(one.tiers.begin_fetch(one.tiers.fill_token(KEY)), LookupResult(None))
    assert await other.has(KEY)
    (told,) = one.said
    assert isinstance(told, Invalidate)
    other.tiers.hear(told)
    assert (await other.has(KEY), await other.has(OTHER)) == (False, True)


async def refused(worker: Worker, caller: bytes = b"a") -> None:
    """Do what a fetch does whose answer may not be kept, such as a poll of a running execution."""
    tiers, key = worker.tiers, key_of(PREFIX, caller)
    fill_token = tiers.fill_token(key)
    lookup = await tiers.lookup(key)
    tiers.drop(await prepare_fill(tiers, fill_token, lookup), lookup)


async def test_polls_of_what_is_not_kept_tell_the_others_nothing(
    workers: tuple[Worker, Worker],
) -> None:
    one, _ = workers
    for caller in (b"a", b"a", b"b"):
        await refused(one, caller)
    assert one.said == []


async def test_what_was_kept_and_is_over_is_told_to_the_others_once(
    workers: tuple[Worker, Worker],
) -> None:
    tiers, sent, key = workers[0].tiers, workers[0].said, KEY
    tiers.store(await prepare_fill(tiers, tiers.fill_token(key), LookupResult(None)), entry_of())
    for _ in range(3):
        # It was asked for without a look-up, as with no-cache; after that it is known to be absent.
        tiers.drop(tiers.begin_fetch(tiers.fill_token(key)), LookupResult(None, is_absent=bool(sent)))
    assert sent == [Invalidate(0, 0, [Invalidation(entry=key.local)])]
    assert tiers.peek(key) is None


async def test_a_drop_heard_of_ends_the_copy_and_the_fetches_under_way(
    workers: tuple[Worker, Worker],
) -> None:
    tiers, key, other = workers[0].tiers, KEY, key_of(PREFIX, b"b")
    fill_token = await prepare_fill(tiers, tiers.fill_token(key), LookupResult(None))
    neighbour = await prepare_fill(tiers, tiers.fill_token(other), LookupResult(None))
    tiers.hear(Invalidate(1, 0, [Invalidation(entry=key.local)]))
    assert tiers.store(fill_token, entry_of()) is Reason.FORGOTTEN
    assert tiers.store(neighbour, entry_of()) is None
    assert tiers.peek(key) is None
    assert (
        tiers.store(await prepare_fill(tiers, tiers.fill_token(key), LookupResult(None)), entry_of()) is None
    )


async def test_a_forget_heard_of_voids_what_is_under_way_and_owes_nothing_without_redis(
    workers: tuple[Worker, Worker],
) -> None:
    tiers, key = workers[0].tiers, KEY
    fill_token = await prepare_fill(tiers, tiers.fill_token(key), LookupResult(None))
    tiers.hear(Invalidate(1, 1, [Invalidation(stack=FOLDED, settles=True)]))
    assert tiers.store(fill_token, entry_of()) is Reason.FORGOTTEN
    assert tiers.invalidations.owed == 0
