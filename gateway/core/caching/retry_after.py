"""How long a 429 asks its caller to wait (RFC 6585 §4, RFC 9110 §10.2.3)."""

from __future__ import annotations

import re

import msgspec

from gateway.core.http.dates import date_s
from gateway.core.http.messages import Fields, first

LONGEST_S = 60.0
"""Bound of the time to wait."""

LONGEST_WINDOW_S = 5.0
"""Bound of the time to wait without a ``Retry-After``, however long the window of the limit is."""

UNREADABLE_S = 2.0
"""Time to wait after a 429 that gives none."""

# Codes of a 429 from Huawei's API gateway; APIG is its older name.
_THROTTLED = frozenset({"APIGW.0308", "APIG.0308"})
_POLICY = re.compile(r"\bpolicy\s+\w+\s+over\s+ratelimit\b", re.ASCII | re.IGNORECASE)
_WINDOW = re.compile(r"\btime:\s*0*([1-9][0-9]*)\s*(second|minute|hour|day)s?\b", re.ASCII | re.IGNORECASE)
_UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}


class _Body(msgspec.Struct, frozen=True):
    error_code: str = ""
    error_msg: str = ""


_decoder = msgspec.json.Decoder(_Body)


def window_s(body: bytes) -> float:
    """Return how long to wait after a 429 without ``Retry-After``: the window of the limit named in its body.

    Callers add jitter, so as not to return all at once.

    Args:
        body: without content coding, with text like ``policy user over ratelimit,limit:200,time:5 minute``.

    Returns:
        Seconds, at most `LONGEST_WINDOW_S`; `UNREADABLE_S` without a readable window.
    """
    try:
        error = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE_S
    policy = _POLICY.search(error.error_msg) if error.error_code in _THROTTLED else None
    window = policy and _WINDOW.search(error.error_msg, policy.end())
    if window is None:
        return UNREADABLE_S
    # Unlike int(), float() reads any number of digits.
    return min(float(window[1]) * _UNIT_S[window[2].lower()], LONGEST_WINDOW_S)


def retry_after_s(fields: Fields, now_s: float) -> float | None:
    """Return the time in ``Retry-After``, seconds, at most `LONGEST_S`; ``now_s`` is the wall clock.

    Returns:
        0 for a time in the past; ``None`` without the field, or when it is malformed.
    """
    value = first(fields, b"retry-after")
    if value is None:
        return None
    if value.isdigit():
        wait_s = float(value)
    else:
        until_s = date_s(value, now_s)
        if until_s is None:
            return None
        wait_s = until_s - now_s
    return min(max(wait_s, 0.0), LONGEST_S)
