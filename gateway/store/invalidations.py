"""What this replica has forgotten, what it still owes Redis, and what may have gone unseen.

Everything here changes in one stretch without ``await``: a forget that is half done could let a
stale copy back in. Times are monotonic seconds and come in as ``now_s``. Every book is bounded; the oldest
goes first, which costs what it stood for its own bound and nobody else anything.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Iterable

import msgspec

REPEAT_S = 600.0
"""How long a forget is repeated whenever a Redis connection is opened: a failover may have undone it."""

_LIMIT = 100_000


class PendingInvalidation(msgspec.Struct, frozen=True, gc=False):
    """A forget as Redis has to be told of it.

    Attributes:
        stack: case-folded stack id.
        sequence: the number that both replies must answer to.
        owed_s: since when it is owed.
        written_s: when the write was answered; minus infinity when an entry could not be removed.
        settles: the write takes effect after its answer.
        published: other replicas must be told too; false when this replica was told by one.
        mark: how many connections had been opened when it was last sent.
    """

    stack: bytes
    sequence: int
    owed_s: float
    written_s: float
    settles: bool
    published: bool
    mark: int


class Changes:
    """When names last changed, in numbers that only grow.

    Beyond the bound the name that changed longest ago is let go; whoever began before that change is told
    that his name has changed too, nobody else.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self.number = 0
        self._limit = limit
        self._changed: OrderedDict[bytes, int] = OrderedDict()
        self._floor = 0

    def next(self) -> int:
        """Return a number above all that were given before."""
        self.number += 1
        return self.number

    def change(self, name: bytes) -> None:
        """Change a name."""
        self._changed[name] = self.next()
        self._changed.move_to_end(name)
        if len(self._changed) > self._limit:
            _, self._floor = self._changed.popitem(last=False)

    def change_all(self) -> None:
        """Change every name."""
        self._changed.clear()
        self._floor = self.next()

    def has_changed(self, name: bytes, since: int) -> bool:
        """Tell whether a name has changed since ``number`` was this."""
        return self._changed.get(name, self._floor) > since


