"""How late the event loop comes to what it was asked to do, looked at once a second."""

from __future__ import annotations

import asyncio
import time

from gateway.telemetry.metrics import Histogram

_EVERY_S = 1.0


class EventLoopLag:
    """Asks the loop for a call once a second and measures how late that comes.

    Args:
        lag_s: gets each measurement.
        every_s: time between two of them.
    """

    def __init__(self, lag_s: Histogram, every_s: float = _EVERY_S) -> None:
        self._lag_s = lag_s
        self._every_s = every_s
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; needs a running loop."""
        # Not the loop's own time: uvloop's stands still during a turn.
        self._due_s = time.monotonic() + self._every_s
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def stop(self) -> None:
        """End; may be repeated."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._lag_s.observe(max(0.0, time.monotonic() - self._due_s))
        self.start()
