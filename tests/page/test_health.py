"""The findings of the page, by metrics."""

from collections.abc import Callable, Mapping

import msgspec
import pytest

from gateway.config.load import load_config
from gateway.page import health
from gateway.page.health import Facts, Finding, Level
from gateway.page.samples import History, Sample, Series

_Values = Mapping[str | Series, float]
_SETTINGS = {"upstream.url": "http://aos", "redis.url": "redis://redis", "server.max_connections": 100}
_FACTS = Facts(load_config(None, {}, _SETTINGS), is_ready=True, workers=1, workers_ready=1)
_UP: _Values = {"redis_up": 1.0, "redis_subscription_up": 1.0}
_CALLS = ("upstream_requests", "GET")
_REFUSED = ("upstream_failures", "connection_refused")
_MISS = ("requests", "miss", "", "2xx")
_FIVE = ("requests", "miss", "status", "5xx")


def _history(values: Callable[[int], _Values], seconds: int = 30) -> History:
    """Return a history with one sample a second."""
    history = History()
    for second in range(seconds):
        named = {(name,) if isinstance(name, str) else name: value for name, value in values(second).items()}
        history.add(Sample(float(second), named), is_step=second % 5 == 0)
    return history


def _rising(**per_s: float) -> Callable[[int], _Values]:
    names = {"calls": _CALLS, "refused": _REFUSED, "misses": _MISS, "fives": _FIVE}
    return lambda second: {names[name]: rate * second for name, rate in per_s.items()}


@pytest.mark.parametrize(
    ("per_s", "state", "level"),
    [
        ({}, "idle", Level.OK),
        ({"calls": 10, "misses": 10}, "up", Level.OK),
        ({"calls": 10, "misses": 9, "refused": 1}, "failing", Level.WARN),
        ({"calls": 10, "misses": 2, "refused": 8}, "failing", Level.BAD),
        ({"calls": 10, "refused": 10}, "down", Level.BAD),
        ({"refused": 3}, "down", Level.BAD),
        ({"calls": 10, "misses": 9.9, "fives": 0.1}, "up", Level.OK),
        ({"calls": 10, "misses": 8, "fives": 2}, "errors", Level.WARN),
        ({"calls": 10, "fives": 10}, "errors", Level.BAD),
    ],
)
def test_the_upstream_depends_on_its_last_answers(per_s: dict[str, float], state: str, level: Level) -> None:
    found = health.upstream(_history(_rising(**per_s)))
    assert (found.state, found.level) == (state, level)


def test_an_outage_shows_with_the_first_failures_and_is_over_with_the_first_answers() -> None:
    fails = _history(lambda second: {_CALLS: second, _MISS: min(second, 26), _REFUSED: max(0, second - 26)})
    assert health.upstream(fails).state == "down"
    heals = _history(lambda second: {_CALLS: second, _REFUSED: min(second, 26), _MISS: max(0, second - 26)})
    assert health.upstream(heals).state == "up"


def test_an_outage_that_has_ended_does_not_come_back_when_idle() -> None:
    def values(second: int) -> _Values:
        # Failures until 20, answers until 25, then nothing.
        return {
            _CALLS: min(second, 25),
            _REFUSED: min(second, 20),
            _MISS: max(0, min(second, 25) - 20),
            "upstream_connections": 0.0,
        }

    for seconds in range(25, 34):
        assert health.upstream(_history(values, seconds)).level is Level.OK, seconds


def test_calls_that_wait_without_any_response_are_silence() -> None:
    def values(second: int) -> _Values:
        is_silent = second > 20
        return {
            _CALLS: second,
            _MISS: min(second, 20),
            "upstream_connections": second - 19 if is_silent else 0,
            "upstream_parked": 1 if is_silent else 0,
        }

    assert health.upstream(_history(values)).state == "silent"


def test_a_call_parked_for_a_slow_caller_is_no_silence() -> None:
    parked: _Values = {"upstream_connections": 1.0, "upstream_parked": 1.0}
    assert health.upstream(_history(lambda _: parked)).state == "idle"


def test_a_failure_is_shown_until_the_next_call() -> None:
    history = _history(lambda second: {_CALLS: min(second, 8), _REFUSED: min(second, 8)})
    found = health.upstream(history)
    assert (found.state, found.level) == ("unsure", Level.WARN)
    assert "failed" in found.text


@pytest.mark.parametrize(
    ("gauges", "state", "level"),
    [
        (_UP, "up", Level.OK),
        # Before the first operation.
        ({"redis_subscription_up": 1.0}, "up", Level.OK),
        ({}, "down", Level.WARN),
        ({**_UP, "redis_breaker_open": 1.0}, "down", Level.WARN),
        ({"redis_up": 1.0}, "half", Level.WARN),
        ({**_UP, "redis_pending_invalidations": 3.0}, "pending", Level.WARN),
    ],
)
def test_redis_depends_on_breaker_operations_and_subscription(
    gauges: _Values, state: str, level: Level
) -> None:
    found = health.redis(_history(lambda _: gauges), _FACTS)
    assert (found.state, found.level) == (state, level)


