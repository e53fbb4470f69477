"""What this replica has forgotten, what it still owes Redis, and what may have gone unseen.

Everything here changes in one stretch without ``await``: a forget that is half done could let a
stale copy back in. Times are monotonic seconds and come in as ``now_s``.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict

import msgspec

REPEAT_S = 600.0
"""How long a forget is repeated whenever a Redis connection is opened: a failover may have undone it."""

_LIMIT = 100_000


class Debt(msgspec.Struct, frozen=True, gc=False):
    """A forget that Redis has not confirmed.

    Attributes:
        stack: case-folded stack id.
        sequence: the number that both replies must answer to.
        owed_s: since when it is owed.
        written_s: when the write was answered.
        settles: the write takes effect after its answer.
        published: other replicas must be told too; false when this replica was told by one.
    """

    stack: bytes
    sequence: int
    owed_s: float
    written_s: float
    settles: bool
    published: bool


class Counts:
    """Change counters by name, bounded: a forgotten name reads as changed, never as unchanged."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._floor = 0
        self._sequence = itertools.count(1)

    def read(self, name: bytes) -> int:
        """Return the counter of a name."""
        return self._counts.get(name, self._floor)

    def raise_one(self, name: bytes) -> None:
        """Change the counter of a name."""
        self._counts[name] = next(self._sequence)
        self._counts.move_to_end(name)
        if len(self._counts) > self._limit:
            _, self._floor = self._counts.popitem(last=False)

    def raise_all(self) -> None:
        """Change every counter."""
        self._counts.clear()
        self._floor = next(self._sequence)


class _Write(msgspec.Struct, frozen=True, gc=False):
    written_s: float
    settles: bool