class Invalidations:
    """Forgets, debts and settling times of one replica.

    A stack's forget stands in one book at most: those that Redis has not confirmed (of writes, of entries
    that could not be removed, refused by Redis, on their way), or the recent ones, which it has.

    Args:
        longest_ttl_s: no entry outlives this; neither does a debt.
        settle_s: how long after a write a stack's records may still change.
        limit: how many stacks each book holds.
    """

    def __init__(self, longest_ttl_s: float, settle_s: float, limit: int = _LIMIT) -> None:
        self.changes = Changes(limit)
        self._longest_ttl_s = longest_ttl_s
        self._settle_s = settle_s
        self._limit = limit
        self._sequence = itertools.count(1)
        self._writes: OrderedDict[bytes, PendingInvalidation] = OrderedDict()
        self._removals: OrderedDict[bytes, PendingInvalidation] = OrderedDict()
        self._refused: OrderedDict[bytes, PendingInvalidation] = OrderedDict()
        self._under_way: OrderedDict[bytes, PendingInvalidation] = OrderedDict()
        self._unconfirmed = (self._writes, self._removals, self._refused, self._under_way)
        self._recent: OrderedDict[bytes, PendingInvalidation] = OrderedDict()
        # Who answers on a connection opened since may never have seen what was sent under a lower mark.
        self._mark = 0
        self._marked_s = 0.0
        self._repeated = 0
        self._to_repeat: deque[bytes] | None = None
        self._settling: OrderedDict[bytes, float] = OrderedDict()
        self._uncertain_until_s = 0.0

    @property
    def owed(self) -> int:
        """How many stacks Redis must still be told about."""
        return sum(map(len, self._unconfirmed)) + len(self._recent) - self._repeated

    @property
    def refused(self) -> int:
        """How many of them Redis has refused to hear about."""
        return len(self._refused)

    def forget(self, stack: bytes, now_s: float, *, settles: bool, owes: bool) -> PendingInvalidation | None:
        """Note a write that this replica saw.

        Args:
            stack: case-folded stack id.
            now_s: when the write was answered.
            settles: the write takes effect after its answer; false for a purge.
            owes: there is a Redis to tell.

        Returns:
            The debt, or ``None`` without Redis.
        """
        self.changes.change(stack)
        if settles:
            self._settle(stack, now_s, now_s)
        return self._owe(stack, now_s, now_s, settles=settles, published=True) if owes else None

    def note(
        self, stack: bytes, now_s: float, age_s: float, *, settles: bool, owes: bool = False
    ) -> PendingInvalidation | None:
        """Note a write that another replica saw ``age_s`` seconds ago.

        Args:
            stack: case-folded stack id.
            now_s: when the note came.
            age_s: how long before that the write was answered.
            settles: the write takes effect after its answer.
            owes: Redis may not have been told yet; otherwise nothing is owed.
        """
        self.changes.change(stack)
        written_s = now_s - age_s
        if settles:
            self._settle(stack, written_s, now_s)
        if owes:
            return self._owe(stack, now_s, written_s, settles=settles, published=False)
        for book in self._unconfirmed:
            if (known := book.pop(stack, None)) is not None:
                # What was stored until now may live its whole life from now on.
                book[stack] = msgspec.structs.replace(
                    known,
                    owed_s=now_s,
                    written_s=max(known.written_s, written_s),
                    settles=known.settles or settles,
                )
                return None
        self._remember(self._merged(stack, now_s, written_s, settles=settles, published=False), now_s)
        return None

    def owe(self, stack: bytes, now_s: float) -> PendingInvalidation:
        """Owe a forget for a reason other than a write: a stored entry could not be removed."""
        self.changes.change(stack)
        return self._owe(stack, now_s, -math.inf, settles=False, published=False)

    def connection_opened(self, now_s: float) -> None:
        """Owe the forgets of the last ten minutes again: who answers now may never have seen them.

        However many they are, this takes no longer.
        """
        if self._repeated == len(self._recent):
            # Otherwise what is still to be repeated counts from when it came to be.
            self._marked_s = now_s
        self._mark += 1
        self._repeated = 0
        self._to_repeat = None

    def subscription_confirmed(self, now_s: float) -> None:
        """Start over: notes may have been missed until now."""
        self.changes.change_all()
        self._uncertain_until_s = now_s + self._settle_s

    def owes(self, stack: bytes) -> bool:
        """Tell whether this stack must be neither read, minted nor stored in Redis."""
        for book in self._unconfirmed:
            if stack in book:
                return True
        recent = self._recent.get(stack)
        return recent is not None and self._is_to_repeat(recent)

    def debts(self, now_s: float, at_most: int) -> list[PendingInvalidation]:
        """Return what Redis is to be told next, oldest first, what it was told before last.

        What is older than any entry is let go. What is returned is to be sent; see `send`.
        """
        for book in self._unconfirmed:
            while book and now_s - next(iter(book.values())).owed_s > self._longest_ttl_s:
                book.popitem(last=False)
        owed = itertools.chain(self._writes.values(), self._removals.values())
        due = [self._sent(debt) for debt in itertools.islice(owed, at_most)]
        if self._to_repeat is None and len(due) < at_most:
            self._to_repeat = deque(self._recent)
        while self._to_repeat and len(due) < at_most:
            recent = self._recent.get(self._to_repeat.popleft())
            if recent is None or recent.mark >= self._mark:
                continue
            if self._is_to_repeat(recent) and now_s - recent.owed_s <= self._longest_ttl_s:
                due.append(self._sent(recent))
            else:
                self._forget_recent(recent.stack)
        return due

    def send(self, debts: Iterable[PendingInvalidation]) -> None:
        """Note that debts are on their way; each is for `paid`, `refuse` or `failed`, and for nobody else."""
        for debt in debts:
            if (known := self._take(debt)) is not None:
                _put(self._under_way, known, self._limit)

    def refused_debts(self, at_most: int) -> list[PendingInvalidation]:
        """Return the oldest of those that Redis has refused to hear about."""
        return [self._sent(debt) for debt in itertools.islice(self._refused.values(), at_most)]

    def paid(self, debt: PendingInvalidation, now_s: float) -> None:
        """Note that Redis has confirmed a debt, unless it has been owed anew since."""
        recent = self._recent.get(debt.stack)
        if recent is not None and recent.sequence == debt.sequence:
            # It keeps its place: the oldest write goes first.
            self._repeated += recent.mark < self._mark <= debt.mark
            self._recent[debt.stack] = msgspec.structs.replace(recent, mark=debt.mark)
            self.failed(debt)
        elif (known := self._take(debt)) is not None:
            self._remember(msgspec.structs.replace(known, mark=debt.mark), now_s)

    def refuse(self, debt: PendingInvalidation, *, is_told: bool) -> None:
        """Note that Redis has refused a debt: it holds up no others from now on.

        Args:
            debt: as it was sent.
            is_told: its note has been published, and is not to be again.
        """
        recent = self._recent.get(debt.stack)
        if recent is not None and recent.sequence == debt.sequence:
            known = self._forget_recent(debt.stack)
        else:
            known = self._take(debt)
        if known is not None:
            published = known.published and not is_told
            _put(self._refused, msgspec.structs.replace(known, published=published), self._limit)

    def failed(self, debt: PendingInvalidation) -> None:
        """Note that nothing is known of what became of a debt: it is to be sent again."""
        recent = self._recent.get(debt.stack)
        if recent is not None:
            if recent.mark < self._mark and self._to_repeat is not None:
                self._to_repeat.appendleft(debt.stack)
        elif (known := self._take(debt)) is not None:
            _put(self._book(known), known, self._limit)

    def is_settling(self, stack: bytes, now_s: float) -> bool:
        """Tell whether a write to the stack was seen within ``settle_s``."""
        return now_s < self._settling.get(stack, 0.0)

    def is_uncertain(self, now_s: float) -> bool:
        """Tell whether a write may have gone unseen within ``settle_s``."""
        return now_s < self._uncertain_until_s

    def _owe(
        self, stack: bytes, now_s: float, written_s: float, *, settles: bool, published: bool
    ) -> PendingInvalidation:
        debt = self._merged(stack, now_s, written_s, settles=settles, published=published)
        _put(self._book(debt), debt, self._limit)
        return debt

    def _book(self, debt: PendingInvalidation) -> OrderedDict[bytes, PendingInvalidation]:
        # Anybody can have removals fail while Redis is away; they must not push out what was written.
        return self._removals if debt.written_s == -math.inf else self._writes

    def _merged(
        self, stack: bytes, now_s: float, written_s: float, *, settles: bool, published: bool
    ) -> PendingInvalidation:
        """Take a stack out of its book and return it with what it had to tell before."""
        known = self._forget_recent(stack)
        for book in self._unconfirmed:
            known = book.pop(stack, known)
        return PendingInvalidation(
            stack=stack,
            sequence=next(self._sequence),
            owed_s=now_s,
            # A repeated note tells of the same write: it must not restart the clocks.
            written_s=max(written_s, known.written_s) if known else written_s,
            settles=settles or (known is not None and known.settles),
            published=published or (known is not None and known.published),
            mark=known.mark if known else self._mark,
        )

    def _sent(self, debt: PendingInvalidation) -> PendingInvalidation:
        return msgspec.structs.replace(debt, mark=self._mark)

    def _take(self, debt: PendingInvalidation) -> PendingInvalidation | None:
        """Take an unconfirmed debt out of its book, unless it has been owed anew since."""
        for book in self._unconfirmed:
            if (known := book.get(debt.stack)) is not None:
                return book.pop(debt.stack) if known.sequence == debt.sequence else None
        return None

    def _is_to_repeat(self, recent: PendingInvalidation) -> bool:
        return recent.mark < self._mark and self._marked_s - recent.written_s < REPEAT_S

    def _remember(self, debt: PendingInvalidation, now_s: float) -> None:
        """Keep what Redis knows, to tell it again to whoever answers on a connection opened later."""
        if now_s - debt.written_s >= REPEAT_S and not self._is_to_repeat(debt):
            return
        self._recent[debt.stack] = debt
        if debt.mark >= self._mark:
            self._repeated += 1
        elif self._to_repeat is not None:
            self._to_repeat.append(debt.stack)
        while self._recent:
            oldest = next(iter(self._recent.values()))
            is_over = now_s - oldest.written_s >= REPEAT_S and not self._is_to_repeat(oldest)
            if len(self._recent) <= self._limit and not is_over:
                break
            self._forget_recent(oldest.stack)

    def _forget_recent(self, stack: bytes) -> PendingInvalidation | None:
        recent = self._recent.pop(stack, None)
        if recent is not None and recent.mark >= self._mark:
            self._repeated -= 1
        return recent

    def _settle(self, stack: bytes, written_s: float, now_s: float) -> None:
        ends_s = max(written_s + self._settle_s, self._settling.pop(stack, 0.0))
        self._settling[stack] = ends_s
        while self._settling:
            oldest = next(iter(self._settling))
            if now_s >= self._settling[oldest]:
                del self._settling[oldest]
            elif len(self._settling) > self._limit:
                # Whichever it was: until then nothing lives longer than what a write goes unseen for.
                self._uncertain_until_s = max(self._uncertain_until_s, self._settling.pop(oldest))
            else:
                break


def _put(book: OrderedDict[bytes, PendingInvalidation], debt: PendingInvalidation, limit: int) -> None:
    book[debt.stack] = debt
    if len(book) > limit:
        book.popitem(last=False)
