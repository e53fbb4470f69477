"""Counters in memory that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys

from gateway.server.shared_counts import SharedCounts, open_shared_counts


def pair() -> tuple[SharedCounts, SharedCounts]:
    descriptor = open_shared_counts(2)
    return SharedCounts(os.dup(descriptor), 0), SharedCounts(descriptor, 1)


def test_what_one_raises_the_other_sees_at_once_until_it_has_heard_it() -> None:
    one, other = pair()
    number = one.raise_own()
    assert (one.is_current(), other.is_current()) == (True, False)
    told = other.read()
    assert not other.covers(told)
    assert other.hear(0, number)
    assert other.is_current()
    assert other.covers(told)


def test_what_was_missed_is_told_and_caught_up_with() -> None:
    one, other = pair()
    first, _, third = (one.raise_own() for _ in range(3))
    assert other.hear(0, first)
    assert not other.hear(0, third)
    assert not other.is_current()
    other.catch_up()
    assert other.is_current()
    # What comes late changes nothing, and what is not counted misses nothing.
    assert other.hear(0, first)
    assert other.hear(0, 0)
    assert other.is_current()


def test_who_comes_later_has_missed_nothing_and_goes_on_counting_where_another_ended() -> None:
    descriptor = open_shared_counts(1)
    assert SharedCounts(os.dup(descriptor), 0).raise_own() == 1
    later = SharedCounts(descriptor, 0)
    assert later.is_current()
    assert later.raise_own() == 2


def test_another_process_sees_it() -> None:
    descriptor = open_shared_counts(1)
    counts = SharedCounts(os.dup(descriptor), 0)
    code = (
        "import sys; from gateway.shared_counts import SharedCounts; "
        "SharedCounts(int(sys.argv[1]), 0).raise_own()"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(descriptor)], pass_fds=[descriptor], check=True, timeout=20
    )
    os.close(descriptor)
    assert counts.read()[0] == 1
    assert not counts.is_current()
