"""Tiers of one worker among several: none serves what another one's write has made unusable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from gateway.core.caching.key import EntryKey
from gateway.server.channel import Invalidate, Invalidation, Message
from gateway.server.shared_counts import SharedCounts
from gateway.store.lookup import EarlyLookup, LookupResult
from gateway.store.tiers import Tiers

# How long a look-up waits for what was told: the parent or the teller may be busy, stopped or gone.
_HEARD_S = 0.25


class WorkerPeers:
    """The other workers: what they tell comes over the parent, how much that is stands in shared memory.

    Args:
        number: which of the workers this one is.
        send: sends a message without waiting.
        counts: how much each worker has told.
    """

    def __init__(self, number: int, send: Callable[[Message], object], counts: SharedCounts) -> None:
        self.counts = counts
        self._number = number
        self._send = send

    def tell(self, told: list[Invalidation]) -> None:
        """Tell all of them; from now on none serves a copy before it has heard."""
        self._send(Invalidate(self._number, self.counts.raise_own(), told))

    def tell_soon(self, told: Invalidation) -> None:
        """Tell all of them; until they hear they go on as before."""
        self._send(Invalidate(self._number, 0, [told]))


class WorkerTiers(Tiers):
    """Tiers that tell the other workers what they forget and drop.

    Args:
        siblings: the other workers.
        arguments: see `Tiers`.
    """

    def __init__(self, peers: WorkerPeers, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._peers = peers
        self._counts = peers.counts
        # Set for a moment with each message.
        self._has_heard = asyncio.Event()
        if self.memory is not None:
            self.memory.check_with(self._counts.is_current)

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Look into memory, then into Redis, as soon as all is heard that was told until now."""
        if not self._counts.is_current():
            await self._catch_up()
            # More may have been told meanwhile, but not before this was asked.
            if self.memory is not None and (entry := self.memory.get(key.local, is_checked=True)) is not None:
                return LookupResult(entry)
        return await super().lookup(key)

    def lookup_now(self, key: EntryKey) -> EarlyLookup | None:
        """See `Tiers.lookup_now`; what may have to be invalidated first is waited for."""
        return super().lookup_now(key) if self._counts.is_current() else None

    def ask_redis(self, key: EntryKey, told: Callable[[EarlyLookup], None]) -> bool:
        """See `Tiers.ask_redis`; it is not asked about what may have to be forgotten first."""
        return self._counts.is_current() and super().ask_redis(key, told)

    def _remove(self, key: EntryKey) -> None:
        super()._remove(key)
        self._peers.tell_soon(Invalidation(entry=key.local))

    async def forget(self, stacks: Iterable[bytes], cause: str, *, settles: bool) -> bool:
        """Make every stored entry of these stacks unusable, in all workers at once; see `Tiers.forget`."""
        forgotten = list(stacks)
        self._peers.tell([Invalidation(stack=stack, settles=settles) for stack in forgotten])
        return await super().forget(forgotten, cause, settles=settles)

    def hear(self, message: Invalidate) -> None:
        """Forget or drop what another worker did, in one stretch.

        Until this worker has told Redis itself, it does not use Redis for such a stack: the other one
        may not have reached it yet.
        """
        now_s = self._clock.monotonic_s()
        for each in message.told:
            if each.entry:
                self._dropped_elsewhere(each.entry)
                if self.memory is not None:
                    self.memory.discard(each.entry)
                continue
            owes = self.redis is not None
            self.invalidations.note(each.stack, now_s, 0.0, settles=each.settles, owes=owes)
            self._forget_here(each.stack)
            self._metrics.forgotten["note"] += 1
        self._wake_payments()
        if not self._counts.hear(message.teller, message.number):
            self.start_over()
        self._has_heard.set()
        self._has_heard.clear()

    def start_over(self) -> None:
        """Trust nothing in memory: what the others forgot may have gone unheard."""
        self._counts.catch_up()
        self._start_over()

    async def _catch_up(self) -> None:
        """Wait until all is heard that was told until now; start over when it does not come."""
        told = self._counts.read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_S):
                while not self._counts.covers(told):
                    await self._has_heard.wait()
        if not self._counts.covers(told):
            self.start_over()