def test_a_redis_that_fails_while_its_subscription_stands_is_down() -> None:
    failures = ("redis_failures", "lookup", "timeout")
    history = _history(lambda second: {"redis_subscription_up": 1.0, failures: second})
    assert health.redis(history, _FACTS).state == "down"


@pytest.mark.parametrize(
    ("nodes", "state", "text"),
    [
        ({"a:1": 0.0}, "down", "Redis does not answer: "),
        ({"a:1": 0.0, "b:2": 0.0}, "down", "Redis does not answer: "),
        ({"a:1": 0.0, "b:2": 1.0, "c:3": 1.0}, "partly", "1 of 3 Redis primaries does not answer: "),
        ({"a:1": 0.0, "b:2": 0.0, "c:3": 1.0}, "partly", "2 of 3 Redis primaries do not answer: "),
    ],
)
def test_a_redis_of_which_some_servers_answer_is_partly_down(
    nodes: dict[str, float], state: str, text: str
) -> None:
    gauges: dict[str | Series, float] = {"redis_breaker_open": 1.0}
    gauges |= {("redis_node_up", node): up for node, up in nodes.items()}
    history = _history(lambda _: gauges)
    found = health.redis(history, _FACTS)
    assert (found.state, found.level) == (state, Level.WARN)
    assert found.text.startswith(text)


def test_without_a_configured_redis_all_is_well() -> None:
    facts = msgspec.structs.replace(_FACTS, config=load_config(None, {}, {"upstream.url": "http://aos"}))
    found = health.redis(_history(lambda _: {}), facts)
    assert (found.state, found.level) == ("off", Level.OK)


@pytest.mark.parametrize(
    ("rises", "state", "level"),
    [
        ({}, "idle", Level.OK),
        # Another gateway knew: IAM was not asked.
        ({"shared": 30}, "idle", Level.OK),
        ({"verified": 30}, "up", Level.OK),
        # A token that was revoked, beside others.
        ({"refused": 30, "known": 5}, "up", Level.OK),
        ({"refused": 30}, "refusing", Level.WARN),
        # Some fail; the others say that IAM is there.
        ({"verified": 30, "unusable": 30}, "up", Level.OK),
        ({"timeout": 30}, "failing", Level.WARN),
        ({"unusable": 30}, "failing", Level.WARN),
        ({"shared": 30, "tls": 30}, "failing", Level.WARN),
        # The last questions count, also a while after them.
        ({"verified": 5, "unreachable": 15}, "failing", Level.WARN),
        ({"unreachable": 5, "verified": 15}, "up", Level.OK),
        ({"verified": 15, "throttled": 15}, "throttling", Level.WARN),
        ({"throttled": 5, "verified": 15}, "up", Level.OK),
    ],
)
def test_iam_depends_on_the_last_questions(rises: dict[str, int], state: str, level: Level) -> None:
    known = rises.pop("known", 0)

    def values(second: int) -> _Values:
        asked: _Values = {("iam_questions", outcome): min(second, until) for outcome, until in rises.items()}
        return {**asked, "verified_tokens": known}

    history = _history(values)
    found = health.iam(history)
    assert (found.state, found.level) == (state, level)


@pytest.mark.parametrize(
    ("gauges", "is_ready", "state"),
    [
        ({}, True, "accepting"),
        ({}, False, "starting"),
        ({"ready": 1.0}, False, "draining"),
        ({"connections": 95.0}, True, "full"),
        ({"upstream_waiting": 4.0}, True, "queueing"),
        ({"credentials_unavailable": 1.0, "connections": 95.0}, True, "no credentials"),
        ({"credentials_unavailable": 0.0, "credentials_age_seconds": 9.0}, True, "accepting"),
        ({"waiting_callers": 91.0, "waiting_callers_limit": 100.0}, True, "waits full"),
        ({"waiting_callers": 80.0, "waiting_callers_limit": 100.0}, True, "accepting"),
        # wait.max_s = 0
        ({"waiting_callers": 0.0, "waiting_callers_limit": 0.0}, True, "accepting"),
    ],
)
def test_the_gateway_depends_on_readiness_and_queues(gauges: _Values, is_ready: bool, state: str) -> None:
    facts = msgspec.structs.replace(_FACTS, is_ready=is_ready)
    assert health.gateway(_history(lambda _: gauges), facts).state == state


def test_a_worker_that_is_not_ready_is_reported() -> None:
    facts = msgspec.structs.replace(_FACTS, workers=3, workers_ready=2)
    found = health.gateway(_history(lambda _: {}), facts)
    assert (found.level, found.text) == (Level.WARN, "1 of 3 workers is not ready; the others answer.")


