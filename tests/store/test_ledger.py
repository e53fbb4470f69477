"""The ledger: what was forgotten, what is owed, what may have gone unseen."""

from __future__ import annotations

import pytest

from gateway.store.ledger import REPEAT_S, Counts, Debt, Ledger

LONGEST_S = 1000.0
SETTLE_S = 300.0
NOW_S = 5000.0
S, T, U = b"s", b"t", b"u"


def ledger(*, limit: int = 100, settle_s: float = SETTLE_S) -> Ledger:
    return Ledger(LONGEST_S, settle_s, limit)


def stacks(debts: list[Debt]) -> list[bytes]:
    return [debt.stack for debt in debts]


def forget(book: Ledger, stack: bytes = S, now_s: float = NOW_S, *, settles: bool = True) -> Debt:
    debt = book.forget(stack, now_s, settles=settles, owes=True)
    assert debt is not None
    return debt


def pay_all(book: Ledger, now_s: float) -> None:
    for debt in book.debts(now_s, 1000):
        book.paid(debt)


# Counts


def test_a_count_moves_with_its_name_alone() -> None:
    counts = Counts()
    before = counts.read(S), counts.read(T)
    counts.raise_one(S)
    assert counts.read(S) != before[0]
    assert counts.read(T) == before[1]


def test_a_count_never_takes_a_value_it_had_before() -> None:
    counts = Counts()
    seen = {counts.read(S)}
    for change in (counts.raise_all, lambda: counts.raise_one(S), lambda: counts.raise_one(T)) * 3:
        before = counts.read(S)
        change()
        if counts.read(S) != before:
            assert counts.read(S) not in seen
            seen.add(counts.read(S))
    assert len(seen) == 7


def test_raising_all_moves_names_that_were_never_raised() -> None:
    counts = Counts()
    before = counts.read(b"never raised")
    counts.raise_all()
    assert counts.read(b"never raised") != before


def test_beyond_the_limit_a_name_may_read_as_changed_and_never_as_unchanged() -> None:
    counts = Counts(limit=2)
    counts.raise_one(S)
    before = {name: counts.read(name) for name in (S, T)}
    counts.raise_one(S)
    for other in (b"1", b"2", b"3"):
        counts.raise_one(other)
        assert counts.read(S) != before[S]
    assert counts.read(T) != before[T]  # the floor has risen over it


def test_the_name_changed_last_is_kept_longest() -> None:
    counts = Counts(limit=2)
    for name in (S, T, S, U):
        counts.raise_one(name)
    assert counts.read(S) != counts.read(T)
    assert counts.read(T) == counts.read(b"unknown")


# Debts


def test_a_forget_is_owed_until_its_own_sequence_number_is_paid() -> None:
    book = ledger()
    first = forget(book)
    second = forget(book, now_s=NOW_S + 1)
    book.paid(first)
    assert book.owes(S, NOW_S + 1)
    book.paid(second)
    assert not book.owes(S, NOW_S + 1)
    assert book.owed == 0


def test_paying_a_debt_twice_does_not_pay_the_next_one() -> None:
    book = ledger()
    first = forget(book)
    book.paid(first)
    forget(book)
    book.paid(first)
    assert book.owes(S, NOW_S)


def test_the_debt_of_one_stack_is_not_that_of_another() -> None:
    book = ledger()
    forget(book)
    assert not book.owes(T, NOW_S)


def test_a_forget_without_a_redis_owes_nothing_and_still_counts() -> None:
    book = ledger()
    before = book.counts.read(S)
    assert book.forget(S, NOW_S, settles=True, owes=False) is None
    assert book.owed == 0
    assert book.counts.read(S) != before
    assert book.is_settling(S, NOW_S)


def test_a_note_owes_nothing_and_counts() -> None:
    book = ledger()
    before = book.counts.read(S)
    book.note(S, NOW_S, 2.0, settles=True)
    assert book.owed == 0
    assert book.counts.read(S) != before


def test_a_failed_removal_owes_its_stack_and_settles_nothing() -> None:
    book = ledger()
    before = book.counts.read(S)
    debt = book.owe(S, NOW_S)
    assert debt is not None
    assert debt.published
    assert book.owes(S, NOW_S)
    assert book.counts.read(S) != before
    assert not book.is_settling(S, NOW_S)


def test_debts_are_paid_oldest_first_and_only_so_many_at_once() -> None:
    book = ledger()
    for stack in (S, T, U):
        forget(book, stack)
    forget(book, S)  # owed anew: goes behind the others
    assert stacks(book.debts(NOW_S, 2)) == [T, U]
    assert stacks(book.debts(NOW_S, 10)) == [T, U, S]


@pytest.mark.parametrize(("age_s", "is_owed"), [(LONGEST_S, True), (LONGEST_S + 0.1, False)])
def test_a_debt_older_than_any_entry_is_let_go(age_s: float, is_owed: bool) -> None:
    book = ledger()
    forget(book)
    assert bool(book.debts(NOW_S + age_s, 10)) is is_owed
    assert book.owes(S, NOW_S + age_s) is is_owed


