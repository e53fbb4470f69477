"""A bound on the log lines that callers can cause: a bucket of lines that fills again with time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_LINES_PER_S = 20.0
_BURST = 100.0


class LogLimit(logging.Filter):
    """Drops lines beyond a rate; the first one that passes again tells how many were dropped.

    Args:
        lines_per_s: how fast the bucket fills.
        burst: how many lines may come at once.
        monotonic_s: the time.

    Attributes:
        dropped: lines that were dropped since the start.
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
        self._told = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written."""
        now_s = self._monotonic_s()
        self._left = min(self._burst, self._left + (now_s - self._filled_s) * self._lines_per_s)
        self._filled_s = now_s
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        if self.dropped > self._told:
            record.msg = f"{record.getMessage()} ({self.dropped - self._told} such lines were left out)"
            record.args = ()
            self._told = self.dropped
        return True
