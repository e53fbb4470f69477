"""How long a 429 asks its caller to wait."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.retry_after import (
    LONGEST_S,
    LONGEST_WINDOW_S,
    UNREADABLE_S,
    BackOff,
    Policy,
    back_off,
    retry_after_s,
)
from gateway.core.http.messages import Fields
from tests.core.kit import BOUNDED
from tests.testbed.payloads import payload

_NOW_S = 1_000_000_000.0  # 2001-09-09T01:46:40Z


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (b"7", 7.0),
        (b"3600", LONGEST_S),
        (b"Sun, 09 Sep 2001 01:46:50 GMT", 10.0),
        (b"Sun, 09 Sep 2001 01:46:30 GMT", None),
        (b"0", None),
        (b"", None),
        (b"0000000000000000000007", 7.0),
        (b"99999999999", LONGEST_S),
        (b"9" * 10_000, LONGEST_S),
        (b"-5", None),
        (b"soon", None),
        (b"\xff", None),
    ],
)
def test_a_wait_is_read_in_both_forms_and_bounded(value: bytes, wait_s: float | None) -> None:
    assert retry_after_s(((b"Retry-After", value),), _NOW_S) == wait_s


def test_a_429_without_the_field_asks_for_no_wait() -> None:
    assert retry_after_s((), _NOW_S) is None


def _body(message: str, code: str = "APIGW.0308") -> bytes:
    return json.dumps({"error_code": code, "error_msg": message, "request_id": "r"}).encode()


def _reached(policy: str, window: str) -> bytes:
    return _body(
        f"The throttling threshold has been reached: policy {policy} over ratelimit,limit:200,time:{window}"
    )


@pytest.mark.parametrize(
    ("body", "wait_s", "policy"),
    [
        (payload("error__apigw-0308"), 1.0, Policy.IP),
        (_reached("user", "5 minute"), LONGEST_WINDOW_S, Policy.USER),
        (_reached("app", "3 second"), 3.0, Policy.APP),
        (_reached("api", "1 hour"), LONGEST_WINDOW_S, Policy.API),
        (_reached("user", "1 day"), LONGEST_WINDOW_S, Policy.USER),
        (_reached("User", "0002 Seconds"), 2.0, Policy.USER),
        (_reached("user", "9" * 5_000 + " second"), LONGEST_WINDOW_S, Policy.USER),
        (_body("policy ip over ratelimit,limit:5,time:1 second", "APIG.0308"), 1.0, Policy.IP),
        (_body("policy ip over ratelimit, limit: 5, time: 1 second"), 1.0, Policy.IP),
        # What counts is known, or for how long, but not both.
        (_reached("ip", "1 fortnight"), UNREADABLE_S, Policy.IP),
        (_reached("ip", "0 second"), UNREADABLE_S, Policy.IP),
        (_reached("ip", "second"), UNREADABLE_S, Policy.IP),
        (_reached("tenant", "1 second"), 1.0, Policy.UNKNOWN),
        (_reached("unknown", "1 second"), 1.0, Policy.UNKNOWN),
        # Unknown codes, or nothing readable.
        (_body("time:1 second, policy ip over ratelimit"), UNREADABLE_S, Policy.IP),
        (_body("policy ip over ratelimit,limit:5,time:1 second", "APIGW.0307"), UNREADABLE_S, Policy.UNKNOWN),
        (_body("too many requests"), UNREADABLE_S, Policy.UNKNOWN),
        (b"", UNREADABLE_S, Policy.UNKNOWN),
        (b"<html>429</html>", UNREADABLE_S, Policy.UNKNOWN),
        (b"[]", UNREADABLE_S, Policy.UNKNOWN),
        (b"[" * 100_000, UNREADABLE_S, Policy.UNKNOWN),
        (b'{"error_code": 308}', UNREADABLE_S, Policy.UNKNOWN),
        (b'{"error_code": "APIGW.0308", "error_msg": "\xff"}', UNREADABLE_S, Policy.UNKNOWN),
        (_reached("user", "1 second")[:-20], UNREADABLE_S, Policy.UNKNOWN),
    ],
)
def test_a_429_of_huaweis_gateway_says_in_its_body_what_it_asks_for(
    body: bytes, wait_s: float, policy: Policy
) -> None:
    assert back_off(429, (), body, _NOW_S) == BackOff(wait_s, is_explicit=False, policy=policy)


@pytest.mark.parametrize(
    ("value", "wait_s", "is_explicit"),
    [
        (b"7", 7.0, True),
        (b"3600", LONGEST_S, True),
        (b"0", 0.0, True),
        (b"Sun, 09 Sep 2001 01:46:50 GMT", 10.0, True),
        (b"Sun, 09 Sep 2001 01:46:30 GMT", 0.0, True),
        (b"soon", 3.0, False),
        (b"", 3.0, False),
    ],
)
def test_a_retry_after_that_can_be_read_goes_before_the_body(
    value: bytes, wait_s: float, is_explicit: bool
) -> None:
    asked = back_off(429, ((b"Retry-After", value),), _reached("ip", "3 second"), _NOW_S)
    assert asked == BackOff(wait_s, is_explicit=is_explicit, policy=Policy.IP)


@pytest.mark.parametrize("status", [200, 403, 503])
def test_only_a_429_asks_for_calm(status: int) -> None:
    fields = ((b"Retry-After", b"7"),)
    assert back_off(status, fields, payload("error__apigw-0308"), _NOW_S) is None


_fields: st.SearchStrategy[Fields] = st.lists(
    st.tuples(st.sampled_from([b"Retry-After", b"Date"]), st.binary(max_size=12)), max_size=2
).map(tuple)


@BOUNDED
@given(fields=_fields, body=st.one_of(st.binary(), st.text().map(_body), st.text().map(str.encode)))
def test_whatever_comes_the_wait_is_bounded(fields: Fields, body: bytes) -> None:
    asked = back_off(429, fields, body, _NOW_S)
    assert asked is not None
    assert 0 <= asked.wait_s <= (LONGEST_S if asked.is_explicit else LONGEST_WINDOW_S)


@BOUNDED
@given(
    policy=st.sampled_from(["user", "ip", "app", "api"]),
    count=st.integers(1, 10**12),
    unit=st.sampled_from([("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)]),
)
def test_without_retry_after_the_window_counts_up_to_its_bound(
    policy: str, count: int, unit: tuple[str, int]
) -> None:
    asked = back_off(429, (), _reached(policy, f"{count} {unit[0]}"), _NOW_S)
    assert asked == BackOff(min(count * unit[1], LONGEST_WINDOW_S), is_explicit=False, policy=Policy(policy))
