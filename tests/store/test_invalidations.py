"""The ledger: what was forgotten, what is owed, what may have gone unseen."""

from __future__ import annotations

import pytest

from gateway.store.invalidations import REPEAT_S, Changes, Invalidations, PendingInvalidation

LONGEST_S = 1000.0
SETTLE_S = 300.0
NOW_S = 5000.0
S, T, U = b"s", b"t", b"u"


def invalidations(*, limit: int = 100, settle_s: float = SETTLE_S) -> Invalidations:
    return Invalidations(LONGEST_S, settle_s, limit)


def stacks(debts: list[PendingInvalidation]) -> list[bytes]:
    return [debt.stack for debt in debts]


def forget(
    book: Invalidations, stack: bytes = S, now_s: float = NOW_S, *, settles: bool = True
) -> PendingInvalidation:
    debt = book.forget(stack, now_s, settles=settles, owes=True)
    assert debt is not None
    return debt


def pay_all(book: Invalidations, now_s: float) -> None:
    for debt in book.debts(now_s, 1000):
        book.paid(debt, now_s)


# Changes


def test_a_change_is_seen_by_who_began_before_it_and_under_its_name_alone() -> None:
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


def test_names_beyond_the_limit_concern_nobody_who_begins_after_them() -> None:
    changes = Changes(limit=2)
    for number in range(100):
        changes.change(b"%d" % number)
    since = changes.number
    changes.change(b"another")
    assert not changes.has_changed(S, since)
    assert not changes.has_changed(b"99", since)


# Debts


def test_a_forget_is_owed_until_its_own_sequence_number_is_paid() -> None:
    book = invalidations()
    first = forget(book)
    second = forget(book, now_s=NOW_S + 1)
    book.paid(first, NOW_S)
    assert book.owes(S)
    book.paid(second, NOW_S)
    assert not book.owes(S)
    assert book.owed == 0


def test_paying_a_debt_twice_does_not_pay_the_next_one() -> None:
    book = invalidations()
    first = forget(book)
    book.paid(first, NOW_S)
    forget(book)
    book.paid(first, NOW_S)
    assert book.owes(S)


def test_the_debt_of_one_stack_is_not_that_of_another() -> None:
    book = invalidations()
    forget(book)
    assert not book.owes(T)


def test_a_forget_without_a_redis_owes_nothing_and_still_counts() -> None:
    book = invalidations()
    since = book.changes.number
    assert book.forget(S, NOW_S, settles=True, owes=False) is None
    assert book.owed == 0
    assert book.changes.has_changed(S, since)
    assert book.is_settling(S, NOW_S)


def test_a_note_owes_nothing_and_counts() -> None:
    book = invalidations()
    since = book.changes.number
    book.note(S, NOW_S, 2.0, settles=True)
    assert book.owed == 0
    assert book.changes.has_changed(S, since)


def test_a_failed_removal_owes_its_stack_and_settles_nothing() -> None:
    book = invalidations()
    since = book.changes.number
    debt = book.owe(S, NOW_S)
    assert not debt.published
    assert book.owes(S)
    assert book.changes.has_changed(S, since)
    assert not book.is_settling(S, NOW_S)


def test_debts_are_paid_oldest_first_and_only_so_many_at_once() -> None:
    book = invalidations()
    for stack in (S, T, U):
        forget(book, stack)
    forget(book, S)  # owed anew: goes behind the others
    assert stacks(book.debts(NOW_S, 2)) == [T, U]
    assert stacks(book.debts(NOW_S, 10)) == [T, U, S]


@pytest.mark.parametrize(("age_s", "is_owed"), [(LONGEST_S, True), (LONGEST_S + 0.1, False)])
def test_a_debt_older_than_any_entry_is_let_go(age_s: float, is_owed: bool) -> None:
    book = invalidations()
    forget(book)
    assert bool(book.debts(NOW_S + age_s, 10)) is is_owed
    assert book.owes(S) is is_owed


def test_a_debt_owed_anew_keeps_what_the_first_one_had_to_tell() -> None:
    book = invalidations()
    forget(book, settles=True)
    again = forget(book, now_s=NOW_S + 5, settles=False)
    assert (again.settles, again.published, again.written_s) == (True, True, NOW_S + 5)


