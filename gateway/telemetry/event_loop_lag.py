"""Measures the delay of the event loop once a second."""

import asyncio
import time

from gateway.telemetry.metrics import Histogram

_EVERY_S = 1.0


class EventLoopLag:
    """Measures how late a timer fires."""

    def __init__(self, lag_s: Histogram, every_s: float = _EVERY_S) -> None:
        self._lag_s = lag_s
        self._every_s = every_s
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        # Not the loop's own time, which uvloop updates once an iteration.
        self._due_s = time.monotonic() + self._every_s
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._measure)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _measure(self) -> None:
        self._lag_s.observe(max(0.0, time.monotonic() - self._due_s))
        self.start()
