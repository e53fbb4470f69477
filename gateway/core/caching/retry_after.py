"""What a throttled caller was told (RFC 9110 §10.2.3)."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from gateway.core.http.dates import date_s
from gateway.core.http.messages import Fields, first

LONGEST_S = 60.0
"""However long the upstream asks a caller to wait, the gateway asks again after this time."""

LONGEST_UNTOLD_S = 5.0
"""However long the window of a limit is, a caller without a ``Retry-After`` asks again after this time."""

UNREADABLE_S = 2.0
"""How long a 429 is heeded that says nothing of its time."""

# Leading zeros aside; more digits are longer than anybody waits, and int() refuses thousands of them.
_SECONDS = re.compile(rb"0*([0-9]*)")
_MOST_DIGITS = 9


# The 429 of Huawei's API gateway; APIG is its older name for itself.
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
        wait_s: how long to send nothing, seconds; 0 when a ``Retry-After`` is already over.
        is_told: a ``Retry-After`` says so; otherwise callers add jitter, or they all come back together.
        policy: whose calls are counted.
    """

    wait_s: float
    is_told: bool
    policy: Policy


class _Body(msgspec.Struct, frozen=True):
    error_code: str = ""
    error_msg: str = ""


_decoder = msgspec.json.Decoder(_Body)


def back_off(status: int, fields: Fields, body: bytes, now_s: float) -> BackOff | None:
    """Tell what a refusal for too many requests asks for (RFC 6585 §4, RFC 9110 §10.2.3).

    Args:
        status: of the answer.
        fields: of the answer.
        body: of the answer, without content coding; the beginning of a longer one is unreadable.
        now_s: wall clock, for a date.

    Returns:
        ``None`` for any status but 429.
    """
    if status != 429:
        return None
    policy, window_s = _limit(body)
    told_s = _told_s(fields, now_s)
    if told_s is not None:
        return BackOff(told_s, is_told=True, policy=policy)
    wait_s = UNREADABLE_S if window_s is None else min(window_s, LONGEST_UNTOLD_S)
    return BackOff(wait_s, is_told=False, policy=policy)


def _limit(body: bytes) -> tuple[Policy, float | None]:
    """Return what is counted and the window in seconds, from words like
    ``policy user over ratelimit,limit:200,time:5 minute``; ``None`` for a window that cannot be read.
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
    # What is left of a number of very many digits is still longer than anybody waits.
    return counted, float(window[1][:_MOST_DIGITS]) * _UNIT_S[window[2].lower()]


def retry_after_s(fields: Fields, now_s: float) -> float | None:
    """Return how long a 429 asks its caller to wait, in seconds, at most 60.

    Args:
        fields: of the 429.
        now_s: wall clock, for a date.

    Returns:
        ``None`` without a ``Retry-After``, or with one that cannot be read or is over.
    """
    return _told_s(fields, now_s) or None


def _told_s(fields: Fields, now_s: float) -> float | None:
    """Return what a ``Retry-After`` says, 0 when it is over; ``None`` without a readable one."""
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