class Ledger:
    """Forgets, debts and settling times of one replica.

    Args:
        longest_ttl_s: no entry outlives this; neither does a debt.
        settle_s: how long after a write a stack's records may still change.
        limit: how many stacks are kept track of one by one.
    """

    def __init__(self, longest_ttl_s: float, settle_s: float, limit: int = _LIMIT) -> None:
        self.counts = Counts(limit)
        self.drops = Counts(limit)
        self._longest_ttl_s = longest_ttl_s
        self._settle_s = settle_s
        self._limit = limit
        self._sequence = itertools.count(1)
        self._debts: dict[bytes, Debt] = {}
        self._own: OrderedDict[bytes, _Write] = OrderedDict()
        self._noted: OrderedDict[bytes, _Write] = OrderedDict()
        self._settling: OrderedDict[bytes, float] = OrderedDict()
        # Until these times too much happened to be told apart, so every stack is treated alike.
        self._unused_until_s = 0.0
        self._lost_track_until_s = 0.0
        self._uncertain_until_s = 0.0

    @property
    def owed(self) -> int:
        """How many stacks Redis must still be told about."""
        return len(self._debts)

    def forget(self, stack: bytes, now_s: float, *, settles: bool, owes: bool) -> Debt | None:
        """Note a write that this replica saw.

        Args:
            stack: case-folded stack id.
            now_s: when the write was answered.
            settles: the write takes effect after its answer; false for a purge.
            owes: there is a Redis to tell.

        Returns:
            The debt, or ``None`` without Redis or when there are too many.
        """
        self.counts.raise_one(stack)
        self._remember(self._own, stack, _Write(now_s, settles), now_s)
        if settles:
            self._settle(stack, now_s, now_s)
        return self._owe(stack, now_s, now_s, settles=settles, published=True) if owes else None

    def note(
        self, stack: bytes, now_s: float, age_s: float, *, settles: bool, owes: bool = False
    ) -> Debt | None:
        """Note a write that another replica saw ``age_s`` seconds ago.

        Args:
            stack: case-folded stack id.
            now_s: when the note came.
            age_s: how long before that the write was answered.
            settles: the write takes effect after its answer.
            owes: Redis may not have been told yet; otherwise nothing is owed.
        """
        self.counts.raise_one(stack)
        written_s = now_s - age_s
        known = self._noted.get(stack)
        # A repeated note tells of the same write: it must not restart the clocks.
        if known is None or known.written_s < written_s:
            self._remember(self._noted, stack, _Write(written_s, settles), now_s)
        if settles:
            self._settle(stack, written_s, now_s)
        return self._owe(stack, now_s, written_s, settles=settles, published=False) if owes else None

    def owe(self, stack: bytes, now_s: float) -> Debt | None:
        """Owe a forget for a reason other than a write: a stored entry could not be removed."""
        self.counts.raise_one(stack)
        return self._owe(stack, now_s, now_s, settles=False, published=True)

    def connection_opened(self, now_s: float) -> None:
        """Owe the forgets of the last ten minutes again: who answers now may never have seen them."""
        if now_s < self._lost_track_until_s:
            self._unused_until_s = now_s + self._longest_ttl_s
        for writes, published in ((self._noted, False), (self._own, True)):
            for stack, write in writes.items():
                if now_s - write.written_s < REPEAT_S:
                    self._owe(stack, now_s, write.written_s, settles=write.settles, published=published)

    def subscription_confirmed(self, now_s: float) -> None:
        """Start over: notes may have been missed until now."""
        self.counts.raise_all()
        self._uncertain_until_s = now_s + self._settle_s

    def owes(self, stack: bytes, now_s: float) -> bool:
        """Tell whether this stack must be neither read, minted nor stored in Redis."""
        return stack in self._debts or now_s < self._unused_until_s

    def debts(self, now_s: float, at_most: int) -> list[Debt]:
        """Return the oldest debts to pay; those older than any entry are let go."""
        while self._debts:
            oldest = next(iter(self._debts.values()))
            if now_s - oldest.owed_s <= self._longest_ttl_s:
                break
            del self._debts[oldest.stack]
        return list(itertools.islice(self._debts.values(), at_most))

    def paid(self, debt: Debt) -> None:
        """Clear a debt, if it has not been owed anew since."""
        if self._debts.get(debt.stack) == debt:
            del self._debts[debt.stack]

    def is_settling(self, stack: bytes, now_s: float) -> bool:
        """Tell whether a write to the stack was seen within ``settle_s``."""
        # What is known of a stack may be an older write than the one that was lost track of.
        return now_s < max(self._settling.get(stack, 0.0), self._lost_track_until_s)

    def is_uncertain(self, now_s: float) -> bool:
        """Tell whether a write may have gone unseen within ``settle_s``."""
        return now_s < self._uncertain_until_s

    def _owe(
        self, stack: bytes, now_s: float, written_s: float, *, settles: bool, published: bool
    ) -> Debt | None:
        known = self._debts.get(stack)
        if known is None and len(self._debts) >= self._limit:
            self._unused_until_s = now_s + self._longest_ttl_s
            return None
        debt = Debt(
            stack=stack,
            sequence=next(self._sequence),
            owed_s=now_s,
            written_s=max(written_s, known.written_s) if known else written_s,
            settles=settles or (known is not None and known.settles),
            published=published or (known is not None and known.published),
        )
        self._debts.pop(stack, None)
        self._debts[stack] = debt
        return debt

    def _remember(
        self, writes: OrderedDict[bytes, _Write], stack: bytes, write: _Write, now_s: float
    ) -> None:
        known = writes.pop(stack, None)
        if known is not None and known.settles:
            write = msgspec.structs.replace(write, settles=True)
        writes[stack] = write
        while writes:
            oldest = next(iter(writes))
            if now_s - writes[oldest].written_s >= REPEAT_S:
                del writes[oldest]
            elif len(writes) > self._limit:
                self._lose_track(writes, oldest, now_s)
            else:
                break

    def _settle(self, stack: bytes, written_s: float, now_s: float) -> None:
        ends_s = max(written_s + self._settle_s, self._settling.pop(stack, 0.0))
        self._settling[stack] = ends_s
        while self._settling:
            oldest = next(iter(self._settling))
            if now_s >= self._settling[oldest]:
                del self._settling[oldest]
            elif len(self._settling) > self._limit:
                del self._settling[oldest]
                self._lost_track_until_s = now_s + max(REPEAT_S, self._settle_s)
            else:
                break

    def _lose_track(self, writes: OrderedDict[bytes, _Write], stack: bytes, now_s: float) -> None:
        del writes[stack]
        self._lost_track_until_s = now_s + max(REPEAT_S, self._settle_s)