def test_a_removal_owed_on_top_of_a_write_still_tells_of_the_write() -> None:
    book = invalidations()
    forget(book, settles=True)
    again = book.owe(S, NOW_S + 5)
    assert (again.settles, again.published, again.written_s) == (True, True, NOW_S)


# Connections


def test_a_connection_owes_own_and_noted_forgets_again_and_publishes_the_own_ones_alone() -> None:
    book = invalidations()
    forget(book, S)
    book.note(T, NOW_S, 3.0, settles=True)
    pay_all(book, NOW_S)
    book.connection_opened(NOW_S + 10)
    assert {debt.stack: debt.published for debt in book.debts(NOW_S + 10, 10)} == {S: True, T: False}


def test_a_stack_both_written_to_here_and_noted_is_published_again() -> None:
    book = invalidations()
    forget(book, S)
    book.note(S, NOW_S + 1, 0.0, settles=False)
    pay_all(book, NOW_S + 1)
    book.connection_opened(NOW_S + 10)
    [debt] = book.debts(NOW_S + 10, 10)
    assert (debt.published, debt.settles) == (True, True)


def test_a_repeated_forget_tells_the_age_of_the_write_and_not_its_own() -> None:
    book = invalidations()
    forget(book, S)
    pay_all(book, NOW_S)
    book.connection_opened(NOW_S + 200)
    [debt] = book.debts(NOW_S + 200, 10)
    assert debt.written_s == NOW_S
    assert debt.settles


def test_a_repeated_forget_does_not_raise_the_count() -> None:
    book = invalidations()
    forget(book, S)
    pay_all(book, NOW_S)
    since = book.changes.number
    book.connection_opened(NOW_S + 10)
    assert not book.changes.has_changed(S, since)


@pytest.mark.parametrize("source", ["own", "noted"])
@pytest.mark.parametrize(("age_s", "is_owed"), [(REPEAT_S - 1, True), (REPEAT_S, False)])
def test_forgets_are_repeated_for_ten_minutes(source: str, age_s: float, is_owed: bool) -> None:
    book = invalidations()
    if source == "own":
        forget(book)
        pay_all(book, NOW_S)
    else:
        book.note(S, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S + age_s)
    assert book.owes(S) is is_owed


def test_a_note_of_an_old_write_is_repeated_for_the_rest_of_its_ten_minutes() -> None:
    book = invalidations()
    book.note(S, NOW_S, REPEAT_S - 10, settles=True)
    book.connection_opened(NOW_S + 9)
    assert book.owes(S)
    pay_all(book, NOW_S + 9)
    book.connection_opened(NOW_S + 11)
    assert not book.owes(S)


def test_repeats_do_not_restart_the_ten_minutes() -> None:
    book = invalidations()
    forget(book)
    for age_s in (200.0, 400.0, 599.0):
        book.connection_opened(NOW_S + age_s)
        pay_all(book, NOW_S + age_s)
    book.connection_opened(NOW_S + REPEAT_S)
    assert not book.owes(S)


def test_a_repeated_note_restarts_neither_clock() -> None:
    book = invalidations(settle_s=REPEAT_S)
    for age_s in (0.0, 300.0, 590.0):
        book.note(S, NOW_S + age_s, age_s, settles=True)
    assert book.is_settling(S, NOW_S + REPEAT_S - 1)
    assert not book.is_settling(S, NOW_S + REPEAT_S)
    book.connection_opened(NOW_S + REPEAT_S)
    assert not book.owes(S)


def test_an_older_note_does_not_shorten_the_clocks_of_a_newer_one() -> None:
    book = invalidations()
    book.note(S, NOW_S, 0.0, settles=True)
    book.note(S, NOW_S + 1, 250.0, settles=True)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)
    book.connection_opened(NOW_S + REPEAT_S - 1)
    assert book.owes(S)


# Connections, and what is under way meanwhile


def test_what_was_sent_before_a_connection_was_opened_is_repeated_all_the_same() -> None:
    book = invalidations()
    forget(book, S)
    book.note(T, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S)
    sent = book.debts(NOW_S, 10)
    assert stacks(sent) == [S, T]
    book.connection_opened(NOW_S)
    for debt in sent:
        book.paid(debt, NOW_S)
    assert book.owes(S)
    assert book.owes(T)
    pay_all(book, NOW_S)
    assert book.owed == 0


