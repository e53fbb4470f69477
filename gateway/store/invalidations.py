"""Which stacks were invalidated, which of that Redis has not confirmed, and what may have been missed.

Every method runs without ``await``: a half-recorded invalidation could let a stale copy back in. Times are
monotonic seconds. Every queue is bounded: beyond the bound the oldest stack loses its protection, no other.
"""

import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.store.lookup import FillToken

REPEAT_S = 600.0
"""How long an invalidation is repeated on each new Redis connection: a failover may have undone it."""

_LIMIT = 100_000


class PendingInvalidation(msgspec.Struct, frozen=True, gc=False):
    """An invalidation to be confirmed by Redis.

    Attributes:
        stack: case-folded stack id.
        sequence: a reply to an earlier one of the same stack confirms nothing.
        since_s: when it became pending.
        written_s: when the response to the write came; minus infinity when an entry could not be removed.
        settles: the write takes effect after its response.
        publishes: the message for other replicas is still to be published.
        epoch: how many connections had been opened when it was last sent.
        slot: of the stack's keys in Redis.
    """

    stack: bytes
    sequence: int
    since_s: float
    written_s: float
    settles: bool
    publishes: bool
    epoch: int
    slot: int = 0


class Mark:
    """What of the last ten minutes one server may have missed: all that was sent before its last connection.

    Attributes:
        epoch: how many connections had been opened, to whatever server, when the last one to this was.
        began_s: from when what is still to be repeated counts.
        kept: confirmed invalidations that belong to it.
        due: those of them that are to be repeated.
    """

    __slots__ = ("began_s", "due", "epoch", "kept")

    def __init__(self) -> None:
        self.epoch = 0
        self.began_s = 0.0
        self.kept = 0
        self.due = 0

    def opened(self, epoch: int, now_s: float) -> None:
        """A connection to the server is opened."""
        if not self.due:
            # Otherwise what is still to be repeated counts from the epoch in which that began.
            self.began_s = now_s
        self.epoch = epoch
        self.due = self.kept


_Queue = OrderedDict[bytes, PendingInvalidation]


