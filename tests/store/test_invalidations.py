"""`Invalidations`: what has changed, what is pending, what may have been missed."""

import pytest

from gateway.store.invalidations import REPEAT_S, Changes, Invalidations, PendingInvalidation

LONGEST_S = 1000.0
SETTLE_S = 300.0
NOW_S = 5000.0
S, T, U = b"s", b"t", b"u"


def invalidations(*, limit: int = 100, settle_s: float = SETTLE_S, has_redis: bool = True) -> Invalidations:
    return Invalidations(LONGEST_S, settle_s, limit, has_redis=has_redis)


def stacks(due: list[PendingInvalidation]) -> list[bytes]:
    return [pending.stack for pending in due]


def invalidate(
    one: Invalidations, stack: bytes = S, now_s: float = NOW_S, *, settles: bool = True
) -> PendingInvalidation:
    return one.invalidate(stack, now_s, settles=settles)


def confirm_all(one: Invalidations, now_s: float) -> None:
    for pending in one.due(now_s, 1000):
        one.confirmed(pending, now_s)


# Changes


def test_a_name_has_changed_for_all_that_began_before_and_no_other_name_has() -> None:
    changes = Changes()
    since = changes.number
    changes.change(S)
    assert changes.has_changed(S, since)
    assert not changes.has_changed(T, since)
    assert not changes.has_changed(S, changes.number)


def test_changing_all_changes_names_that_never_changed() -> None:
    changes = Changes()
    since = changes.number
    changes.change_all()
    assert changes.has_changed(b"never changed", since)
    assert not changes.has_changed(b"never changed", changes.number)


def test_beyond_the_limit_a_name_may_read_as_changed_and_never_as_unchanged() -> None:
    changes = Changes(limit=2)
    since = changes.number
    for name in (S, b"1", b"2", b"3"):
        changes.change(name)
        assert changes.has_changed(S, since)
    assert changes.has_changed(T, since)


def test_names_beyond_the_limit_have_not_changed_for_what_begins_after_them() -> None:
    changes = Changes(limit=2)
    for number in range(100):
        changes.change(b"%d" % number)
    since = changes.number
    changes.change(b"another")
    assert not changes.has_changed(S, since)
    assert not changes.has_changed(b"99", since)


# Pending invalidations


def test_an_invalidation_is_pending_until_its_own_sequence_number_is_confirmed() -> None:
    one = invalidations()
    first = invalidate(one)
    second = invalidate(one, now_s=NOW_S + 1)
    one.confirmed(first, NOW_S)
    assert one.is_pending(S)
    one.confirmed(second, NOW_S)
    assert not one.is_pending(S)
    assert one.pending == 0


def test_a_second_confirmation_does_not_confirm_the_next_invalidation() -> None:
    one = invalidations()
    first = invalidate(one)
    one.confirmed(first, NOW_S)
    invalidate(one)
    one.confirmed(first, NOW_S)
    assert one.is_pending(S)


def test_stacks_are_pending_independently() -> None:
    one = invalidations()
    invalidate(one)
    assert not one.is_pending(T)


def test_without_redis_nothing_is_pending_and_the_stack_has_changed() -> None:
    one = invalidations(has_redis=False)
    since = one.changes.number
    invalidate(one)
    assert one.pending == 0
    assert not one.is_pending(S)
    assert one.changes.has_changed(S, since)
    assert one.is_settling(S, NOW_S)


def test_after_a_message_nothing_is_pending_and_the_stack_has_changed() -> None:
    one = invalidations()
    since = one.changes.number
    one.invalidated_elsewhere(S, NOW_S, 2.0, settles=True)
    assert one.pending == 0
    assert one.changes.has_changed(S, since)


def test_a_failed_removal_makes_its_stack_pending_and_settles_nothing() -> None:
    one = invalidations()
    since = one.changes.number
    pending = one.removal_failed(S, NOW_S)
    assert not pending.publishes
    assert one.is_pending(S)
    assert one.changes.has_changed(S, since)
    assert not one.is_settling(S, NOW_S)


def test_the_oldest_are_due_first_and_only_so_many_at_once() -> None:
    one = invalidations()
    for stack in (S, T, U):
        invalidate(one, stack)
    invalidate(one, S)  # pending again: goes behind the others
    assert stacks(one.due(NOW_S, 2)) == [T, U]
    assert stacks(one.due(NOW_S, 10)) == [T, U, S]


