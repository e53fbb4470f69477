"""How long a 429 asks its caller to wait (RFC 6585 §4, RFC 9110 §10.2.3)."""

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

LONGEST_FOR_ALL_S = 5.0
"""Bound of the time that all callers wait for a 429 that one of them got."""

# Share of a window that may be left off.
_JITTER = 0.1

# Codes of a 429 from Huawei's API gateway; APIG is its older name.
_THROTTLED = frozenset({"APIGW.0308", "APIG.0308"})
_POLICY = re.compile(r"\bpolicy\s+(\w+)\s+over\s+ratelimit\b", re.ASCII | re.IGNORECASE)
_WINDOW = re.compile(r"\btime:\s*0*([1-9][0-9]*)\s*(second|minute|hour|day)s?\b", re.ASCII | re.IGNORECASE)
_UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
# What counts the calls of one address, or all calls, whoever the caller is; not "user" and "app".
_COUNTING_ALL = frozenset({"ip", "api"})


class _Body(msgspec.Struct, frozen=True):
    error_code: str = ""
    error_msg: str = ""


_decoder = msgspec.json.Decoder(_Body)


class Limit(msgspec.Struct, frozen=True, gc=False):
    """The limit that the body of a 429 names.

    Attributes:
        wait_s: how long to wait without a ``Retry-After``: its window, at most `LONGEST_WINDOW_S`, or
            `UNREADABLE_S`. Callers add jitter, so as not to return all at once.
        counts_all: it counts the calls of an address or all calls, not those of one credential.
    """

    wait_s: float = UNREADABLE_S
    counts_all: bool = False


class BackOff(msgspec.Struct, frozen=True, gc=False):
    """What a 429 asks for.

    Attributes:
        caller_s: how long the caller who got it sends nothing, seconds; 0 when it need not wait.
        all_s: how long nobody else does either; 0 when the limit counts that caller alone.
    """

    caller_s: float
    all_s: float


def back_off(fields: Fields, body: bytes, now_s: float, random_share: float) -> BackOff:
    """Return what a 429 asks for at a wall time; its body, if known, has no content coding.

    ``random_share``, from 0 to 1, is for the jitter of a wait that only the body suggests.
    """
    named = limit(body)
    wait_s = retry_after_s(fields, now_s)
    if wait_s is None:
        # Shorter, never longer, so that who waits as long as the field says is not held any more.
        wait_s = named.wait_s * (1.0 - _JITTER * random_share)
    return BackOff(wait_s, min(wait_s, LONGEST_FOR_ALL_S) if named.counts_all else 0.0)


def limit(body: bytes) -> Limit:
    """Read the body of a 429, like ``policy user over ratelimit,limit:200,time:5 minute``."""
    try:
        error = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Limit()
    policy = _POLICY.search(error.error_msg) if error.error_code in _THROTTLED else None
    if policy is None:
        return Limit()
    window = _WINDOW.search(error.error_msg, policy.end())
    wait_s = UNREADABLE_S
    if window is not None:
        # Unlike int(), float() reads any number of digits.
        wait_s = min(float(window[1]) * _UNIT_S[window[2].lower()], LONGEST_WINDOW_S)
    return Limit(wait_s, policy[1].lower() in _COUNTING_ALL)


def retry_after_s(fields: Fields, now_s: float) -> float | None:
    """Return the time in ``Retry-After``, seconds, at most `LONGEST_S`; ``now_s`` is the wall clock.

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
