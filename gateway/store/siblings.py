"""Tiers of one worker among several: each hears what the others forget before a write is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from gateway.channel import Heard, Message, Questions, Tell, Told
from gateway.core.key import EntryKey
from gateway.store.tiers import Tiers

# A worker that does not hear in time is stopped or busy, so it serves nobody meanwhile. When it goes on, a
# request may come to its turn before the word; so copies are served for a shorter time than this without a
# look whether there is one.
_HEARD_S = 0.25
_SURE_S = 0.2


class Siblings:
    """The other workers, over the channel to the parent.

    Args:
        send: sends a message without waiting.
        hears_all: tells whether everything that they said was heard; never waits.
    """

    def __init__(self, send: Callable[[Message], None], hears_all: Callable[[], bool]) -> None:
        self.hears_all = hears_all
        self._send = send
        self._questions = Questions()

    def tell(self, told: list[Told]) -> tuple[int, asyncio.Future[bytes]]:
        """Tell all of them, without waiting; the result is for `heard`."""
        question, answer = self._questions.new()
        self._send(Tell(question, told))
        return question, answer

    async def heard(self, telling: tuple[int, asyncio.Future[bytes]]) -> bool:
        """Wait, not for long, until all of them have forgotten it, and tell whether they have."""
        question, answer = telling
        try:
            done, _ = await asyncio.wait((answer,), timeout=_HEARD_S)
        finally:
            self._questions.forget(question)
        return bool(done)

    def answered(self, heard: Heard) -> None:
        """Take the parent's word that all have heard."""
        self._questions.answered(heard.question, b"")


class WorkerTiers(Tiers):
    """Tiers that tell the other workers what they forget and drop.

    Args:
        siblings: the other workers.
        arguments: see `Tiers`.
    """

    def __init__(self, siblings: Siblings, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._siblings = siblings
        if self.memory is not None:
            self.memory.make_sure(siblings.hears_all, _SURE_S)

    def _remove(self, key: EntryKey) -> None:
        super()._remove(key)
        self._siblings.tell([Told(entry=key.local, name=key.name)])

    async def forget(self, stacks: Iterable[bytes], cause: str, *, settles: bool) -> bool:
        """Make every stored entry of these stacks unusable; see `Tiers.forget`.

        The others are told in the same stretch, and Redis while they hear it.
        """
        forgotten = list(stacks)
        telling = self._siblings.tell([Told(stack=stack, settles=settles) for stack in forgotten])
        is_paid = await super().forget(forgotten, cause, settles=settles)
        return await self._siblings.heard(telling) and is_paid

    def hear(self, told: Iterable[Told]) -> None:
        """Forget or drop what another worker did, in one stretch.

        Until this worker has told Redis itself, it does not use Redis for such a stack: the other one
        may not have reached it yet.
        """
        now_s = self._clock.monotonic_s()
        for each in told:
            if each.entry:
                self._dropped_elsewhere(each.name)
                if self.memory is not None:
                    self.memory.discard(EntryKey(each.name, b"", b"", b"", each.entry))
                continue
            owes = self.redis is not None
            self.ledger.note(each.stack, now_s, 0.0, settles=each.settles, owes=owes)
            self._forget_here(each.stack)
            self._metrics.forgotten["note"] += 1
        self._wake_payments()

    def start_over(self) -> None:
        """Trust nothing in memory: what the others forgot may have gone unheard."""
        self._start_over()
