"""The most requested executions are counted, in bounds and whatever their bodies hold."""

import gzip
import random

import pytest

from gateway.clock import Clock
from gateway.core.aos.execution import RecordSummary, decode_deciding
from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.entry import Entry
from gateway.telemetry.top_executions import MOST, TopExecution, TopExecutions, merged
from tests.testbed.payloads import record


class _Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.clock = Clock(monotonic_s=lambda: self.now_s)


@pytest.fixture
def time() -> _Time:
    """A clock at a fixed time."""
    return _Time()


def _fetched(top_executions: TopExecutions, action: str, body: bytes) -> None:
    found = decode_deciding(body)
    assert isinstance(found, RecordSummary)
    top_executions.fetched(ExecutionRef(b"stack", action.encode(), False), found)


def _hit(top_executions: TopExecutions, body: bytes, coding: bytes = b"identity") -> None:
    """One on the fast path, of an execution that was not fetched here."""
    lines = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n" % coding
    top_executions.fast_hit(b"stack/actions/a", _entry(body, lines), 1)


def _entry(body: bytes, lines: bytes = b"HTTP/1.1 200 OK\r\n") -> Entry:
    return Entry(lines, body, fetched_s=0.0, expires_s=1.0, upstream_age_s=0)


def _rush(top_executions: TopExecutions, paths: list[bytes], hits: int, before: int = 0) -> int:
    """Take turns on the fast path at one moment; return how many hits were sampled."""
    sampled = 0
    for count in range(before + 1, before + hits + 1):
        if count >= top_executions.fast.next:
            top_executions.fast_hit(paths[count % len(paths)], _entry(record("Succeeded")), count)
            sampled += 1
    return sampled


def test_the_most_fetched_come_first_with_their_latest_record(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    for progress in (10, 20):
        _fetched(top_executions, "a", record("Running", status__progress=progress))
        time.now_s += 2
    _fetched(top_executions, "b", record("Succeeded", status__progress=100))
    first, second = top_executions.busiest()
    assert (first.action_id, first.phase, first.progress, first.fetches) == ("a", "Running", 20, 2)
    assert (second.action_id, second.progress, second.fetches) == ("b", 100, 1)
    assert first.age_s == 2.0


def test_progress_is_read_once_a_second_or_when_the_phase_changes(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    for phase, progress, expected in (("Running", 10, 10), ("Running", 20, 10), ("Succeeded", 100, 100)):
        _fetched(top_executions, "a", record(phase, status__progress=progress))
        assert top_executions.busiest()[0].progress == expected


@pytest.mark.parametrize("progress", ["half", None, 101, -1, 1.5, {"a": 1}])
def test_an_odd_progress_is_none(time: _Time, progress: object) -> None:
    top_executions = TopExecutions(time.clock)
    _fetched(top_executions, "a", record("Running", status__progress=progress))
    assert top_executions.busiest()[0].progress is None


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"[" * 10_000, b"identity"),
        (b'{"status": {"progress": 1}}' + b" " * 70_000, b"identity"),
        (b"no gzip", b"gzip"),
    ],
)
def test_what_cannot_be_read_in_bounds_has_no_progress(time: _Time, body: bytes, coding: bytes) -> None:
    top_executions = TopExecutions(time.clock)
    _hit(top_executions, body, coding)
    assert top_executions.busiest()[0].progress is None


