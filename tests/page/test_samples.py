"""Samples of the metrics, and what was counted between two of them."""

import pytest

from gateway.page.samples import STEP_S, STEPS, Change, History, Sample, change, quantile_s
from gateway.telemetry.snapshot import Snapshot

_SNAPSHOT: Snapshot = {
    "requests": {("hit", "", "2xx"): (7.0,), ("miss", "phase", "2xx"): (3.0,), ("miss", "", "5xx"): (0.0,)},
    "fetches_in_flight": {(): (2.0,)},
    "upstream_waiting": {(): (0.0,)},
    "redis_node_up": {("a:1",): (1.0,), ("b:2",): (0.0,)},
    "upstream_duration_seconds": {
        ("2xx",): (2, 1, *[0] * 12, 0.5),
        ("5xx",): (0, 1, *[0] * 11, 4, 9.0),
    },
}


def _sample(at_s: float, calls: float) -> Sample:
    return Sample(at_s, {("upstream_requests", "GET"): calls})


def test_a_snapshot_is_kept_without_most_zeros_and_with_its_histograms_summed() -> None:
    assert Sample.of(_SNAPSHOT, 1.0).by_label("redis_node_up") == {"a:1": 1.0, "b:2": 0.0}
    assert Sample.of(_SNAPSHOT, 1.0) == Sample(
        1.0,
        {
            ("requests", "hit", "", "2xx"): 7.0,
            ("requests", "miss", "phase", "2xx"): 3.0,
            ("fetches_in_flight",): 2.0,
            ("redis_node_up", "a:1"): 1.0,
            ("redis_node_up", "b:2"): 0.0,
            ("upstream_duration_seconds", "0.005"): 2.0,
            ("upstream_duration_seconds", "0.01"): 2.0,
            ("upstream_duration_seconds", "inf"): 4.0,
        },
    )


def test_a_family_is_summed_over_the_labels_that_are_not_selected() -> None:
    counted = change(Sample(0.0, {}), Sample.of(_SNAPSHOT, 1.0))
    assert counted.total("requests") == 10
    assert counted.total("requests", outcome="hit") == 7
    assert counted.by_label("upstream_duration_seconds", "le") == {"0.005": 2, "0.01": 2, "inf": 4}
    assert counted.total("errors") == 0
    assert counted.by_label("requests", "outcome") == {"hit": 7, "miss": 3}
    assert counted.by_label("requests", "outcome", status="5xx") == {}


def test_a_counter_that_was_reset_is_not_negative() -> None:
    before = Sample(0.0, {("connections_refused",): 100.0, ("upstream_wait_seconds", "0.01"): 5.0})
    after = Sample(5.0, {("connections_refused",): 4.0, ("upstream_wait_seconds", "0.01"): 1.0})
    assert change(before, after) == Change(5.0, after.values)


def test_the_timeline_keeps_one_sample_a_step_however_many_samples_there_are() -> None:
    history = History()
    for number in range(int(STEP_S) * (STEPS + 20) * 2):
        history.add(_sample(number / 2, calls=number), is_step=number % (2 * STEP_S) == 0)
    steps = list(history.steps())
    assert STEPS <= len(steps) <= STEPS + 1
    assert {step.over_s for step in steps[:-1]} == {STEP_S}
    assert history.since(STEP_S).total("upstream_requests") == pytest.approx(2 * STEP_S)


def test_the_first_sample_stands_for_the_time_before_it() -> None:
    history = History()
    assert history.is_empty
    history.add(_sample(10.0, calls=1), is_step=False)
    history.add(_sample(11.0, calls=5), is_step=False)
    assert history.since(60.0) == Change(1.0, {("upstream_requests", "GET"): 4})


def test_a_sample_that_came_a_little_late_is_taken_and_not_the_one_before_it() -> None:
    history = History()
    for at_s in (0.0, 1.0, 2.1, 3.0, 4.0, 5.0):
        history.add(_sample(at_s, calls=1 + at_s), is_step=False)
    assert history.since(3.0).over_s == pytest.approx(2.9)


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ((2, 2, 0), 0.25, 0.05),
        ((2, 2, 0), 0.5, 0.1),
        ((2, 2, 0), 0.75, 0.55),
        ((0, 4, 0), 0.5, 0.55),
        ((2, 1, 1), 0.99, 1.0),
        ((0, 0, 0), 0.5, None),
    ],
)
def test_a_quantile_lies_within_its_bucket_or_at_the_last_bound(
    counts: tuple[int, ...], share: float, seconds: float | None
) -> None:
    assert quantile_s((0.1, 1.0), counts, share) == pytest.approx(seconds)
