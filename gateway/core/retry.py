"""What a throttled caller was told (RFC 9110 §10.2.3)."""

from __future__ import annotations

import re

from gateway.core.freshness import date_s
from gateway.core.messages import Fields, first

LONGEST_S = 60.0
"""However long the upstream asks a caller to wait, the gateway asks again after this time."""

# Leading zeros aside; more digits are longer than anybody waits, and int() refuses thousands of them.
_SECONDS = re.compile(rb"0*([0-9]*)")
_MOST_DIGITS = 9


def retry_after_s(fields: Fields, now_s: float) -> float | None:
    """Return how long a 429 asks its caller to wait, in seconds, at most 60.

    Args:
        fields: of the 429.
        now_s: wall clock, for a date.

    Returns:
        ``None`` without a ``Retry-After``, or with one that cannot be read or is over.
    """
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
    return min(wait_s, LONGEST_S) if wait_s > 0 else None
