"""The breaker in front of Redis."""

import asyncio

from gateway.store.breaker import OPENING_FAILURES, Breaker, BreakerState


def _opened() -> Breaker:
    breaker = Breaker()
    for _ in range(OPENING_FAILURES):
        breaker.failed()
    return breaker


async def test_single_failures_between_answers_leave_it_closed() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.failed()
        breaker.succeeded()
    assert breaker.is_closed


async def test_failures_in_a_row_open_it() -> None:
    assert _opened().state is BreakerState.OPEN


async def test_it_can_be_waited_for() -> None:
    breaker = Breaker()
    waiting = asyncio.ensure_future(breaker.wait_open())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(OPENING_FAILURES):
        breaker.failed()
    assert await waiting > 0


async def test_a_probe_lets_nothing_else_through() -> None:
    breaker = _opened()
    breaker.begin_probe()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.is_closed


async def test_an_answered_probe_closes_it() -> None:
    breaker = _opened()
    breaker.begin_probe()
    breaker.succeeded()
    breaker.failed()
    assert breaker.is_closed


async def test_a_failed_probe_doubles_the_pause_up_to_a_bound() -> None:
    breaker = _opened()
    pauses = []
    for _ in range(5):
        pauses.append(await breaker.wait_open())
        breaker.begin_probe()
        breaker.failed()
    assert pauses == [0.1, 0.2, 0.4, 0.5, 0.5]


async def test_answers_to_one_operation_say_nothing_about_another() -> None:
    breaker = Breaker()
    for _ in range(OPENING_FAILURES):
        breaker.failed("lookup")
        breaker.succeeded("invalidate")
    assert breaker.state is BreakerState.OPEN


async def test_what_was_under_way_neither_closes_it_nor_ends_a_probe() -> None:
    breaker = _opened()
    breaker.succeeded("invalidate")
    states = [breaker.state]
    breaker.begin_probe()
    breaker.succeeded("invalidate")
    breaker.failed("lookup")
    states.append(breaker.state)
    assert states == [BreakerState.OPEN, BreakerState.HALF_OPEN]
    breaker.failed()
    assert await breaker.wait_open() == 0.2
