"""In whatever order events come, `Invalidations` never reports a stack as safe that is not."""

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
        writes: when the response to each came, and whether it settles.
        since_s: what was stored before this time must not be used; ``None`` when Redis has confirmed.
        times: how often it became pending.
        changed: `Changes.number` before its last change.
    """

    writes: list[tuple[float, bool]] = field(default_factory=list)
    since_s: float | None = None
    times: int = 0
    changed: int = -1


class InvalidationsMachine(RuleBasedStateMachine):
    """`Invalidations` that overflow often or never, beside a plain list of what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 10_000.0
        self.limit = 2
        self.invalidations = Invalidations(LONGEST_S, SETTLE_S, self.limit)
        self.truth = {stack: Truth() for stack in STACKS}
        self.taken: list[tuple[PendingInvalidation, int]] = []
        self.confirmed_s = -LONGEST_S
        self.usable: tuple[int, set[bytes]] = (0, set())

    @initialize(limit=st.sampled_from([2, 100]))
    def it_is_so_large(self, limit: int) -> None:
        self.limit = limit
        self.invalidations = Invalidations(LONGEST_S, SETTLE_S, limit)

    @rule(seconds=st.sampled_from([0.5, 1.0, 100.0, 299.0, 400.0, 999.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(stack=stacks, settles=st.booleans())
    def a_write_goes_through_here(self, stack: bytes, settles: bool) -> None:
        self.change(stack)
        self.invalidations.invalidate(stack, self.now_s, settles=settles)
        self.truth[stack].writes.append((self.now_s, settles))
        self.became_pending(stack)

    @rule(stack=stacks, age_s=ages_s, settles=st.booleans())
    def a_message_comes(self, stack: bytes, age_s: float, settles: bool) -> None:
        self.change(stack)
        self.invalidations.invalidated_elsewhere(stack, self.now_s, age_s, settles=settles)
        self.truth[stack].writes.append((self.now_s - age_s, settles))

    @rule(stack=stacks)
    def a_removal_fails(self, stack: bytes) -> None:
        self.change(stack)
        self.invalidations.removal_failed(stack, self.now_s)
        self.became_pending(stack)

    @rule()
    def a_connection_is_opened(self) -> None:
        self.invalidations.connection_opened(self.now_s)
        for stack, truth in self.truth.items():
            recent = [written_s for written_s, _ in truth.writes if self.now_s - written_s < REPEAT_S]
            if recent:
                self.became_pending(stack, max(recent))

    @rule()
    def the_subscription_is_confirmed(self) -> None:
        for stack in STACKS:
            self.change(stack)
        self.invalidations.subscription_confirmed(self.now_s)
        self.confirmed_s = self.now_s

    @rule(at_most=st.integers(1, 3))
    def pending_ones_are_sent(self, at_most: int) -> None:
        self.take(self.invalidations.due(self.now_s, at_most))

    @rule(at_most=st.integers(1, 3))
    def what_was_refused_is_sent_again(self, at_most: int) -> None:
        self.take(self.invalidations.due_refused(at_most))

    @rule(number=st.integers(0, 9), reply=st.sampled_from(["confirmed", "refused", "unknown"]))
    def a_reply_comes(self, number: int, reply: str) -> None:
        if number >= len(self.taken):
            return
        pending, times = self.taken.pop(number)
        if reply == "refused":
            self.invalidations.refused(pending, is_published=True)
        elif reply == "unknown":
            self.invalidations.failed(pending)
        else:
            self.invalidations.confirmed(pending, self.now_s)
            truth = self.truth[pending.stack]
            if truth.times == times:
                truth.since_s = None

    @rule()
    def redis_confirms_everything_and_then_nothing_is_pending(self) -> None:
        for pending, _ in self.taken:
            self.invalidations.failed(pending)
        self.taken.clear()
        for due in (self.invalidations.due, lambda _, at_most: self.invalidations.due_refused(at_most)):
            while sent := due(self.now_s, 3):
                self.invalidations.begin_sending(sent)
                for pending in sent:
                    self.invalidations.confirmed(pending, self.now_s)
        assert self.invalidations.pending == 0
        assert not any(self.invalidations.is_pending(stack) for stack in STACKS)
        for truth in self.truth.values():
            truth.since_s = None

    @invariant()
    def what_is_pending_is_reported(self) -> None:
        # Beyond the bound the oldest are let go.
        if self.limit < len(STACKS):
            return
        for stack, truth in self.truth.items():
            if truth.since_s is not None and self.now_s - truth.since_s < LONGEST_S:
                assert self.invalidations.is_pending(stack), stack

    @invariant()
    def what_settles_is_known_to_settle_or_uncertain(self) -> None:
        for stack, truth in self.truth.items():
            if any(settles and self.now_s < written_s + SETTLE_S for written_s, settles in truth.writes):
                is_settling = self.invalidations.is_settling(stack, self.now_s)
                assert is_settling or (
                    self.limit < len(STACKS) and self.invalidations.is_uncertain(self.now_s)
                )

    @invariant()
    def what_may_have_been_missed_is_uncertain(self) -> None:
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
    def what_was_not_pending_begins_to_be_with_a_change(self) -> None:
        number = self.invalidations.changes.number
        usable = {stack for stack in STACKS if not self.invalidations.is_pending(stack)}
        before, usable_before = self.usable
        assert number > before or usable >= usable_before
        self.usable = number, usable

    @invariant()
    def the_queues_are_bounded(self) -> None:
        assert 0 <= self.invalidations.pending <= 5 * self.limit

    def take(self, due: list[PendingInvalidation]) -> None:
        """Send them; the replies come later, in any order."""
        self.invalidations.begin_sending(due)
        self.taken += [(pending, self.truth[pending.stack].times) for pending in due]

    def change(self, stack: bytes) -> None:
        """Record the number before a change."""
        self.truth[stack].changed = self.invalidations.changes.number

    def became_pending(self, stack: bytes, stale_s: float | None = None) -> None:
        """Record that what was stored until then, or until now, is stale in Redis."""
        truth = self.truth[stack]
        truth.since_s = max(truth.since_s or 0.0, self.now_s if stale_s is None else stale_s)
        truth.times += 1


TestInvalidationsMachine = InvalidationsMachine.TestCase
TestInvalidationsMachine.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, database=None
)
