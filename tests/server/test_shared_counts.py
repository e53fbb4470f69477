"""Counters in memory shared by several processes."""

import os
import subprocess
import sys

from gateway.server.shared_counts import SharedCounts, open_shared_counts


def pair() -> tuple[SharedCounts, SharedCounts]:
    descriptor = open_shared_counts(2)
    return SharedCounts(os.dup(descriptor), 0), SharedCounts(descriptor, 1)


def test_a_raised_count_makes_the_other_process_outdated_until_it_has_received_the_message() -> None:
    one, other = pair()
    number = one.raise_own()
    assert (one.is_current(), other.is_current()) == (True, False)
    sent = other.read()
    assert not other.covers(sent)
    assert other.receive(0, number)
    assert other.is_current()
    assert other.covers(sent)


def test_a_missed_message_is_detected_and_caught_up_with() -> None:
    one, other = pair()
    first, _, third = (one.raise_own() for _ in range(3))
    assert other.receive(0, first)
    assert not other.receive(0, third)
    assert not other.is_current()
    other.catch_up()
    assert other.is_current()
    # A late message changes nothing; a message without a number cannot be missed.
    assert other.receive(0, first)
    assert other.receive(0, 0)
    assert other.is_current()


def test_a_replacement_has_missed_nothing_and_continues_the_count() -> None:
    descriptor = open_shared_counts(1)
    assert SharedCounts(os.dup(descriptor), 0).raise_own() == 1
    later = SharedCounts(descriptor, 0)
    assert later.is_current()
    assert later.raise_own() == 2


def test_another_process_sees_a_raised_count() -> None:
    descriptor = open_shared_counts(1)
    counts = SharedCounts(os.dup(descriptor), 0)
    code = (
        "import sys; from gateway.server.shared_counts import SharedCounts; "
        "SharedCounts(int(sys.argv[1]), 0).raise_own()"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(descriptor)], pass_fds=[descriptor], check=True, timeout=20
    )
    os.close(descriptor)
    assert counts.read()[0] == 1
    assert not counts.is_current()
