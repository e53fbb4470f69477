"""Tiers of workers: what one tells, and what the others do until they hear it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from gateway.channel import Message, Tell
from gateway.clock import Clock
from gateway.core.key import EntryKey, KeySpace
from gateway.metrics import Metrics
from gateway.shared_counts import SharedCounts, open_shared_counts
from gateway.store.siblings import Siblings, WorkerTiers
from gateway.store.tiers import TierSettings
from tests.store.kit import FOLDED, UPSTREAM, entry_of, key_of

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
            Siblings(number, self.said.append, SharedCounts(counts, number)),
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
            assert self.tiers.store(self.tiers.ticket(key), entry_of()) is None

    async def has(self, key: EntryKey) -> bool:
        return (await self.tiers.lookup(key)).entry is not None

    async def forget(self) -> Tell:
        await self.tiers.forget([FOLDED], "write", settles=True)
        told = self.said.pop()
        assert isinstance(told, Tell)
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
    one.tiers.drop(KEY)
    assert await other.has(KEY)
    (told,) = one.said
    assert isinstance(told, Tell)
    other.tiers.hear(told)
    assert (await other.has(KEY), await other.has(OTHER)) == (False, True)
