"""The JSON object that the page shows."""

import msgspec
import pytest

from gateway.config.load import load_config
from gateway.core.caching.cache_status import Reason
from gateway.page.health import Facts
from gateway.page.samples import History, Sample, Series
from gateway.page.status import status
from gateway.page.words import REASONS, words


def _facts(**settings: str) -> Facts:
    flags = {name.replace("__", "."): value for name, value in settings.items()}
    config = load_config(None, {}, {"upstream.url": "http://aos", **flags})
    return Facts(config, is_ready=True, workers=1, workers_ready=1)


_FACTS = _facts()


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
    facts = msgspec.structs.replace(_facts(redis__url="redis://redis"), is_ready=False)
    found = status(_history(), facts, {})
    assert found["headline"] == "The gateway is starting: it accepts no requests yet."
    assert found["todo"] == "If this lasts, see the log."
    assert found["others"] == [
        "AOS answers 33 % of the calls with status 5xx.",
        "Redis does not answer: more is fetched from AOS; no outdated record is served.",
    ]


def test_iam_is_a_part_where_it_is_asked_whose_tokens_are() -> None:
    assert "iam" not in status(_history(), _FACTS, {})["parts"]  # type: ignore[operator]
    history = _history()
    failed = {("iam_questions", "timeout"): 3.0, ("verified_tokens",): 12.0}
    history.add(Sample(65.0, failed), is_step=True)
    by_user = _facts(identity__by="user", iam__url="https://iam")
    found = msgspec.json.decode(msgspec.json.encode(status(history, by_user, {})))
    assert found["parts"]["iam"] == {
        "level": "warn",
        "state": "failing",
        "text": "The last questions to IAM failed (timeout): each new token is a caller of its own, "
        "and no request fails.",
    }
    assert found["gauges"]["verified_tokens"] == 12


@pytest.mark.parametrize(
    ("counts", "detail"),
    [
        ({}, ""),
        ({("hit", ""): 5, ("miss", "phase"): 5}, ""),
        ({("bypass", "route"): 5}, ""),
        ({("miss", "phase"): 5, ("bypass", "route"): 50}, f"most: {REASONS[Reason.PHASE]}"),
        ({("miss", "no-store"): 5, ("miss", "phase"): 4}, f"most: {REASONS[Reason.NO_STORE]}"),
        ({("hit", ""): 1, ("miss", ""): 9}, "most had no fresh record"),
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


_POLLED: dict[Series, float] = {
    ("running_polls",): 1500.0,
    ("upstream_requests", "GET"): 1900.0,
    ("upstream_requests", "PUT"): 100.0,
}
_SAVED: dict[Series, float] = {
    ("requests", "hit", "running", "2xx"): 4000.0,
    ("requests", "hit", "running", "3xx"): 321.0,
    ("requests", "hit", "", "2xx"): 7.0,
    ("upstream_requests_saved", "hit"): 4328.0,
    ("upstream_requests_saved", "collapsed"): 20.0,
}
_SHARE = "75 % of the calls to AOS were polls of running executions"


@pytest.mark.parametrize(
    ("counts", "ttl_running_s", "saved", "detail"),
    [
        ({}, 0.0, 0, "no running execution was polled"),
        (_POLLED, 0.0, 0, _SHARE),
        (
            _POLLED | {("running_polls_avoidable",): 1200.0},
            0.0,
            0,
            f"{_SHARE}; cache.ttl_running_s = 1 would spare 60 %",
        ),
        (
            _POLLED | {("running_polls_avoidable",): 3.0, ("upstream_requests_saved", "collapsed"): 20.0},
            0.0,
            20,
            f"{_SHARE}; cache.ttl_running_s = 1 would spare under 1 %",
        ),
        (_POLLED | _SAVED, 1.0, 4341, f"4,321 by cache.ttl_running_s; {_SHARE}"),
    ],
)
def test_it_says_what_polls_of_running_executions_cost_and_what_spares_them(
    counts: dict[Series, float], ttl_running_s: float, saved: int, detail: str
) -> None:
    history = History()
    history.add(Sample(0.0, {}), is_step=True)
    history.add(Sample(5.0, counts), is_step=True)
    found = status(history, _facts(cache__ttl_running_s=str(ttl_running_s)), {})
    assert (found["saved_while_running"], found["running_detail"]) == (saved, detail)


def test_waiting_callers_and_how_waits_ended_are_there() -> None:
    history = History()
    history.add(Sample(0.0, {("waits", "left"): 2.0}), is_step=True)
    ended: dict[Series, float] = {
        ("waits", "woken"): 5.0,
        ("waits", "timed_out"): 1.0,
        ("waits", "left"): 2.0,
    }
    waiting: dict[Series, float] = {("waiting_callers",): 40.0, ("waiting_callers_limit",): 10_000.0}
    history.add(Sample(5.0, ended | waiting), is_step=True)
    found = msgspec.json.decode(msgspec.json.encode(status(history, _FACTS, {})))
    assert found["waits"] == {"woken": 5, "timed_out": 1}
    gauges = found["gauges"]
    assert (gauges["waiting_callers"], gauges["waiting_callers_limit"]) == (40, 10_000)


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


def test_redis_is_shown_by_server_those_that_are_down_first_and_how_leases_ended() -> None:
    history = _history()
    values: dict[Series, float] = {("leases", "led"): 3.0, ("leases", "void"): 1.0}
    values |= {("redis_node_up", node): up for node, up in (("a:1", 1.0), ("b:2", 0.0), ("c:3", 1.0))}
    history.add(Sample(65.0, values), is_step=True)
    found = msgspec.json.decode(msgspec.json.encode(status(history, _FACTS, {})))
    assert found["redis_nodes"] == [["b:2", 0.0], ["a:1", 1.0], ["c:3", 1.0]]
    assert found["leases"] == {"led": 3, "void": 1}