def test_a_repeat_is_owed_until_it_is_paid_however_old_its_write_becomes() -> None:
    book = invalidations()
    forget(book, S)
    pay_all(book, NOW_S)
    for age_s in (REPEAT_S - 1, REPEAT_S + 1, LONGEST_S - 1):
        book.connection_opened(NOW_S + age_s)
        forget(book, T, NOW_S + age_s)
        assert book.owes(S)
    pay_all(book, NOW_S + LONGEST_S - 1)
    assert book.owed == 0


def test_a_repeat_that_failed_is_sent_again() -> None:
    book = invalidations()
    book.note(S, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S)
    [debt] = book.debts(NOW_S, 10)
    assert book.debts(NOW_S, 10) == []
    book.failed(debt)
    assert book.debts(NOW_S, 10) == [debt]
    book.paid(debt, NOW_S)
    assert book.owed == 0


def test_a_write_during_its_stacks_repeat_is_owed_on_its_own() -> None:
    book = invalidations()
    book.note(S, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S)
    [repeat] = book.debts(NOW_S, 10)
    forget(book, S)
    book.paid(repeat, NOW_S)
    assert book.owes(S)
    assert book.owed == 1


def test_a_note_during_its_stacks_repeat_does_not_pay_it() -> None:
    book = invalidations()
    book.note(S, NOW_S, 1.0, settles=True)
    book.connection_opened(NOW_S)
    book.debts(NOW_S, 10)
    book.note(S, NOW_S, 0.0, settles=True)
    assert book.owes(S)
    assert stacks(book.debts(NOW_S, 10)) == [S]


def test_many_repeats_are_marked_at_once_and_sent_in_slices() -> None:
    book = invalidations(limit=1000)
    for number in range(1000):
        book.note(b"%d" % number, NOW_S, 0.0, settles=False)
    book.connection_opened(NOW_S)
    assert book.owed == 1000
    assert all(book.owes(b"%d" % number) for number in range(1000))
    sent = 0
    while debts := book.debts(NOW_S, 128):
        assert len(debts) <= 128
        sent += len(debts)
        for debt in debts:
            book.paid(debt, NOW_S)
    assert sent == 1000
    assert book.owed == 0


def test_what_is_on_its_way_is_sent_by_nobody_else_and_again_when_it_failed() -> None:
    book = invalidations()
    forget(book, S)
    sent = book.debts(NOW_S, 10)
    book.send(sent)
    assert book.debts(NOW_S, 10) == []
    assert book.owes(S)
    book.failed(sent[0])
    assert book.debts(NOW_S, 10) == sent


# Refusals


def test_what_is_refused_holds_up_nothing_and_stays_owed() -> None:
    book = invalidations()
    forget(book, S)
    [debt] = book.debts(NOW_S, 10)
    book.refuse(debt, is_told=True)
    forget(book, T)
    assert stacks(book.debts(NOW_S, 10)) == [T]
    assert book.owes(S)
    [again] = book.refused_debts(10)
    assert (again.stack, again.published) == (S, False)
    book.paid(again, NOW_S)
    assert not book.owes(S)


def test_a_refused_repeat_stays_owed_too() -> None:
    book = invalidations()
    book.note(S, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S)
    [debt] = book.debts(NOW_S, 10)
    book.refuse(debt, is_told=False)
    assert book.owed == 1
    assert book.owes(S)
    assert stacks(book.refused_debts(10)) == [S]


def test_a_new_write_is_told_although_the_one_before_was_refused() -> None:
    book = invalidations()
    forget(book, S)
    [debt] = book.debts(NOW_S, 10)
    book.refuse(debt, is_told=True)
    forget(book, S)
    [again] = book.debts(NOW_S, 10)
    assert again.published
    assert book.refused_debts(10) == []


# Overflow


def test_beyond_the_limit_of_debts_the_oldest_is_let_go_and_no_other_stack_suffers() -> None:
    book = invalidations(limit=2)
    for stack in (S, T, U):
        forget(book, stack)
    assert [book.owes(stack) for stack in (S, T, U, b"any other")] == [False, True, True, False]
    assert book.owed == 2


def test_a_full_list_of_debts_still_takes_a_stack_that_is_on_it() -> None:
    book = invalidations(limit=2)
    for stack in (S, T, S):
        forget(book, stack)
    assert book.owes(T)
    assert book.owed == 2


