"""Callers whom the upstream asked to wait, and the 429s they got, in bounds."""

import pytest

from gateway.cache.results import Response
from gateway.cache.throttle import Throttle
from gateway.clock import Clock
from gateway.core.caching.eligibility import Eligible, eligibility
from gateway.core.caching.identity import IdentityReader
from gateway.core.http.messages import Head
from gateway.errors import Throttled
from gateway.twin.replies import throttled
from tests.core.kit import TOKEN, request

_READER = IdentityReader((), b"", shared=False)
_SLOW_DOWN = b"slow down"


class _Time:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.clock = Clock(wall_s=lambda: self.now_s, monotonic_s=lambda: self.now_s)


def _throttle(time: _Time, *, max_callers: int = 10, max_bytes: int = 100_000) -> Throttle:
    return Throttle(
        time.clock,
        via=b"1.1 aos-gateway (0)",
        identity_headers=_READER.names,
        max_callers=max_callers,
        max_bytes=max_bytes,
    )


def _of(caller: str) -> Eligible:
    found = eligibility(request((TOKEN, caller.encode())), _READER)
    assert isinstance(found, Eligible)
    return found


def _refused(throttle: Throttle, caller: str, retry_after: str | None, body: bytes = _SLOW_DOWN) -> None:
    fields = () if retry_after is None else ((b"Retry-After", retry_after.encode()),)
    throttle.heed(_of(caller), Head(429, b"", fields), body)


def _told(throttle: Throttle, caller: str) -> tuple[str, int] | None:
    """Whose 429 a caller gets, "aos" or "gateway", and its Retry-After; None if it may go upstream."""
    found = throttle.response("GET", _of(caller))
    if isinstance(found, Response):
        assert found.body is not None
        return "aos", int(dict(found.head.fields)[b"Retry-After"])
    if isinstance(found, Throttled):
        assert found.retry_after_s is not None
        return "gateway", found.retry_after_s
    return None


def test_a_caller_gets_its_429_again_counted_down_until_the_time_is_over() -> None:
    time = _Time()
    throttle = _throttle(time)
    _refused(throttle, "a", "10")
    assert _told(throttle, "a") == ("aos", 10)
    assert _told(throttle, "b") is None
    time.now_s += 3.5
    assert _told(throttle, "a") == ("aos", 7)
    time.now_s += 6.5
    assert _told(throttle, "a") is None
    assert (len(throttle), throttle.size_bytes) == (0, 0)


def test_of_two_429s_the_newest_counts() -> None:
    throttle = _throttle(_Time())
    _refused(throttle, "a", "10")
    _refused(throttle, "a", "5", body=b"later")
    assert _told(throttle, "a") == ("aos", 5)
    found = throttle.response("GET", _of("a"))
    assert isinstance(found, Response)
    assert found.body == b"later"


@pytest.mark.parametrize("policy", ["ip", "api"])
@pytest.mark.parametrize(("retry_after", "own_s"), [(None, 5), ("60", 60)])
def test_a_limit_that_counts_everybody_holds_everybody_for_a_short_time(
    policy: str, retry_after: str | None, own_s: int
) -> None:
    time = _Time()
    throttle = _throttle(time)
    _refused(throttle, "a", retry_after, body=throttled("r", policy, 5, 300).body)
    assert _told(throttle, "a") == ("aos", own_s)
    assert _told(throttle, "b") == ("gateway", 5)
    assert throttle.held() == 1
    time.now_s += 5.0
    assert _told(throttle, "b") is None
    assert _told(throttle, "a") == (None if own_s == 5 else ("aos", 55))


def test_who_is_held_for_anothers_sake_beyond_its_own_time_gets_the_gateways_429() -> None:
    time = _Time()
    throttle = _throttle(time)
    _refused(throttle, "b", "2")
    _refused(throttle, "a", "4", body=throttled("r", "ip", 5, 300).body)
    assert _told(throttle, "b") == ("aos", 4)
    time.now_s += 2.0
    assert _told(throttle, "b") == ("gateway", 2)


@pytest.mark.parametrize("policy", ["user", "app"])
def test_a_limit_that_counts_one_caller_holds_nobody_else(policy: str) -> None:
    throttle = _throttle(_Time())
    _refused(throttle, "a", None, body=throttled("r", policy, 5, 300).body)
    assert _told(throttle, "a") == ("aos", 5)
    assert _told(throttle, "b") is None


def test_callers_who_are_not_told_how_long_do_not_come_back_all_at_once() -> None:
    throttle = _throttle(_Time(), max_callers=20)
    callers = [f"{number}" for number in range(20)]
    for caller in callers:
        _refused(throttle, caller, None, body=throttled("r", "user", 5, 300).body)
    waits_s = {throttle.wait_s(_of(caller).identity.user) or 0.0 for caller in callers}
    assert len(waits_s) == 20
    assert 4.5 <= min(waits_s) < max(waits_s) <= 5


def test_a_429_that_asks_for_no_wait_holds_nobody() -> None:
    throttle = _throttle(_Time())
    _refused(throttle, "a", "0", body=throttled("r", "ip", 5, 300).body)
    assert _told(throttle, "a") is None
    assert len(throttle) == 0


def test_of_too_many_throttled_callers_the_oldest_is_dropped() -> None:
    throttle = _throttle(_Time(), max_callers=2)
    for caller in "abc":
        _refused(throttle, caller, "10")
    assert [_told(throttle, caller) for caller in "abc"] == [None, ("aos", 10), ("aos", 10)]
    assert len(throttle) == 2


def test_of_too_many_bytes_the_oldest_429_gives_way_to_the_gateways_own() -> None:
    throttle = _throttle(_Time(), max_bytes=25_000)
    for caller in "abc":
        _refused(throttle, caller, "10", body=b"x" * 10_000)
    assert [_told(throttle, caller) for caller in "abc"] == [("gateway", 10), ("aos", 10), ("aos", 10)]
    assert 20_000 < throttle.size_bytes <= 25_000
    _refused(throttle, "b", "10", body=b"y" * 10_000)
    assert [_told(throttle, caller) for caller in "abc"] == [("gateway", 10), ("aos", 10), ("aos", 10)]


def test_callers_who_do_not_come_back_are_dropped_by_the_looks_of_others() -> None:
    time = _Time()
    throttle = _throttle(time)
    for caller in "abc":
        _refused(throttle, caller, "10")
    time.now_s += 60.0
    for left in (2, 1, 0):
        assert _told(throttle, "d") is None
        assert len(throttle) == left
    assert throttle.size_bytes == 0


def test_switched_off_it_holds_nobody_any_more() -> None:
    throttle = _throttle(_Time())
    _refused(throttle, "a", "10")
    throttle.change(is_on=False)
    assert (_told(throttle, "a"), throttle.size_bytes) == (None, 0)
    _refused(throttle, "a", "20")
    assert (_told(throttle, "a"), throttle.size_bytes) == (None, 0)
    # Pollers of the gateway's own wait all the same.
    assert throttle.wait_s(_of("a").identity.user) == 20.0
    throttle.change(is_on=True)
    assert _told(throttle, "a") == ("gateway", 20)
    _refused(throttle, "a", "10")
    assert _told(throttle, "a") == ("aos", 10)
