"""The JSON object that the page shows."""

import msgspec
import pytest

from gateway.core.caching.cache_status import Reason
from gateway.page.health import Facts
from gateway.page.samples import History, Sample, Series
from gateway.page.status import status
from gateway.page.words import REASONS, words

_FACTS = Facts(is_ready=True, has_redis=False, max_connections=100, workers=1, workers_ready=1)


def _history() -> History:
    history = History()
    for second in range(0, 65, 5):
        history.add(
            Sample(
                float(second),
                {
                    ("requests", "hit", "", "2xx"): second * 6.0,
                    ("requests", "miss", "phase", "2xx"): second * 2.0,
                    ("requests", "bypass", "route", "5xx"): second * 1.0,
                    ("uncached", "store", "phase"): second * 2.0,
                    ("uncached", "lookup", "route"): second * 1.0,
                    ("upstream_requests", "GET"): second * 3.0,
                    ("upstream_requests_saved", "hit"): second * 6.0,
                    # From 0.05 to 0.1 s.
                    ("request_duration_seconds", "0.1"): second * 2.0,
                },
            ),
            is_step=True,
        )
    return history


def test_it_counts_the_last_minute_and_each_step() -> None:
    found = msgspec.json.decode(msgspec.json.encode(status(_history(), _FACTS, {"version": "9"})))
    assert found["version"] == "9"
    minute = found["minute"]
    assert (minute["requests"], minute["per_s"], minute["hit_ratio"]) == (540, 9.0, 0.75)
    assert (minute["upstream_requests"], minute["saved"], minute["failed"]) == (180, 360, 60)
    assert len(found["timeline"]) == 12
    assert {step["requests"] for step in found["timeline"]} == {45}


def test_reasons_are_explained_most_frequent_first() -> None:
    reasons = msgspec.json.decode(msgspec.json.encode(status(_history(), _FACTS, {})))["reasons"]
    assert [reason["reason"] for reason in reasons] == ["phase", "route"]
    assert reasons[0]["text"] == REASONS[Reason.PHASE]


def test_it_has_the_quantiles_of_what_was_measured() -> None:
    found = msgspec.json.decode(msgspec.json.encode(status(_history(), _FACTS, {})))
    (row,) = found["latency"]
    assert (row["name"], row["measured"]) == ("request", 120)
    assert row["seconds"][0] == pytest.approx(0.075)
    assert row["finest_s"] == 0.005


def test_the_worst_problem_is_the_headline_with_what_to_do_and_the_rest_below() -> None:
    facts = msgspec.structs.replace(_FACTS, has_redis=True, is_ready=False)
    found = status(_history(), facts, {})
    assert found["headline"] == "The gateway is starting: it accepts no requests yet."
    assert found["todo"] == "If this lasts, see the log."
    assert found["others"] == [
        "AOS answers 33 % of the calls with status 5xx.",
        "Redis does not answer: more is fetched from AOS; no outdated record is served.",
    ]


@pytest.mark.parametrize(
    ("counts", "detail"),
    [
        ({}, ""),
        ({("hit", ""): 5, ("miss", "phase"): 5}, ""),
        ({("bypass", "route"): 5}, ""),
        ({("miss", "phase"): 5, ("bypass", "route"): 50}, f"most: {REASONS[Reason.PHASE]}"),
        ({("miss", "no-store"): 5, ("miss", "phase"): 4}, f"most: {REASONS[Reason.NO_STORE]}"),
        ({("hit", ""): 1, ("miss", ""): 9}, "most were requested for the first time"),
        ({("miss", "no-store"): 3, ("miss", "phase"): 3, ("miss", ""): 3}, "for several reasons, see below"),
    ],
)
def test_a_low_hit_ratio_is_explained(counts: dict[tuple[str, str], float], detail: str) -> None:
    history = History()
    history.add(Sample(0.0, {}), is_step=True)
    values: dict[Series, float] = {
        ("requests", outcome, reason, "2xx"): float(count) for (outcome, reason), count in counts.items()
    }
    history.add(Sample(5.0, values), is_step=True)
    assert status(history, _FACTS, {})["hit_ratio_detail"] == detail


def test_responses_of_status_429_are_counted_by_origin() -> None:
    history = History()
    history.add(Sample(0.0, {}), is_step=True)
    values: dict[Series, float] = {("throttled", "upstream"): 2.0, ("throttled", "gateway"): 3.0}
    history.add(Sample(5.0, values), is_step=True)
    found = msgspec.json.decode(msgspec.json.encode(status(history, _FACTS, {})))
    assert (found["minute"]["throttled"], found["minute"]["throttled_here"]) == (5, 3)


def test_every_reason_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert words("phase") == REASONS[Reason.PHASE]
    assert words("of a later version") == "of a later version"