def test_removals_that_fail_push_out_no_write() -> None:
    book = invalidations(limit=2)
    forget(book, S)
    for number in range(10):
        book.owe(b"%d" % number, NOW_S)
    assert book.owes(S)
    assert book.owed == 3


def test_beyond_the_limit_the_oldest_lose_their_repeat_and_no_other_stack_suffers() -> None:
    book = invalidations(limit=2)
    for stack in (S, T, U):
        forget(book, stack)
        pay_all(book, NOW_S)
    book.connection_opened(NOW_S)
    assert [book.owes(stack) for stack in (S, T, U, b"any other")] == [False, True, True, False]


def test_writes_that_are_over_make_room_before_anything_is_lost_track_of() -> None:
    book = invalidations(limit=2, settle_s=1.0)
    forget(book, S)
    forget(book, T)
    pay_all(book, NOW_S)
    later_s = NOW_S + REPEAT_S
    forget(book, U, later_s)
    pay_all(book, later_s)
    book.connection_opened(later_s)
    assert stacks(book.debts(later_s, 10)) == [U]


# Settling and uncertainty


@pytest.mark.parametrize(("age_s", "settles"), [(0.0, True), (SETTLE_S - 1, True), (SETTLE_S, False)])
def test_a_stack_settles_for_a_time_after_a_write(age_s: float, settles: bool) -> None:
    book = invalidations()
    forget(book)
    assert book.is_settling(S, NOW_S + age_s) is settles
    assert not book.is_settling(T, NOW_S + age_s)


def test_a_noted_write_settles_from_when_it_was_answered() -> None:
    book = invalidations()
    book.note(S, NOW_S, 100.0, settles=True)
    assert book.is_settling(S, NOW_S + SETTLE_S - 101)
    assert not book.is_settling(S, NOW_S + SETTLE_S - 100)


def test_a_purge_does_not_settle_here_or_when_noted() -> None:
    book = invalidations()
    debt = forget(book, S, settles=False)
    book.note(T, NOW_S, 0.0, settles=False)
    assert not debt.settles
    assert not book.is_settling(S, NOW_S)
    assert not book.is_settling(T, NOW_S)


def test_a_purge_does_not_end_the_settling_of_an_earlier_write() -> None:
    book = invalidations()
    forget(book, S, settles=True)
    forget(book, S, NOW_S + 10, settles=False)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)


def test_beyond_the_limit_of_settling_stacks_it_is_uncertain_until_the_lost_one_has_settled() -> None:
    book = invalidations(limit=2)
    for stack in (S, T, U):
        book.forget(stack, NOW_S, settles=True, owes=False)
    assert book.is_settling(U, NOW_S + SETTLE_S - 1)
    assert not book.is_settling(b"any other", NOW_S)
    assert book.is_uncertain(NOW_S + SETTLE_S - 1)
    assert not book.is_uncertain(NOW_S + SETTLE_S)


def test_a_confirmed_subscription_changes_everything_and_is_uncertain_for_a_time() -> None:
    book = invalidations()
    since = book.changes.number
    assert not book.is_uncertain(NOW_S)
    book.subscription_confirmed(NOW_S)
    assert book.changes.has_changed(S, since)
    assert book.is_uncertain(NOW_S + SETTLE_S - 1)
    assert not book.is_uncertain(NOW_S + SETTLE_S)


def test_a_note_may_owe_the_forget_alone() -> None:
    book = invalidations()
    debt = book.note(S, NOW_S, 0.0, settles=True, owes=True)
    assert debt is not None
    assert (debt.published, debt.settles) == (False, True)
    assert book.owes(S)
    book.paid(debt, NOW_S)
    assert not book.owes(S)
    assert book.note(S, NOW_S, 0.0, settles=True) is None


def test_a_note_about_what_is_owed_lets_it_be_owed_as_long_as_an_entry_from_before_the_note_lives() -> None:
    book = invalidations()
    book.owe(S, NOW_S)
    book.note(S, NOW_S + LONGEST_S - 1, 0.0, settles=False)
    book.debts(NOW_S + LONGEST_S + 1, 1)
    assert book.owes(S)
    book.debts(NOW_S + 2 * LONGEST_S, 1)
    assert not book.owes(S)
