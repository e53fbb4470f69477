"""What the open-loop generator sends when, and how it measures time and its own lateness."""

import asyncio
import time
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.openloop.histogram import Histogram
from benchmarks.openloop.report import Tally
from benchmarks.openloop.schedule import constant, poisson
from benchmarks.openloop.targets import BadTargetsError, Chooser, Target, read_targets
from benchmarks.openloop.timer import _DescriptorTimer, _TurningTimer


def test_a_constant_schedule_is_computed_from_the_number_of_the_request() -> None:
    due = list(constant(300.0, 100.0))
    assert len(due) == 30_000
    assert due == [number / 300.0 for number in range(30_000)]


def test_a_poisson_schedule_holds_the_rate_on_average_and_follows_from_its_seed() -> None:
    due = list(poisson(1000.0, 10.0, seed=3))
    assert 9_500 < len(due) < 10_500
    assert due == sorted(due)
    assert due[-1] < 10.0
    gaps = [later - sooner for sooner, later in pairwise(due)]
    # For a Poisson process the share of gaps below the mean is 1 - 1/e.
    assert 0.60 < fmean(gap < 0.001 for gap in gaps) < 0.66
    assert due[:50] == list(islice(poisson(1000.0, 10.0, seed=3), 50))
    assert due[:50] != list(islice(poisson(1000.0, 10.0, seed=4), 50))


def test_targets_are_chosen_by_weight() -> None:
    targets = [
        Target(target="/a", weight=1.0),
        Target(target="/b", weight=3.0),
        Target(target="/c", weight=6.0),
    ]
    chooser = Chooser(targets, seed=1)
    drawn = [chooser.next() for _ in range(20_000)]
    shares = [drawn.count(index) / len(drawn) for index in range(3)]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.02)


@pytest.mark.parametrize(
    "line",
    [
        '{"target": "v2"}',
        '{"target": "/a b"}',
        '{"target": "/a", "token": "x\\r\\nHost: y"}',
        '{"target": "/a", "weight": 0}',
        '{"target": "/a", "wieght": 1}',
        "{",
        "",
    ],
)
def test_a_line_that_is_no_target_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "targets"
    path.write_text(line)
    with pytest.raises(BadTargetsError):
        read_targets(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTargetsError, match="No such file"):
        read_targets(tmp_path / "none")


@pytest.mark.parametrize(
    ("lag_s", "latency_s", "is_valid"),
    [(0.0005, 0.001, True), (0.002, 0.001, False), (0.002, 0.1, True), (0.02, 0.1, False)],
)
def test_lag_is_compared_with_the_measured_latency(lag_s: float, latency_s: float, is_valid: bool) -> None:
    tally = Tally()
    for _ in range(100):
        tally.lag.record(lag_s)
        tally.latency.record(latency_s)
        tally.by_status[200] += 1
    report = tally.report(1.0)
    assert report.is_valid is is_valid
    assert bool(report.why_not) is not is_valid


def test_histograms_can_be_merged_and_bound_what_they_record() -> None:
    one, other = Histogram(), Histogram()
    one.record(0.001)
    other.record(0.003)
    other.record(1e9)
    one.add(other.encoded())
    assert one.count == 3
    assert one.quantile_ms(50) == pytest.approx(3.0, rel=0.001)
    assert one.max_ms == pytest.approx(3_600_000.0, rel=0.001)


@pytest.mark.parametrize("kind", [_DescriptorTimer, _TurningTimer])
async def test_a_timer_never_calls_early_and_takes_a_past_moment_as_now(
    kind: type[_DescriptorTimer] | type[_TurningTimer],
) -> None:
    called: asyncio.Queue[float] = asyncio.Queue()

    def on_time() -> None:
        called.put_nowait(time.monotonic())
        timer.at(time.monotonic() + 3600)

    timer = kind(on_time)
    try:
        for wait_s in (0.02, 0.0003, -1.0):
            moment_s = time.monotonic() + wait_s
            timer.at(moment_s)
            assert await called.get() >= moment_s
        assert called.empty()
    finally:
        timer.close()
        timer.close()
