"""Whatever happens in whatever order, the ledger never says that something is safe which is not."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.store.invalidations import REPEAT_S, Invalidations, PendingInvalidation

LONGEST_S = 1000.0
SETTLE_S = 300.0
STACKS = [b"s", b"t", b"u", b"v"]

stacks = st.sampled_from(STACKS)
ages_s = st.sampled_from([0.0, 1.0, 299.0, 300.0, 599.0, 600.0, 5000.0])


@dataclass
class Truth:
    """What really happened to one stack.

    Attributes:
        writes: when each forget was answered, and whether it settles.
        owed_s: what was stored before this time must not be used; ``None`` when Redis was told.
        owings: how often it came to be owed.
        changed: what number the ledger had reached before its last change.
    """

    writes: list[tuple[float, bool]] = field(default_factory=list)
    owed_s: float | None = None
    owings: int = 0
    changed: int = -1


class LedgerMachine(RuleBasedStateMachine):
    """A ledger that overflows often or never, beside a plain list of what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 10_000.0
        self.limit = 2
        self.invalidations = Invalidations(LONGEST_S, SETTLE_S, self.limit)
        self.truth = {stack: Truth() for stack in STACKS}
        self.taken: list[tuple[PendingInvalidation, int]] = []
        self.confirmed_s = -LONGEST_S

    @initialize(limit=st.sampled_from([2, 100]))
    def it_is_so_large(self, limit: int) -> None:
        self.limit = limit
        self.invalidations = Invalidations(LONGEST_S, SETTLE_S, limit)

    @rule(seconds=st.sampled_from([0.5, 1.0, 100.0, 299.0, 400.0, 999.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(stack=stacks, settles=st.booleans())
    def a_write_is_seen_here(self, stack: bytes, settles: bool) -> None:
        self.change(stack)
        self.invalidations.forget(stack, self.now_s, settles=settles, owes=True)
        self.truth[stack].writes.append((self.now_s, settles))
        self.owed(stack)

    @rule(stack=stacks, age_s=ages_s, settles=st.booleans())
    def a_note_comes(self, stack: bytes, age_s: float, settles: bool) -> None:
        self.change(stack)
        self.invalidations.note(stack, self.now_s, age_s, settles=settles)
        self.truth[stack].writes.append((self.now_s - age_s, settles))

    @rule(stack=stacks)
    def a_removal_fails(self, stack: bytes) -> None:
        self.change(stack)
        self.invalidations.owe(stack, self.now_s)
        self.owed(stack)

    @rule()
    def a_connection_is_opened(self) -> None:
        self.invalidations.connection_opened(self.now_s)
        for stack, truth in self.truth.items():
            recent = [written_s for written_s, _ in truth.writes if self.now_s - written_s < REPEAT_S]
            if recent:
                self.owed(stack, max(recent))

    @rule()
    def the_subscription_is_confirmed(self) -> None:
        for stack in STACKS:
            self.change(stack)
        self.invalidations.subscription_confirmed(self.now_s)
        self.confirmed_s = self.now_s

    @rule(at_most=st.integers(1, 3))
    def debts_are_sent(self, at_most: int) -> None:
        self.take(self.invalidations.debts(self.now_s, at_most))

    @rule(at_most=st.integers(1, 3))
    def what_was_refused_is_sent_again(self, at_most: int) -> None:
        self.take(self.invalidations.refused_debts(at_most))

    @rule(number=st.integers(0, 9), reply=st.sampled_from(["confirmed", "refused", "unknown"]))
    def a_reply_comes(self, number: int, reply: str) -> None:
        if number >= len(self.taken):
            return
        debt, owings = self.taken.pop(number)
        if reply == "refused":
            self.invalidations.refuse(debt, is_told=True)
        elif reply == "unknown":
            self.invalidations.failed(debt)
        else:
            self.invalidations.paid(debt, self.now_s)
            truth = self.truth[debt.stack]
            if truth.owings == owings:
                truth.owed_s = None

    @rule()
    def redis_takes_everything_and_then_nothing_is_owed(self) -> None:
        for debt, _ in self.taken:
            self.invalidations.failed(debt)
        self.taken.clear()
        for debts in (self.invalidations.debts, lambda _, at_most: self.invalidations.refused_debts(at_most)):
            while sent := debts(self.now_s, 3):
                self.invalidations.send(sent)
                for debt in sent:
                    self.invalidations.paid(debt, self.now_s)
        assert self.invalidations.owed == 0
        assert not any(self.invalidations.owes(stack) for stack in STACKS)
        for truth in self.truth.values():
            truth.owed_s = None

    @invariant()
    def what_is_owed_is_not_used(self) -> None:
        # Beyond the bound the oldest are let go.
        if self.limit < len(STACKS):
            return
        for stack, truth in self.truth.items():
            if truth.owed_s is not None and self.now_s - truth.owed_s < LONGEST_S:
                assert self.invalidations.owes(stack), stack

    @invariant()
    def what_settles_is_known_to_settle_or_uncertain(self) -> None:
        for stack, truth in self.truth.items():
            if any(settles and self.now_s < written_s + SETTLE_S for written_s, settles in truth.writes):
                is_settling = self.invalidations.is_settling(stack, self.now_s)
                assert is_settling or (
                    self.limit < len(STACKS) and self.invalidations.is_uncertain(self.now_s)
                )

    @invariant()
    def what_may_have_gone_unseen_is_uncertain(self) -> None:
        if self.now_s < self.confirmed_s + SETTLE_S:
            assert self.invalidations.is_uncertain(self.now_s)

    @invariant()
    def a_change_is_seen_by_all_who_began_before_it(self) -> None:
        for stack, truth in self.truth.items():
            if truth.changed >= 0:
                assert self.invalidations.changes.has_changed(stack, truth.changed), stack

    @invariant()
    def nothing_has_changed_for_who_begins_now(self) -> None:
        assert not any(
            self.invalidations.changes.has_changed(name, self.invalidations.changes.number) for name in STACKS
        )

    @invariant()
    def the_books_are_bounded(self) -> None:
        assert 0 <= self.invalidations.owed <= 5 * self.limit

    def take(self, debts: list[PendingInvalidation]) -> None:
        """Send debts; their replies come later, in any order."""
        self.invalidations.send(debts)
        self.taken += [(debt, self.truth[debt.stack].owings) for debt in debts]

    def change(self, stack: bytes) -> None:
        """Remember what was read before a change."""
        self.truth[stack].changed = self.invalidations.changes.number

    def owed(self, stack: bytes, stale_s: float | None = None) -> None:
        """Remember that Redis must be told that what was stored until then, or until now, is stale."""
        truth = self.truth[stack]
        truth.owed_s = max(truth.owed_s or 0.0, self.now_s if stale_s is None else stale_s)
        truth.owings += 1


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
