"""Keeps a failing Redis off the requests' way: open after failures, one probe at a time to close again."""

from __future__ import annotations

import enum

OPENING_FAILURES = 3
"""Failures in a row that open it; one may be a lost packet."""

_FIRST_PROBE_S = 0.1
_LAST_PROBE_S = 0.5


class BreakerState(enum.Enum):
    """Whether operations are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Counts outcomes of one back end; times are monotonic seconds and come in as ``now_s``."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._probe_after_s = _FIRST_PROBE_S
        self._probe_at_s = 0.0

    def allows(self, now_s: float) -> bool:
        """Tell whether an operation may be tried; the first one after the pause is the probe."""
        match self.state:
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN if now_s >= self._probe_at_s:
                self.state = BreakerState.HALF_OPEN
                return True
            case _:
                return False

    def succeeded(self) -> None:
        """Note an answer."""
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._probe_after_s = _FIRST_PROBE_S

    def failed(self, now_s: float) -> None:
        """Note a failure; a failed probe doubles the pause before the next."""
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN:
            self._probe_after_s = min(self._probe_after_s * 2, _LAST_PROBE_S)
        elif self._failures < OPENING_FAILURES:
            return
        self.state = BreakerState.OPEN
        self._probe_at_s = now_s + self._probe_after_s