def test_a_debt_owed_anew_keeps_what_the_first_one_had_to_tell() -> None:
    book = ledger()
    forget(book, settles=True)
    again = forget(book, now_s=NOW_S + 5, settles=False)
    assert (again.settles, again.published, again.written_s) == (True, True, NOW_S + 5)


def test_a_removal_owed_on_top_of_a_write_still_tells_of_the_write() -> None:
    book = ledger()
    forget(book, settles=True)
    again = book.owe(S, NOW_S + 5)
    assert again is not None
    assert again.settles


# Connections


def test_a_connection_owes_own_and_noted_forgets_again_and_publishes_the_own_ones_alone() -> None:
    book = ledger()
    forget(book, S)
    book.note(T, NOW_S, 3.0, settles=True)
    pay_all(book, NOW_S)
    book.connection_opened(NOW_S + 10)
    assert {debt.stack: debt.published for debt in book.debts(NOW_S + 10, 10)} == {S: True, T: False}


def test_a_stack_both_written_to_here_and_noted_is_published_again() -> None:
    book = ledger()
    forget(book, S)
    book.note(S, NOW_S + 1, 0.0, settles=False)
    pay_all(book, NOW_S + 1)
    book.connection_opened(NOW_S + 10)
    [debt] = book.debts(NOW_S + 10, 10)
    assert (debt.published, debt.settles) == (True, True)


def test_a_repeated_forget_tells_the_age_of_the_write_and_not_its_own() -> None:
    book = ledger()
    forget(book, S)
    pay_all(book, NOW_S)
    book.connection_opened(NOW_S + 200)
    [debt] = book.debts(NOW_S + 200, 10)
    assert debt.written_s == NOW_S
    assert debt.settles


def test_a_repeated_forget_does_not_raise_the_count() -> None:
    book = ledger()
    forget(book, S)
    pay_all(book, NOW_S)
    before = book.counts.read(S)
    book.connection_opened(NOW_S + 10)
    assert book.counts.read(S) == before


@pytest.mark.parametrize("source", ["own", "noted"])
@pytest.mark.parametrize(("age_s", "is_owed"), [(REPEAT_S - 1, True), (REPEAT_S, False)])
def test_forgets_are_repeated_for_ten_minutes(source: str, age_s: float, is_owed: bool) -> None:
    book = ledger()
    if source == "own":
        forget(book)
        pay_all(book, NOW_S)
    else:
        book.note(S, NOW_S, 0.0, settles=True)
    book.connection_opened(NOW_S + age_s)
    assert book.owes(S, NOW_S + age_s) is is_owed


def test_a_note_of_an_old_write_is_repeated_for_the_rest_of_its_ten_minutes() -> None:
    book = ledger()
    book.note(S, NOW_S, REPEAT_S - 10, settles=True)
    book.connection_opened(NOW_S + 9)
    assert book.owes(S, NOW_S + 9)
    pay_all(book, NOW_S + 9)
    book.connection_opened(NOW_S + 11)
    assert not book.owes(S, NOW_S + 11)


def test_repeats_do_not_restart_the_ten_minutes() -> None:
    book = ledger()
    forget(book)
    for age_s in (200.0, 400.0, 599.0):
        book.connection_opened(NOW_S + age_s)
        pay_all(book, NOW_S + age_s)
    book.connection_opened(NOW_S + REPEAT_S)
    assert not book.owes(S, NOW_S + REPEAT_S)


def test_a_repeated_note_restarts_neither_clock() -> None:
    book = ledger(settle_s=REPEAT_S)
    for age_s in (0.0, 300.0, 590.0):
        book.note(S, NOW_S + age_s, age_s, settles=True)
    assert book.is_settling(S, NOW_S + REPEAT_S - 1)
    assert not book.is_settling(S, NOW_S + REPEAT_S)
    book.connection_opened(NOW_S + REPEAT_S)
    assert not book.owes(S, NOW_S + REPEAT_S)


def test_an_older_note_does_not_shorten_the_clocks_of_a_newer_one() -> None:
    book = ledger()
    book.note(S, NOW_S, 0.0, settles=True)
    book.note(S, NOW_S + 1, 250.0, settles=True)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)
    book.connection_opened(NOW_S + REPEAT_S - 1)
    assert book.owes(S, NOW_S + REPEAT_S - 1)


# Overflow


def test_beyond_the_limit_of_debts_redis_is_unused_for_all_until_the_longest_entry_has_ended() -> None:
    book = ledger(limit=2)
    forget(book, S)
    forget(book, T)
    assert book.forget(U, NOW_S, settles=True, owes=True) is None
    pay_all(book, NOW_S)
    assert book.owes(U, NOW_S)
    assert book.owes(b"any other", NOW_S + LONGEST_S - 1)
    assert not book.owes(b"any other", NOW_S + LONGEST_S)