@pytest.mark.parametrize(("age_s", "is_pending"), [(LONGEST_S, True), (LONGEST_S + 0.1, False)])
def test_a_pending_invalidation_older_than_any_entry_is_dropped(age_s: float, is_pending: bool) -> None:
    one = invalidations()
    invalidate(one)
    assert bool(one.due(NOW_S + age_s, 10)) is is_pending
    assert one.is_pending(S) is is_pending


def test_a_second_invalidation_includes_the_first() -> None:
    one = invalidations()
    invalidate(one, settles=True)
    again = invalidate(one, now_s=NOW_S + 5, settles=False)
    assert (again.settles, again.publishes, again.written_s) == (True, True, NOW_S + 5)


def test_a_failed_removal_after_a_write_includes_the_write() -> None:
    one = invalidations()
    invalidate(one, settles=True)
    again = one.removal_failed(S, NOW_S + 5)
    assert (again.settles, again.publishes, again.written_s) == (True, True, NOW_S)


# Connections


def test_a_connection_makes_all_pending_again_and_only_own_ones_are_published() -> None:
    one = invalidations()
    invalidate(one, S)
    one.invalidated_elsewhere(T, NOW_S, 3.0, settles=True)
    confirm_all(one, NOW_S)
    one.connection_opened(NOW_S + 10)
    assert {pending.stack: pending.publishes for pending in one.due(NOW_S + 10, 10)} == {S: True, T: False}


def test_a_stack_invalidated_here_and_elsewhere_is_published_again() -> None:
    one = invalidations()
    invalidate(one, S)
    one.invalidated_elsewhere(S, NOW_S + 1, 0.0, settles=False)
    confirm_all(one, NOW_S + 1)
    one.connection_opened(NOW_S + 10)
    [pending] = one.due(NOW_S + 10, 10)
    assert (pending.publishes, pending.settles) == (True, True)


def test_a_repeat_has_the_age_of_the_write() -> None:
    one = invalidations()
    invalidate(one, S)
    confirm_all(one, NOW_S)
    one.connection_opened(NOW_S + 200)
    [pending] = one.due(NOW_S + 200, 10)
    assert pending.written_s == NOW_S
    assert pending.settles


def test_a_repeat_is_no_change() -> None:
    one = invalidations()
    invalidate(one, S)
    confirm_all(one, NOW_S)
    since = one.changes.number
    one.connection_opened(NOW_S + 10)
    assert not one.changes.has_changed(S, since)


@pytest.mark.parametrize("source", ["own", "received"])
@pytest.mark.parametrize(("age_s", "is_pending"), [(REPEAT_S - 1, True), (REPEAT_S, False)])
def test_invalidations_are_repeated_for_ten_minutes(source: str, age_s: float, is_pending: bool) -> None:
    one = invalidations()
    if source == "own":
        invalidate(one)
        confirm_all(one, NOW_S)
    else:
        one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    one.connection_opened(NOW_S + age_s)
    assert one.is_pending(S) is is_pending


def test_a_message_about_an_old_write_is_repeated_for_the_rest_of_its_ten_minutes() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, REPEAT_S - 10, settles=True)
    one.connection_opened(NOW_S + 9)
    assert one.is_pending(S)
    confirm_all(one, NOW_S + 9)
    one.connection_opened(NOW_S + 11)
    assert not one.is_pending(S)


def test_repeats_do_not_restart_the_ten_minutes() -> None:
    one = invalidations()
    invalidate(one)
    for age_s in (200.0, 400.0, 599.0):
        one.connection_opened(NOW_S + age_s)
        confirm_all(one, NOW_S + age_s)
    one.connection_opened(NOW_S + REPEAT_S)
    assert not one.is_pending(S)


def test_a_repeated_message_restarts_neither_clock() -> None:
    one = invalidations(settle_s=REPEAT_S)
    for age_s in (0.0, 300.0, 590.0):
        one.invalidated_elsewhere(S, NOW_S + age_s, age_s, settles=True)
    assert one.is_settling(S, NOW_S + REPEAT_S - 1)
    assert not one.is_settling(S, NOW_S + REPEAT_S)
    one.connection_opened(NOW_S + REPEAT_S)
    assert not one.is_pending(S)


def test_an_older_message_does_not_shorten_the_clocks_of_a_newer_one() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    one.invalidated_elsewhere(S, NOW_S + 1, 250.0, settles=True)
    assert one.is_settling(S, NOW_S + SETTLE_S - 1)
    one.connection_opened(NOW_S + REPEAT_S - 1)
    assert one.is_pending(S)


# Connections, and what is under way meanwhile


