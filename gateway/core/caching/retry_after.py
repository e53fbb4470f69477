"""How long a 429 asks its caller to wait (RFC 9110 §10.2.3)."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from gateway.core.http.dates import date_s
from gateway.core.http.messages import Fields, first

LONGEST_S = 60.0
"""Bound of the time to wait."""

LONGEST_WINDOW_S = 5.0
"""Bound of the time to wait without a ``Retry-After``, however long the window of the limit is."""

UNREADABLE_S = 2.0
"""Time to wait after a 429 that gives none."""

# Without leading zeros; more digits exceed any bound, and int() rejects thousands of them.
_SECONDS = re.compile(rb"0*([0-9]*)")
_MOST_DIGITS = 9


# Codes of a 429 from Huawei's API gateway; APIG is its older name.
_THROTTLED = frozenset({"APIGW.0308", "APIG.0308"})
_POLICY = re.compile(r"\bpolicy\s+(\w+)\s+over\s+ratelimit\b", re.ASCII | re.IGNORECASE)
_WINDOW = re.compile(r"\btime:\s*0*([1-9][0-9]*)\s*(second|minute|hour|day)s?\b", re.ASCII | re.IGNORECASE)
_UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}


class Policy(StrEnum):
    """What a limit of Huawei's API gateway counts."""

    USER = "user"
    IP = "ip"
    APP = "app"
    API = "api"
    UNKNOWN = "unknown"


class BackOff(msgspec.Struct, frozen=True, gc=False):
    """What a 429 asks for.

    Attributes:
        wait_s: how long to send nothing, seconds; 0 for a ``Retry-After`` in the past.
        is_explicit: the time comes from ``Retry-After``; otherwise callers add jitter, so as not to return
            all at once.
        policy: what the limit counts.
    """

    wait_s: float
    is_explicit: bool
    policy: Policy


class _Body(msgspec.Struct, frozen=True):
    error_code: str = ""
    error_msg: str = ""


_decoder = msgspec.json.Decoder(_Body)


def back_off(status: int, fields: Fields, body: bytes, now_s: float) -> BackOff | None:
    """Return what a 429 asks for (RFC 6585 §4, RFC 9110 §10.2.3).

    Args:
        status: of the response.
        fields: of the response.
        body: of the response, without content coding; a truncated one gives no policy.
        now_s: wall clock, for a date.

    Returns:
        ``None`` for any status but 429.
    """
    if status != 429:
        return None
    policy, window_s = _limit(body)
    explicit_s = _explicit_s(fields, now_s)
    if explicit_s is not None:
        return BackOff(explicit_s, is_explicit=True, policy=policy)
    wait_s = UNREADABLE_S if window_s is None else min(window_s, LONGEST_WINDOW_S)
    return BackOff(wait_s, is_explicit=False, policy=policy)


def _limit(body: bytes) -> tuple[Policy, float | None]:
    """Return what is counted and the window in seconds, ``None`` for an unreadable one.

    From text like ``policy user over ratelimit,limit:200,time:5 minute``.
    """
    try:
        error = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Policy.UNKNOWN, None
    policy = _POLICY.search(error.error_msg) if error.error_code in _THROTTLED else None
    if policy is None:
        return Policy.UNKNOWN, None
    name = policy[1].lower()
    counted = Policy(name) if name in set(Policy) else Policy.UNKNOWN
    window = _WINDOW.search(error.error_msg, policy.end())
    if window is None:
        return counted, None
    # Truncating a very long number leaves one that is still above any bound.
    return counted, float(window[1][:_MOST_DIGITS]) * _UNIT_S[window[2].lower()]


def retry_after_s(fields: Fields, now_s: float) -> float | None:
    """Return the ``Retry-After`` of a 429, seconds, at most `LONGEST_S`.

    Args:
        fields: of the 429.
        now_s: wall clock, for a date.

    Returns:
        ``None`` without the field, or when it is malformed or in the past.
    """
    return _explicit_s(fields, now_s) or None


def _explicit_s(fields: Fields, now_s: float) -> float | None:
    """Return the time in ``Retry-After``, 0 when it is in the past; ``None`` without a valid one."""
    value = first(fields, b"retry-after")
    if value is None:
        return None
    seconds = _SECONDS.fullmatch(value) if value else None
    if seconds is not None:
        wait_s = float(seconds[1] or 0) if len(seconds[1]) <= _MOST_DIGITS else LONGEST_S
    else:
        until_s = date_s(value, now_s)
        if until_s is None:
            return None
        wait_s = until_s - now_s
    return min(max(wait_s, 0.0), LONGEST_S)