class Changes:
    """When names last changed, as numbers that only grow: with each change, and whatever makes one pending.

    Beyond the bound the name that changed longest ago is dropped; from then on it counts as changed for all
    that began before that change.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self.number = 0
        self._limit = limit
        self._changed: OrderedDict[bytes, int] = OrderedDict()
        self._floor = 0

    def next(self) -> int:
        self.number += 1
        return self.number

    def change(self, name: bytes) -> None:
        self._changed[name] = self.next()
        self._changed.move_to_end(name)
        if len(self._changed) > self._limit:
            _, self._floor = self._changed.popitem(last=False)

    def change_all(self) -> None:
        self._changed.clear()
        self._floor = self.next()

    def has_changed(self, name: bytes, since: int) -> bool:
        """Whether a name has changed since ``number`` had this value."""
        return self.number != since and self._changed.get(name, self._floor) > since


class Invalidations:
    """Invalidated, pending and settling stacks of one replica.

    A stack is in one queue at most: one of the unconfirmed (writes, failed removals, refused by Redis, being
    sent), or the recently confirmed.

    Args:
        longest_ttl_s: no entry lives longer; neither does a pending invalidation.
        settle_s: how long after a write a stack's records may still change.
        limit: bound of each queue.
        has_redis: Redis must confirm them.

    Attributes:
        changes: of stacks, and of entries under their local keys.
        all_pending: every stack counts as pending: invalidations by another process are not received.
        slot_of: returns the slot of a stack.
    """

    def __init__(
        self, longest_ttl_s: float, settle_s: float, limit: int = _LIMIT, *, has_redis: bool = True
    ) -> None:
        self.changes = Changes(limit)
        self.all_pending = False
        self._longest_ttl_s = longest_ttl_s
        self._settle_s = settle_s
        self._limit = limit
        self._has_redis = has_redis
        self._sequence = itertools.count(1)
        self._writes: _Queue = OrderedDict()
        self._removals: _Queue = OrderedDict()
        self._refused: _Queue = OrderedDict()
        self._being_sent: _Queue = OrderedDict()
        self._unconfirmed = (self._writes, self._removals, self._refused, self._being_sent)
        self._confirmed: _Queue = OrderedDict()
        # The server behind a connection of this epoch may never have seen what was sent in earlier ones.
        self._epoch = 0
        self.slot_of: Callable[[bytes], int] = lambda stack: 0
        self._marks: Sequence[Mark] = (Mark(),)
        # Of the confirmed ones, how many are to be repeated, and which may have to be.
        self._due = 0
        self._to_repeat: deque[bytes] | None = None
        self._settling: OrderedDict[bytes, float] = OrderedDict()
        self._uncertain_until_s = 0.0

    @property
    def pending(self) -> int:
        return sum(map(len, self._unconfirmed)) + self._due

    def invalidate(
        self, stack: bytes, now_s: float, *, settles: bool, publishes: bool = True
    ) -> PendingInvalidation:
        """Record a write or purge that went through this replica, and return what Redis must confirm.

        Args:
            stack: case-folded stack id.
            now_s: when the response to it came.
            settles: the write takes effect after its response; false for a purge.
            publishes: tell the other replicas; false when another worker does.
        """
        return self._add(stack, now_s, now_s, settles=settles, publishes=publishes)

    def invalidated_elsewhere(self, stack: bytes, now_s: float, age_s: float, *, settles: bool) -> None:
        """Record an invalidation by another replica, which Redis has already.

        Args:
            now_s: when the message came.
            age_s: how long before that the response to the write came.
            settles: the write takes effect after its response.
        """
        written_s = now_s - age_s
        self._change(stack, now_s, written_s, settles=settles)
        for queue in self._unconfirmed:
            if (known := queue.pop(stack, None)) is not None:
                # An entry stored until now may live its whole life from now on.
                queue[stack] = msgspec.structs.replace(
                    known,
                    since_s=now_s,
                    written_s=max(known.written_s, written_s),
                    settles=known.settles or settles,
                )
                return
        self._keep_confirmed(self._merged(stack, now_s, written_s, settles=settles, publishes=False), now_s)

    def removal_failed(self, stack: bytes, now_s: float) -> PendingInvalidation:
        """Invalidate a stack because an entry of it could not be removed from Redis."""
        return self._add(stack, now_s, -math.inf, settles=False, publishes=False)

    def connection_opened(self, now_s: float, mark: Mark | None = None) -> None:
        """Make all of a server's last ten minutes pending again: it may never have seen them.

        Takes constant time.

        Args:
            now_s: when that is.
            mark: of the server; ``None``: there is only one.
        """
        mark = self._marks[0] if mark is None else mark
        self._begin_epoch()
        self._due -= mark.due
        mark.opened(self._epoch, now_s)
        self._due += mark.due
        self._to_repeat = None

    def moved(self, marks: Sequence[Mark], now_s: float) -> None:
        """Use other servers, as after a new connection to each of them.

        Args:
            marks: of the server of each slot.
            now_s: when that is.
        """
        self._marks = marks
        self._begin_epoch()
        for mark in set(marks):
            mark.kept = 0
        for confirmed in self._confirmed.values():
            marks[confirmed.slot].kept += 1
        for mark in set(marks):
            mark.opened(self._epoch, now_s)
        self._due = len(self._confirmed)
        self._to_repeat = None

    def subscription_confirmed(self, now_s: float) -> None:
        """Distrust everything read until now: messages may have been missed."""
        self.changes.change_all()
        self._uncertain_until_s = now_s + self._settle_s

    def is_pending(self, stack: bytes) -> bool:
        """Whether nothing of this stack may be read, minted or stored in Redis."""
        if (
            self.all_pending
            or stack in self._writes
            or stack in self._removals
            or stack in self._refused
            or stack in self._being_sent
        ):
            return True
        confirmed = self._confirmed.get(stack)
        return confirmed is not None and self._needs_repeat(confirmed)

    def is_void(self, fill_token: FillToken) -> bool:
        """Whether its stack is pending, or was invalidated since; neither may enter or leave Redis."""
        stack = fill_token.key.stack
        return self.changes.has_changed(stack, fill_token.since) or self.is_pending(stack)

    def due(self, now_s: float, at_most: int) -> list[PendingInvalidation]:
        """Return what to send next: the oldest unconfirmed, then repeats. See `begin_sending`.

        Drops what is older than any entry can be.
        """
        for queue in self._unconfirmed:
            while queue and now_s - next(iter(queue.values())).since_s > self._longest_ttl_s:
                queue.popitem(last=False)
        unconfirmed = itertools.chain(self._writes.values(), self._removals.values())
        due = [self._in_this_epoch(pending) for pending in itertools.islice(unconfirmed, at_most)]
        if self._to_repeat is None and len(due) < at_most:
            self._to_repeat = deque(self._confirmed)
        while self._to_repeat and len(due) < at_most:
            confirmed = self._confirmed.get(self._to_repeat.popleft())
            if confirmed is None or confirmed.epoch >= self._marks[confirmed.slot].epoch:
                continue
            if self._needs_repeat(confirmed) and now_s - confirmed.since_s <= self._longest_ttl_s:
                due.append(self._in_this_epoch(confirmed))
            else:
                self._drop_confirmed(confirmed.stack)
        return due

    def due_refused(self, at_most: int) -> list[PendingInvalidation]:
        """Return the oldest of those that Redis has refused."""
        return [self._in_this_epoch(pending) for pending in itertools.islice(self._refused.values(), at_most)]

    def begin_sending(self, sent: Iterable[PendingInvalidation]) -> None:
        """Take these out of `due` until `confirmed`, `refused` or `failed` is called for each."""
        for pending in sent:
            if (known := self._pop(pending)) is not None:
                self._put(self._being_sent, known)

    def confirmed(self, sent: PendingInvalidation, now_s: float) -> None:
        """Redis has confirmed one; has no effect if the stack was invalidated again since."""
        confirmed = self._confirmed.get(sent.stack)
        if confirmed is not None and confirmed.sequence == sent.sequence:
            # It keeps its place: the oldest write goes first.
            mark = self._marks[confirmed.slot]
            is_repeated = confirmed.epoch < mark.epoch <= sent.epoch
            mark.due -= is_repeated
            self._due -= is_repeated
            self._confirmed[sent.stack] = msgspec.structs.replace(confirmed, epoch=sent.epoch)
            self.failed(sent)
        elif (known := self._pop(sent)) is not None:
            self._keep_confirmed(msgspec.structs.replace(known, epoch=sent.epoch), now_s)

    def refused(self, sent: PendingInvalidation, *, is_published: bool) -> None:
        """Redis has refused one, even if its message was published: from now on it delays no others."""
        known = self._drop_confirmed(sent.stack) or self._pop(sent)
        if known is not None:
            publishes = known.publishes and not is_published
            self._put(self._refused, msgspec.structs.replace(known, publishes=publishes))

    def failed(self, sent: PendingInvalidation) -> None:
        """The outcome of one is unknown: it is due again."""
        confirmed = self._confirmed.get(sent.stack)
        if confirmed is not None:
            if confirmed.epoch < self._marks[confirmed.slot].epoch and self._to_repeat is not None:
                self._to_repeat.appendleft(sent.stack)
        elif (known := self._pop(sent)) is not None:
            self._put(self._queue_of(known), known)

    def is_settling(self, stack: bytes, now_s: float) -> bool:
        """Whether a write to the stack is known within ``settle_s``."""
        return now_s < self._settling.get(stack, 0.0)

    def is_uncertain(self, now_s: float) -> bool:
        """Whether a write within ``settle_s`` may have been missed."""
        return now_s < self._uncertain_until_s

    def _add(
        self, stack: bytes, now_s: float, written_s: float, *, settles: bool, publishes: bool
    ) -> PendingInvalidation:
        self._change(stack, now_s, written_s, settles=settles)
        pending = self._merged(stack, now_s, written_s, settles=settles, publishes=publishes)
        if self._has_redis:
            self._put(self._queue_of(pending), pending)
        return pending

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self.changes.next()

    def _put(self, queue: _Queue, pending: PendingInvalidation) -> None:
        queue[pending.stack] = pending
        self.changes.next()
        if len(queue) > self._limit:
            queue.popitem(last=False)

    def _queue_of(self, pending: PendingInvalidation) -> _Queue:
        # Any caller can make removals fail while Redis is down; they must not push out writes.
        return self._removals if pending.written_s == -math.inf else self._writes

    def _merged(
        self, stack: bytes, now_s: float, written_s: float, *, settles: bool, publishes: bool
    ) -> PendingInvalidation:
        """Take a stack out of its queue and return it merged with what was pending before."""
        known = self._drop_confirmed(stack)
        for queue in self._unconfirmed:
            known = queue.pop(stack, known)
        return PendingInvalidation(
            stack=stack,
            sequence=next(self._sequence),
            since_s=now_s,
            # A repeated message is about the same write: it must not restart the clocks.
            written_s=max(written_s, known.written_s) if known else written_s,
            settles=settles or (known is not None and known.settles),
            publishes=publishes or (known is not None and known.publishes),
            epoch=known.epoch if known else self._epoch,
            slot=known.slot if known else self.slot_of(stack),
        )

    def _in_this_epoch(self, pending: PendingInvalidation) -> PendingInvalidation:
        return msgspec.structs.replace(pending, epoch=self._epoch)

    def _pop(self, sent: PendingInvalidation) -> PendingInvalidation | None:
        """Take an unconfirmed one out of its queue, unless its stack was invalidated again since."""
        for queue in self._unconfirmed:
            if (known := queue.get(sent.stack)) is not None:
                return queue.pop(sent.stack) if known.sequence == sent.sequence else None
        return None

    def _needs_repeat(self, confirmed: PendingInvalidation) -> bool:
        mark = self._marks[confirmed.slot]
        return confirmed.epoch < mark.epoch and mark.began_s - confirmed.written_s < REPEAT_S

    def _is_over(self, confirmed: PendingInvalidation, now_s: float) -> bool:
        return now_s - confirmed.written_s >= REPEAT_S and not self._needs_repeat(confirmed)

    def _keep_confirmed(self, confirmed: PendingInvalidation, now_s: float) -> None:
        """Keep one to repeat it on connections opened later."""
        if self._is_over(confirmed, now_s):
            return
        self._confirmed[confirmed.stack] = confirmed
        mark = self._marks[confirmed.slot]
        mark.kept += 1
        if confirmed.epoch < mark.epoch:
            mark.due += 1
            self._due += 1
            if self._to_repeat is not None:
                self._to_repeat.append(confirmed.stack)
        while self._confirmed:
            oldest = next(iter(self._confirmed.values()))
            if len(self._confirmed) <= self._limit and not self._is_over(oldest, now_s):
                break
            self._drop_confirmed(oldest.stack)

    def _drop_confirmed(self, stack: bytes) -> PendingInvalidation | None:
        confirmed = self._confirmed.pop(stack, None)
        if confirmed is not None:
            mark = self._marks[confirmed.slot]
            mark.kept -= 1
            if confirmed.epoch < mark.epoch:
                mark.due -= 1
                self._due -= 1
        return confirmed

    def _change(self, stack: bytes, now_s: float, written_s: float, *, settles: bool) -> None:
        self.changes.change(stack)
        if not settles:
            return
        ends_s = max(written_s + self._settle_s, self._settling.pop(stack, 0.0))
        self._settling[stack] = ends_s
        while self._settling:
            oldest = next(iter(self._settling))
            if now_s >= self._settling[oldest]:
                del self._settling[oldest]
            elif len(self._settling) > self._limit:
                # Until the dropped one has settled, any stack may be it.
                self._uncertain_until_s = max(self._uncertain_until_s, self._settling.pop(oldest))
            else:
                break