def test_what_was_sent_before_a_connection_was_opened_is_repeated_all_the_same() -> None:
    one = invalidations()
    invalidate(one, S)
    one.invalidated_elsewhere(T, NOW_S, 0.0, settles=True)
    one.connection_opened(NOW_S)
    sent = one.due(NOW_S, 10)
    assert stacks(sent) == [S, T]
    one.connection_opened(NOW_S)
    for pending in sent:
        one.confirmed(pending, NOW_S)
    assert one.is_pending(S)
    assert one.is_pending(T)
    confirm_all(one, NOW_S)
    assert one.pending == 0


def test_a_repeat_is_pending_until_confirmed_however_old_its_write_becomes() -> None:
    one = invalidations()
    invalidate(one, S)
    confirm_all(one, NOW_S)
    for age_s in (REPEAT_S - 1, REPEAT_S + 1, LONGEST_S - 1):
        one.connection_opened(NOW_S + age_s)
        invalidate(one, T, NOW_S + age_s)
        assert one.is_pending(S)
    confirm_all(one, NOW_S + LONGEST_S - 1)
    assert one.pending == 0


def test_a_repeat_that_failed_is_sent_again() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    one.connection_opened(NOW_S)
    [pending] = one.due(NOW_S, 10)
    assert one.due(NOW_S, 10) == []
    one.failed(pending)
    assert one.due(NOW_S, 10) == [pending]
    one.confirmed(pending, NOW_S)
    assert one.pending == 0


def test_a_write_during_a_repeat_of_its_stack_is_pending_on_its_own() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    one.connection_opened(NOW_S)
    [repeat] = one.due(NOW_S, 10)
    invalidate(one, S)
    one.confirmed(repeat, NOW_S)
    assert one.is_pending(S)
    assert one.pending == 1


def test_a_message_during_a_repeat_of_its_stack_does_not_confirm_it() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 1.0, settles=True)
    one.connection_opened(NOW_S)
    one.due(NOW_S, 10)
    one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    assert one.is_pending(S)
    assert stacks(one.due(NOW_S, 10)) == [S]


def test_many_repeats_are_pending_at_once_and_sent_in_batches() -> None:
    one = invalidations(limit=1000)
    for number in range(1000):
        one.invalidated_elsewhere(b"%d" % number, NOW_S, 0.0, settles=False)
    one.connection_opened(NOW_S)
    assert one.pending == 1000
    assert all(one.is_pending(b"%d" % number) for number in range(1000))
    sent = 0
    while due := one.due(NOW_S, 128):
        assert len(due) <= 128
        sent += len(due)
        for pending in due:
            one.confirmed(pending, NOW_S)
    assert sent == 1000
    assert one.pending == 0


def test_what_is_being_sent_is_due_again_only_when_that_fails() -> None:
    one = invalidations()
    invalidate(one, S)
    sent = one.due(NOW_S, 10)
    one.begin_sending(sent)
    assert one.due(NOW_S, 10) == []
    assert one.is_pending(S)
    one.failed(sent[0])
    assert one.due(NOW_S, 10) == sent


# Refused by Redis


def test_what_is_refused_delays_nothing_and_stays_pending() -> None:
    one = invalidations()
    invalidate(one, S)
    [pending] = one.due(NOW_S, 10)
    one.refused(pending, is_published=True)
    invalidate(one, T)
    assert stacks(one.due(NOW_S, 10)) == [T]
    assert one.is_pending(S)
    [again] = one.due_refused(10)
    assert (again.stack, again.publishes) == (S, False)
    one.confirmed(again, NOW_S)
    assert not one.is_pending(S)


def test_a_refused_repeat_stays_pending_too() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 0.0, settles=True)
    one.connection_opened(NOW_S)
    [pending] = one.due(NOW_S, 10)
    one.refused(pending, is_published=False)
    assert one.pending == 1
    assert one.is_pending(S)
    assert stacks(one.due_refused(10)) == [S]


def test_a_new_write_is_published_although_the_one_before_was_refused() -> None:
    one = invalidations()
    invalidate(one, S)
    [pending] = one.due(NOW_S, 10)
    one.refused(pending, is_published=True)
    invalidate(one, S)
    [again] = one.due(NOW_S, 10)
    assert again.publishes
    assert one.due_refused(10) == []


# Overflow


def test_beyond_the_limit_the_oldest_pending_one_is_dropped_and_no_other() -> None:
    one = invalidations(limit=2)
    for stack in (S, T, U):
        invalidate(one, stack)
    assert [one.is_pending(stack) for stack in (S, T, U, b"any other")] == [False, True, True, False]
    assert one.pending == 2


