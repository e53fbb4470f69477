"""How long a 429 asks its caller to wait."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.retry_after import (
    LONGEST_FOR_ALL_S,
    LONGEST_S,
    LONGEST_WINDOW_S,
    UNREADABLE_S,
    BackOff,
    Limit,
    back_off,
    limit,
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
        (b"Sun, 09 Sep 2001 01:46:30 GMT", 0.0),
        (b"0", 0.0),
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
    ("body", "wait_s"),
    [
        (payload("error__apigw-0308"), 1.0),
        (_reached("user", "5 minute"), LONGEST_WINDOW_S),
        (_reached("app", "3 second"), 3.0),
        (_reached("api", "1 hour"), LONGEST_WINDOW_S),
        (_reached("user", "1 day"), LONGEST_WINDOW_S),
        (_reached("User", "0002 Seconds"), 2.0),
        (_reached("user", "9" * 5_000 + " second"), LONGEST_WINDOW_S),
        (_body("policy ip over ratelimit,limit:5,time:1 second", "APIG.0308"), 1.0),
        (_body("policy ip over ratelimit, limit: 5, time: 1 second"), 1.0),
        # An unknown window, or something unknown that is counted.
        (_reached("ip", "1 fortnight"), UNREADABLE_S),
        (_reached("ip", "0 second"), UNREADABLE_S),
        (_reached("ip", "second"), UNREADABLE_S),
        (_reached("tenant", "1 second"), 1.0),
        (_reached("unknown", "1 second"), 1.0),
        # Unknown codes, or nothing readable.
        (_body("time:1 second, policy ip over ratelimit"), UNREADABLE_S),
        (_body("policy ip over ratelimit,limit:5,time:1 second", "APIGW.0307"), UNREADABLE_S),
        (_body("too many requests"), UNREADABLE_S),
        (b"", UNREADABLE_S),
        (b"<html>429</html>", UNREADABLE_S),
        (b"[]", UNREADABLE_S),
        (b"[" * 100_000, UNREADABLE_S),
        (b'{"error_code": 308}', UNREADABLE_S),
        (b'{"error_code": "APIGW.0308", "error_msg": "\xff"}', UNREADABLE_S),
        (_reached("user", "1 second")[:-20], UNREADABLE_S),
    ],
)
def test_a_429_of_huaweis_gateway_says_in_its_body_what_it_asks_for(body: bytes, wait_s: float) -> None:
    assert limit(body).wait_s == wait_s


@pytest.mark.parametrize(
    ("body", "counts_all"),
    [
        (payload("error__apigw-0308"), True),
        (_reached("api", "1 second"), True),
        (_reached("IP", "1 fortnight"), True),
        (_reached("user", "1 second"), False),
        (_reached("app", "1 second"), False),
        (_reached("ipv6", "1 second"), False),
        (_body("policy ip over ratelimit,limit:5,time:1 second", "APIGW.0307"), False),
        (b"policy ip over ratelimit", False),
    ],
)
def test_a_limit_for_an_address_or_for_all_calls_counts_everybody(body: bytes, counts_all: bool) -> None:
    assert limit(body).counts_all == counts_all


_USER, _IP = _reached("user", "4 second"), _reached("ip", "4 second")


@pytest.mark.parametrize(
    ("value", "body", "random_share", "asked"),
    [
        # Retry-After counts before the body, and has no jitter.
        (b"30", _USER, 1.0, BackOff(30.0, 0.0)),
        (b"30", _IP, 1.0, BackOff(30.0, LONGEST_FOR_ALL_S)),
        (b"3", _IP, 1.0, BackOff(3.0, 3.0)),
        (b"0", _IP, 1.0, BackOff(0.0, 0.0)),
        (b"soon", _USER, 0.0, BackOff(4.0, 0.0)),
        (None, _USER, 0.0, BackOff(4.0, 0.0)),
        (None, _USER, 1.0, BackOff(3.6, 0.0)),
        (None, _IP, 1.0, BackOff(3.6, 3.6)),
        (None, b"", 0.0, BackOff(UNREADABLE_S, 0.0)),
        (None, b"", 1.0, BackOff(1.8, 0.0)),
    ],
)
def test_a_429_says_who_waits_and_how_long(
    value: bytes | None, body: bytes, random_share: float, asked: BackOff
) -> None:
    fields = () if value is None else ((b"Retry-After", value),)
    assert back_off(fields, body, _NOW_S, random_share) == asked


def test_what_is_unreadable_names_no_limit() -> None:
    assert limit(b"") == Limit(UNREADABLE_S, counts_all=False)


_fields: st.SearchStrategy[Fields] = st.lists(
    st.tuples(st.sampled_from([b"Retry-After", b"Date"]), st.binary(max_size=12)), max_size=2
).map(tuple)


@BOUNDED
@given(fields=_fields, body=st.one_of(st.binary(), st.text().map(_body), st.text().map(str.encode)))
def test_whatever_comes_the_wait_is_bounded(fields: Fields, body: bytes) -> None:
    assert 0 <= (retry_after_s(fields, _NOW_S) or 0) <= LONGEST_S
    assert 0 <= limit(body).wait_s <= LONGEST_WINDOW_S
    asked = back_off(fields, body, _NOW_S, 0.5)
    assert 0 <= asked.all_s <= min(asked.caller_s, LONGEST_FOR_ALL_S)


@BOUNDED
@given(
    policy=st.sampled_from(["user", "ip", "app", "api"]),
    count=st.integers(1, 10**12),
    unit=st.sampled_from([("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)]),
)
def test_without_retry_after_the_window_counts_up_to_its_bound(
    policy: str, count: int, unit: tuple[str, int]
) -> None:
    assert limit(_reached(policy, f"{count} {unit[0]}")).wait_s == min(count * unit[1], LONGEST_WINDOW_S)