@pytest.mark.parametrize(
    ("is_ready", "workers", "state", "level"),
    [
        (True, 2.0, "replaced", Level.WARN),
        (False, 0.0, "down", Level.BAD),
        # Stopped soon after.
        (False, 2.0, "draining", Level.WARN),
    ],
)
def test_a_replaced_worker_is_reported_for_a_minute(
    is_ready: bool, workers: float, state: str, level: Level
) -> None:
    facts = msgspec.structs.replace(_FACTS, workers=2, workers_ready=2, is_ready=is_ready)

    def values(second: int) -> _Values:
        return {"worker_restarts": float(second >= 28), "workers": workers, "ready": 1.0}

    found = health.gateway(_history(values), facts)
    assert (found.state, found.level) == (state, level)
    later = health.gateway(_history(values, 100), msgspec.structs.replace(facts, is_ready=True))
    assert later.level is Level.OK


_HIT = ("requests", "hit", "", "2xx")
_FOUR = ("requests", "miss", "status", "4xx")
_HELD = ("requests", "error", "", "4xx")
_BY_AOS, _BY_GATEWAY = ("throttled", "upstream"), ("throttled", "gateway")


@pytest.mark.parametrize(
    ("per_s", "level"),
    [
        ({}, Level.OK),
        ({_HIT: 10, _MISS: 10}, Level.OK),
        # Other errors are no throttling.
        ({_MISS: 1, _FOUR: 10}, Level.OK),
        ({_MISS: 96, _FOUR: 4, _BY_AOS: 4}, Level.OK),
        ({_MISS: 90, _FOUR: 10, _BY_AOS: 10}, Level.WARN),
        # Many hits do not hide it.
        ({_HIT: 1000, _MISS: 5, _FOUR: 5, _BY_AOS: 5}, Level.WARN),
        ({_MISS: 28, _FOUR: 2, _HELD: 70, _BY_AOS: 2, _BY_GATEWAY: 70}, Level.BAD),
        ({_HELD: 1, _BY_GATEWAY: 1}, Level.BAD),
        # Calls passed through.
        ({("requests", "bypass", "route", "4xx"): 3, _BY_AOS: 2}, Level.BAD),
    ],
)
def test_throttling_depends_on_the_responses_to_callers(per_s: dict[Series, float], level: Level) -> None:
    found = health.quota(_history(lambda second: {name: rate * second for name, rate in per_s.items()}))
    assert found.level is level
    assert (found.state == "throttling") == (level is not Level.OK)


def test_throttling_says_how_much_and_the_share_of_the_gateway() -> None:
    rates = {_MISS: 28, _FOUR: 2, _HELD: 70, _BY_AOS: 2, _BY_GATEWAY: 70}
    found = health.quota(_history(lambda second: {name: rate * second for name, rate in rates.items()}))
    assert "72 % of the responses have status 429, 70 % came from the gateway" in found.text
    assert health.headline({"upstream": Finding("up", ""), "quota": found}) is found


def test_throttling_lasts_between_two_rare_calls_and_ends_with_the_next() -> None:
    seldom = _history(lambda second: {_HELD: second // 25, _BY_GATEWAY: second // 25}, 45)
    assert health.quota(seldom).level is Level.BAD
    over = _history(lambda second: {_HELD: min(second, 20), _BY_GATEWAY: min(second, 20), _MISS: second}, 40)
    assert health.quota(over).level is Level.OK


def test_every_problem_says_what_to_do() -> None:
    down = _history(_rising(calls=10, refused=10))
    for found in (
        health.upstream(down),
        health.upstream(_history(_rising(calls=10, misses=9, refused=1))),
        health.upstream(_history(_rising(calls=10, fives=10))),
        health.quota(_history(lambda second: {_HELD: second, _BY_GATEWAY: second})),
        health.redis(down, _FACTS),
        health.redis(_history(lambda _: {**_UP, "redis_pending_invalidations": 1.0}), _FACTS),
        health.gateway(down, msgspec.structs.replace(_FACTS, is_ready=False)),
        health.gateway(down, msgspec.structs.replace(_FACTS, workers=2)),
        health.gateway(_history(lambda _: {"connections": 95.0}), _FACTS),
        health.gateway(_history(lambda _: {"upstream_waiting": 1.0}), _FACTS),
    ):
        assert found.level is not Level.OK
        assert found.todo.endswith("."), found


def test_the_headline_is_the_worst_finding() -> None:
    well = Finding("up", "well")
    bad = Finding("down", "worst", "Check it.", is_bad=True)
    parts = {"a": well, "b": bad, "c": Finding("half", "bad", "Wait.")}
    assert health.headline(parts) is parts["b"]
    assert (health.headline({"a": well}).level, health.headline({"a": well}).text) == (
        Level.OK,
        "All is well.",
    )
