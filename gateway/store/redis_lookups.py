"""Look-ups in Redis, joined: many go in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from gateway.core.caching.key import EntryKey
from gateway.store.base import StoreError

# Keys of one MGET; a larger batch would hold up Redis for everybody else.
_BATCH = 64
# While a batch is under way, how long others wait for its end, to go together.
_GATHER_S = 0.001


class Values(msgspec.Struct, frozen=True, gc=False):
    """What stands at an entry's key and at its stack's generation; ``None`` where nothing does."""

    entry: object
    generation: object


Told = Callable[[Values | StoreError], None]
"""Called once with what was found, or with why nothing is known."""


class LookupBatcher:
    """Collects look-ups and sends them: those of one turn of the event loop, and under load those that come
    while others are under way, since a command costs more than what it asks for.

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
        self._asked: list[tuple[EntryKey, Told]] = []
        self._under_way = 0
        self._next: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    def ask(self, key: EntryKey, told: Told) -> None:
        """Look up one entry; ``told`` is called later, in time."""
        if self._next is None:
            loop = self._loop
            self._next = (
                loop.call_later(_GATHER_S, self._send) if self._under_way else loop.call_soon(self._send)
            )
        self._asked.append((key, told))

    def _send(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), _BATCH):
            self._start(self._look_up(asked[start : start + _BATCH]), "redis-lookup")

    async def _look_up(self, batch: list[tuple[EntryKey, Told]]) -> None:
        # One deadline for all: they were asked in the same turn. The command itself goes on to its own end.
        late = self._loop.call_later(self._timeout_s, _give_up, batch)
        self._under_way += 1
        try:
            values = await self._mget([name for key, _ in batch for name in (key.name, key.generation)])
        except StoreError as error:
            for _, told in batch:
                told(error)
            return
        finally:
            late.cancel()
            self._under_way -= 1
            if self._asked:
                self._send()
        for position, (_, told) in enumerate(batch):
            told(Values(values[2 * position], values[2 * position + 1]))


def _give_up(batch: list[tuple[EntryKey, Told]]) -> None:
    waiting = batch[:]
    batch.clear()
    for _, told in waiting:
        told(StoreError("timeout"))