def test_a_compressed_body_is_decoded(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    _hit(top_executions, gzip.compress(record("Running", status__progress=30)), b"gzip")
    assert top_executions.busiest()[0].progress == 30


def test_a_body_that_is_no_record_is_not_counted(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    top_executions.fetched(ExecutionRef(b"s", b"a", False), None)
    assert top_executions.busiest() == []


def test_many_executions_take_bounded_room_and_the_busy_ones_stay(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    for number in range(3 * MOST):
        _fetched(top_executions, f"once-{number}", b"{}")
        _fetched(top_executions, "busy", record("x" * 1000))
    found = top_executions.busiest()
    assert len(found) == 10
    assert len(top_executions._counts) == MOST
    assert (found[0].action_id, found[0].fetches) == ("busy", 3 * MOST)
    assert len(found[0].phase or "") == 40


def test_recent_polls_rank_above_more_frequent_former_ones(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    for _ in range(20):
        _fetched(top_executions, "then", b"{}")
    time.now_s += 100
    for _ in range(5):
        _fetched(top_executions, "now", b"{}")
    assert [(one.action_id, one.fetches) for one in top_executions.busiest()] == [("now", 5), ("then", 20)]


def test_what_was_not_fetched_for_minutes_is_left_out(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    _fetched(top_executions, "a", b"{}")
    time.now_s += 301
    assert top_executions.busiest() == []


def test_the_lists_of_several_processes_are_merged() -> None:
    here = [
        TopExecution("s", "a", "Running", 10, 3, 5.0, 2.0),
        TopExecution("s", "b", "Failed", None, 1, 1.0, 0.9),
    ]
    there = [
        TopExecution("s", "a", "Succeeded", 100, 2, 0.5, 1.5),
        TopExecution("s", "c", None, None, 9, 60.0, 2.0),
    ]
    found = merged([here, there])
    assert [(one.action_id, one.phase, one.fetches) for one in found] == [
        ("a", "Succeeded", 5),
        ("c", None, 9),
        ("b", "Failed", 1),
    ]


def test_few_hits_are_counted_one_by_one_beside_the_fetches(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    _fetched(top_executions, "a", record("Succeeded", status__progress=100))
    for count in range(1, 41):
        time.now_s += 0.1
        assert count == top_executions.fast.next
        top_executions.fast_hit(b"stack/actions/a", _entry(record("Succeeded", status__progress=100)), count)
        top_executions.hit(ExecutionRef(b"stack", b"b", False), _entry(b"{}"))
    found = {one.action_id: one for one in top_executions.busiest()}
    assert [(found[action].fetches, found[action].hits) for action in ("a", "b")] == [(1, 40), (0, 40)]
    assert (found["a"].phase, found["b"].phase, found["b"].age_s) == ("Succeeded", None, 0.0)


def test_in_a_rush_few_hits_are_sampled_and_stand_for_all(time: _Time) -> None:
    random.seed(7)
    top_executions = TopExecutions(time.clock)
    assert _rush(top_executions, [b"stack/actions/a", b"stack/actions/b"], 40_000) < 40_000 / 30
    counts = [one.hits for one in top_executions.busiest()]
    assert 39_800 < sum(counts) <= 40_000
    assert min(counts) > 17_000


def test_after_a_rush_reading_the_list_samples_the_next_hit(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    _rush(top_executions, [b"stack/actions/a"], 10_000)
    time.now_s += 60
    top_executions.busiest()
    assert _rush(top_executions, [b"stack/actions/late"], 1, before=10_000) == 1
    assert [one.action_id for one in top_executions.busiest()] == ["a", "late"]


def test_a_hit_shows_the_record_where_there_was_no_fetch(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    lines = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n"
    body = gzip.compress(record("Failed", status__progress=60))
    top_executions.fast_hit(b"stack/actions/a", _entry(body, lines), 1)
    (one,) = top_executions.busiest()
    assert (one.stack_id, one.action_id, one.phase, one.progress) == ("stack", "a", "Failed", 60)


def test_what_cannot_be_read_at_a_hit_stays_as_fetched(time: _Time) -> None:
    top_executions = TopExecutions(time.clock)
    _fetched(top_executions, "a", record("Succeeded", status__progress=100))
    time.now_s += 2
    top_executions.fast_hit(b"stack/actions/a", _entry(b"{" + b" " * 100_000 + b"}"), 1)
    assert (top_executions.busiest()[0].phase, top_executions.busiest()[0].progress) == ("Succeeded", 100)