def test_a_full_queue_still_takes_a_stack_that_is_in_it() -> None:
    one = invalidations(limit=2)
    for stack in (S, T, S):
        invalidate(one, stack)
    assert one.is_pending(T)
    assert one.pending == 2


def test_failed_removals_push_out_no_write() -> None:
    one = invalidations(limit=2)
    invalidate(one, S)
    for number in range(10):
        one.removal_failed(b"%d" % number, NOW_S)
    assert one.is_pending(S)
    assert one.pending == 3


def test_beyond_the_limit_the_oldest_is_not_repeated_and_all_others_are() -> None:
    one = invalidations(limit=2)
    for stack in (S, T, U):
        invalidate(one, stack)
        confirm_all(one, NOW_S)
    one.connection_opened(NOW_S)
    assert [one.is_pending(stack) for stack in (S, T, U, b"any other")] == [False, True, True, False]


def test_expired_writes_make_room_first() -> None:
    one = invalidations(limit=2, settle_s=1.0)
    invalidate(one, S)
    invalidate(one, T)
    confirm_all(one, NOW_S)
    later_s = NOW_S + REPEAT_S
    invalidate(one, U, later_s)
    confirm_all(one, later_s)
    one.connection_opened(later_s)
    assert stacks(one.due(later_s, 10)) == [U]


# Settling and uncertainty


@pytest.mark.parametrize(("age_s", "settles"), [(0.0, True), (SETTLE_S - 1, True), (SETTLE_S, False)])
def test_a_stack_settles_for_a_time_after_a_write(age_s: float, settles: bool) -> None:
    one = invalidations()
    invalidate(one)
    assert one.is_settling(S, NOW_S + age_s) is settles
    assert not one.is_settling(T, NOW_S + age_s)


def test_a_write_elsewhere_settles_from_its_response_on() -> None:
    one = invalidations()
    one.invalidated_elsewhere(S, NOW_S, 100.0, settles=True)
    assert one.is_settling(S, NOW_S + SETTLE_S - 101)
    assert not one.is_settling(S, NOW_S + SETTLE_S - 100)


def test_a_purge_does_not_settle_here_or_elsewhere() -> None:
    one = invalidations()
    pending = invalidate(one, S, settles=False)
    one.invalidated_elsewhere(T, NOW_S, 0.0, settles=False)
    assert not pending.settles
    assert not one.is_settling(S, NOW_S)
    assert not one.is_settling(T, NOW_S)


def test_a_purge_does_not_end_the_settling_of_an_earlier_write() -> None:
    one = invalidations()
    invalidate(one, S, settles=True)
    invalidate(one, S, NOW_S + 10, settles=False)
    assert one.is_settling(S, NOW_S + SETTLE_S - 1)


def test_beyond_the_limit_of_settling_stacks_it_is_uncertain_until_the_lost_one_has_settled() -> None:
    one = invalidations(limit=2)
    for stack in (S, T, U):
        invalidate(one, stack)
    assert one.is_settling(U, NOW_S + SETTLE_S - 1)
    assert not one.is_settling(b"any other", NOW_S)
    assert one.is_uncertain(NOW_S + SETTLE_S - 1)
    assert not one.is_uncertain(NOW_S + SETTLE_S)


def test_a_confirmed_subscription_changes_everything_and_is_uncertain_for_a_time() -> None:
    one = invalidations()
    since = one.changes.number
    assert not one.is_uncertain(NOW_S)
    one.subscription_confirmed(NOW_S)
    assert one.changes.has_changed(S, since)
    assert one.is_uncertain(NOW_S + SETTLE_S - 1)
    assert not one.is_uncertain(NOW_S + SETTLE_S)


def test_an_invalidation_by_another_worker_is_pending_here_too() -> None:
    one = invalidations()
    pending = one.invalidate(S, NOW_S, settles=True, publishes=False)
    assert (pending.publishes, pending.settles) == (False, True)
    assert one.is_pending(S)
    one.confirmed(pending, NOW_S)
    assert not one.is_pending(S)


def test_after_a_message_a_pending_one_stays_as_long_as_an_entry_from_before_it_may_live() -> None:
    one = invalidations()
    one.removal_failed(S, NOW_S)
    one.invalidated_elsewhere(S, NOW_S + LONGEST_S - 1, 0.0, settles=False)
    one.due(NOW_S + LONGEST_S + 1, 1)
    assert one.is_pending(S)
    one.due(NOW_S + 2 * LONGEST_S, 1)
    assert not one.is_pending(S)
