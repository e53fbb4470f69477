"""Batches look-ups in Redis: many in one round trip."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import msgspec

from gateway.core.caching.key import EntryKey
from gateway.store.redis_errors import StoreError

# Look-ups in one MGET; a larger one would block Redis for other clients.
_BATCH = 64
# While a batch is under way, how long later look-ups wait to go together.
_GATHER_S = 0.001


class LookupValues(msgspec.Struct, frozen=True, gc=False):
    """The values of an entry's key and of its stack's generation key; ``None`` where there is none."""

    entry: object
    generation: object


OnValues = Callable[[LookupValues | StoreError], None]
"""Called once with the values, or with why they are unknown."""


class LookupBatcher:
    """Collects look-ups and sends them together.

    A batch holds those of one turn of the event loop; while others are under way also those of the next
    millisecond, because a command costs more than its keys.

    Args:
        timeout_s: how long each of them waits.
        mget: reads keys in order; raises `StoreError`.
        start: runs a batch as a task.
    """

    def __init__(
        self,
        timeout_s: float,
        mget: Callable[[list[bytes]], Awaitable[list[object]]],
        start: Callable[[Coroutine[None, None, None], str], object],
    ) -> None:
        self._timeout_s = timeout_s
        self._mget = mget
        self._start = start
        self._waiting: list[tuple[EntryKey, OnValues]] = []
        self._under_way = 0
        self._next: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, key: EntryKey, on_values: OnValues) -> None:
        """Look up one entry; ``on_values`` is called later, within the timeout."""
        if self._next is None:
            loop = self._loop
            self._next = (
                loop.call_later(_GATHER_S, self._send) if self._under_way else loop.call_soon(self._send)
            )
        self._waiting.append((key, on_values))

    def _send(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH):
            self._start(self._look_up(waiting[start : start + _BATCH]), "redis-lookup")

    async def _look_up(self, batch: list[tuple[EntryKey, OnValues]]) -> None:
        # One deadline for all of one turn. The command itself is not cancelled.
        deadline = self._loop.call_later(self._timeout_s, self._time_out, batch)
        self._under_way += 1
        outcomes: Iterable[LookupValues | StoreError]
        try:
            values = await self._mget([name for key, _ in batch for name in (key.name, key.generation)])
            outcomes = map(LookupValues, values[::2], values[1::2])
        except StoreError as error:
            outcomes = itertools.repeat(error)
        finally:
            deadline.cancel()
            self._under_way -= 1
            if self._waiting:
                self._send()
        self._deliver(batch, outcomes)

    def _time_out(self, batch: list[tuple[EntryKey, OnValues]]) -> None:
        waiting = batch[:]
        batch.clear()
        self._deliver(waiting, itertools.repeat(StoreError("timeout")))

    def _deliver(
        self, batch: list[tuple[EntryKey, OnValues]], outcomes: Iterable[LookupValues | StoreError]
    ) -> None:
        for (_, on_values), outcome in zip(batch, outcomes, strict=False):
            try:
                on_values(outcome)
            except Exception as error:  # a fault in one request keeps no other from its outcome
                self._loop.call_exception_handler({"message": "after a look-up", "exception": error})
