"""Rate limit for log lines that callers can cause: a token bucket."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_LINES_PER_S = 20.0
_BURST = 100.0


class LogLimit(logging.Filter):
    """Drops lines beyond a rate; the next line written says how many.

    Args:
        lines_per_s: refill rate of the bucket.
        burst: size of the bucket.
        monotonic_s: the clock.

    Attributes:
        dropped: lines dropped since the start.
    """

    def __init__(
        self,
        lines_per_s: float = _LINES_PER_S,
        burst: float = _BURST,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines_per_s = lines_per_s
        self._burst = burst
        self._monotonic_s = monotonic_s
        self._left = burst
        self._filled_s = monotonic_s()
        self.dropped = 0
        self._reported = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written."""
        now_s = self._monotonic_s()
        self._left = min(self._burst, self._left + (now_s - self._filled_s) * self._lines_per_s)
        self._filled_s = now_s
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        if self.dropped > self._reported:
            record.msg = f"{record.getMessage()} ({self.dropped - self._reported} such lines were dropped)"
            record.args = ()
            self._reported = self.dropped
        return True