def test_a_full_list_of_debts_still_takes_a_stack_that_is_on_it() -> None:
    book = ledger(limit=2)
    forget(book, S)
    forget(book, T)
    forget(book, S)
    assert not book.owes(U, NOW_S)
    assert book.owed == 2


def test_a_connection_opened_after_too_many_writes_leaves_redis_unused() -> None:
    book = ledger(limit=2)
    for stack in (S, T, U):
        forget(book, stack)
        pay_all(book, NOW_S)
    assert not book.owes(b"any other", NOW_S)  # all of them were paid
    book.connection_opened(NOW_S + 1)  # but not all of them can be repeated
    assert book.owes(b"any other", NOW_S + LONGEST_S)
    assert not book.owes(b"any other", NOW_S + 1 + LONGEST_S)


def test_a_connection_opened_ten_minutes_after_too_many_writes_is_used() -> None:
    book = ledger(limit=2)
    for stack in (S, T, U):
        forget(book, stack)
        pay_all(book, NOW_S)
    book.connection_opened(NOW_S + REPEAT_S)
    assert not book.owes(b"any other", NOW_S + REPEAT_S)


def test_writes_that_are_over_make_room_before_anything_is_lost_track_of() -> None:
    book = ledger(limit=2, settle_s=1.0)
    forget(book, S)
    forget(book, T)
    pay_all(book, NOW_S)
    later_s = NOW_S + REPEAT_S
    forget(book, U, later_s)
    pay_all(book, later_s)
    book.connection_opened(later_s)
    assert not book.owes(b"any other", later_s)


# Settling and uncertainty


@pytest.mark.parametrize(("age_s", "settles"), [(0.0, True), (SETTLE_S - 1, True), (SETTLE_S, False)])
def test_a_stack_settles_for_a_time_after_a_write(age_s: float, settles: bool) -> None:
    book = ledger()
    forget(book)
    assert book.is_settling(S, NOW_S + age_s) is settles
    assert not book.is_settling(T, NOW_S + age_s)


def test_a_noted_write_settles_from_when_it_was_answered() -> None:
    book = ledger()
    book.note(S, NOW_S, 100.0, settles=True)
    assert book.is_settling(S, NOW_S + SETTLE_S - 101)
    assert not book.is_settling(S, NOW_S + SETTLE_S - 100)


def test_a_purge_does_not_settle_here_or_when_noted() -> None:
    book = ledger()
    debt = forget(book, S, settles=False)
    book.note(T, NOW_S, 0.0, settles=False)
    assert not debt.settles
    assert not book.is_settling(S, NOW_S)
    assert not book.is_settling(T, NOW_S)


def test_a_purge_does_not_end_the_settling_of_an_earlier_write() -> None:
    book = ledger()
    forget(book, S, settles=True)
    forget(book, S, NOW_S + 10, settles=False)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)


def test_beyond_the_limit_every_stack_settles_for_a_time() -> None:
    book = ledger(limit=2)
    for stack in (S, T, U):
        book.forget(stack, NOW_S, settles=True, owes=False)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)
    assert book.is_settling(b"any other", NOW_S + REPEAT_S - 1)
    assert not book.is_settling(b"any other", NOW_S + REPEAT_S)


def test_an_older_note_of_a_stack_that_was_lost_track_of_does_not_end_its_settling() -> None:
    book = ledger(limit=2)
    for stack in (S, T, U):
        book.forget(stack, NOW_S, settles=True, owes=False)
    book.note(S, NOW_S + 1, SETTLE_S - 10, settles=True)
    assert book.is_settling(S, NOW_S + SETTLE_S - 1)


def test_a_confirmed_subscription_moves_every_count_and_is_uncertain_for_a_time() -> None:
    book = ledger()
    before = book.counts.read(S), book.counts.read(b"never seen")
    assert not book.is_uncertain(NOW_S)
    book.subscription_confirmed(NOW_S)
    assert book.counts.read(S) != before[0]
    assert book.counts.read(b"never seen") != before[1]
    assert book.is_uncertain(NOW_S + SETTLE_S - 1)
    assert not book.is_uncertain(NOW_S + SETTLE_S)


def test_the_drops_of_entries_are_counted_apart() -> None:
    book = ledger()
    before = book.drops.read(b"entry")
    forget(book)
    book.subscription_confirmed(NOW_S)
    assert book.drops.read(b"entry") == before


def test_a_note_may_owe_the_forget_alone() -> None:
    book = ledger()
    debt = book.note(S, NOW_S, 0.0, settles=True, owes=True)
    assert debt is not None
    assert (debt.published, debt.settles) == (False, True)
    assert book.owes(S, NOW_S)
    book.paid(debt)
    assert not book.owes(S, NOW_S)
    assert book.note(S, NOW_S, 0.0, settles=True) is None
