"""Samples are read from a scrape, and what lies between two of them is counted."""

import pytest

from gateway.page.samples import STEP_S, STEPS, Change, History, Sample, change, quantile_s, read

_SCRAPE = """\
# HELP aos_gateway_requests_total Answered requests.
# TYPE aos_gateway_requests_total counter
aos_gateway_requests_total{outcome="hit",reason="",status="2xx"} 7.0
aos_gateway_requests_total{outcome="miss",reason="phase",status="2xx"} 3.0
aos_gateway_requests_total{outcome="miss",reason="",status="5xx"} 0.0
# TYPE aos_gateway_requests_created gauge
aos_gateway_requests_created{outcome="hit"} 1.7e+09
aos_gateway_fetches_in_flight 2.0
process_open_fds 9.0
"""


def _sample(at_s: float, **values: float) -> Sample:
    return Sample(at_s, values)


def test_a_scrape_is_read_without_what_is_zero_or_not_ours() -> None:
    assert read(_SCRAPE, 1.0).values == {
        'requests_total{outcome="hit",reason="",status="2xx"}': 7.0,
        'requests_total{outcome="miss",reason="phase",status="2xx"}': 3.0,
        "fetches_in_flight": 2.0,
    }


def test_a_family_is_summed_over_the_labels_that_nobody_asked_for() -> None:
    counted = change(Sample(0.0, {}), read(_SCRAPE, 1.0))
    assert counted.total("requests_total") == 10
    assert counted.total("requests_total", outcome="hit") == 7
    assert counted.total("requests_total", reason=lambda value: value != "") == 3
    assert counted.total("requests") == 0
    assert counted.by_label("requests_total", "outcome") == {"hit": 7, "miss": 3}
    assert counted.by_label("requests_total", "outcome", status="5xx") == {}


def test_a_counter_that_begins_anew_is_not_negative() -> None:
    assert change(_sample(0, calls=100), _sample(5, calls=4)).counts == {"calls": 4}


def test_the_timeline_keeps_one_sample_a_step_however_often_somebody_looks() -> None:
    history = History()
    for number in range(int(STEP_S) * (STEPS + 20) * 2):
        history.add(_sample(number / 2, calls=number), is_step=number % (2 * STEP_S) == 0)
    steps = list(history.steps())
    assert STEPS <= len(steps) <= STEPS + 1
    assert {step.over_s for step in steps[:-1]} == {STEP_S}
    assert history.since(STEP_S).counts["calls"] == pytest.approx(2 * STEP_S)


def test_before_there_is_a_past_the_first_sample_stands_for_it() -> None:
    history = History()
    assert history.is_empty
    history.add(_sample(10.0, calls=1), is_step=False)
    history.add(_sample(11.0, calls=5), is_step=False)
    assert history.since(60.0) == Change(1.0, {"calls": 4})


def test_a_sample_that_came_a_little_late_is_taken_and_not_the_one_before_it() -> None:
    history = History()
    for at_s in (0.0, 1.0, 2.1, 3.0, 4.0, 5.0):
        history.add(_sample(at_s, calls=1 + at_s), is_step=False)
    assert history.since(3.0).over_s == pytest.approx(2.9)


def test_histograms_are_summed_over_all_labels_but_the_bound() -> None:
    counted = Change(
        1.0,
        {
            'upstream_duration_seconds_bucket{method="GET",le="0.1"}': 2.0,
            'upstream_duration_seconds_bucket{method="GET",le="+Inf"}': 3.0,
            'upstream_duration_seconds_bucket{method="PUT",le="0.1"}': 1.0,
            'upstream_duration_seconds_bucket{method="PUT",le="+Inf"}': 1.0,
        },
    )
    assert counted.histograms() == {"upstream_duration": {0.1: 3.0, float("inf"): 4.0}}


@pytest.mark.parametrize(
    ("share", "seconds"),
    [(0.25, 0.05), (0.5, 0.1), (0.75, 0.55), (0.99, 1.0)],
)
def test_a_quantile_lies_within_its_bucket_or_at_the_highest_bound(share: float, seconds: float) -> None:
    buckets = {0.1: 2.0, 1.0: 4.0 - 0.0, float("inf"): 4.0}
    if share > 0.9:
        buckets[1.0] = 3.0
    assert quantile_s(buckets, share) == pytest.approx(seconds)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile_s({}, 0.5) is None
    assert quantile_s({0.1: 0.0, float("inf"): 0.0}, 0.5) is None
