"""The breaker in front of Redis."""

from gateway.store.breaker import OPENING_FAILURES, Breaker, BreakerState


def _opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(OPENING_FAILURES):
        breaker.failed(now_s)
    return breaker


def test_single_failures_between_answers_leave_it_closed() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allows(0.0)


def test_failures_in_a_row_open_it() -> None:
    breaker = _opened()
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows(0.05)


def test_after_the_pause_one_probe_goes_and_no_more() -> None:
    breaker = _opened()
    assert breaker.allows(0.1)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows(0.1)
    assert not breaker.allows(100.0)


def test_an_answered_probe_closes_it() -> None:
    breaker = _opened()
    assert breaker.allows(0.1)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    breaker.failed(0.2)
    assert breaker.allows(0.2)


def test_a_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    breaker = _opened()
    now_s, pauses = 0.0, []
    for _ in range(6):
        step_s = 0.0
        while not breaker.allows(now_s + step_s):
            step_s += 0.05
        now_s += step_s
        pauses.append(round(step_s, 2))
        breaker.failed(now_s)
    assert pauses[0] < pauses[1] < pauses[2]
    assert pauses[-1] <= 0.55
