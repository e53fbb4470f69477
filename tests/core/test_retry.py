"""How long a 429 asks its caller to wait."""

import pytest

from gateway.core.retry import LONGEST_S, retry_after_s

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
