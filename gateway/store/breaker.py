"""Keeps a failing Redis off the requests' way: open after failures, closed again by one probe at a time.

Requests are never the probe: while it is not closed, none of them waits. Each operation is counted by
itself: short answers in time say nothing about the long ones that requests wait for.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter

OPENING_FAILURES = 3
"""Failures of one operation in a row that open it; one may be a lost packet."""

PROBE = "probe"
"""The one operation that closes it."""

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 0.5


class BreakerState(enum.Enum):
    """Whether operations are let through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Counts the outcomes of one back end.

    Attributes:
        state: whether operations are let through.
        openings: how often it was given up.
    """

    def __init__(self) -> None:
        self.openings = 0
        self.state = BreakerState.CLOSED
        self._failures: Counter[str] = Counter()
        self._pause_s = _FIRST_PAUSE_S
        self._is_open = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Operations are let through."""
        return self.state is BreakerState.CLOSED

    async def wait_open(self) -> float:
        """Wait until it is open.

        Returns:
            How long to leave the back end alone before the next probe, in seconds.
        """
        await self._is_open.wait()
        return self._pause_s

    def begin_probe(self) -> None:
        """Let one operation through to see whether the back end is well again."""
        self.state = BreakerState.HALF_OPEN

    def succeeded(self, operation: str = PROBE) -> None:
        """Note an answer."""
        if operation != PROBE:
            self._failures.pop(operation, None)
            return
        self.state = BreakerState.CLOSED
        self._failures.clear()
        self._pause_s = _FIRST_PAUSE_S
        self._is_open.clear()

    def failed(self, operation: str = PROBE, *, at_once: bool = False) -> None:
        """Note a failure; a failed probe doubles the pause before the next, up to half a second.

        Args:
            operation: what failed.
            at_once: it opens it, if it is the first one too.
        """
        if self.is_closed:
            self._failures[operation] += 1
            if self._failures[operation] < OPENING_FAILURES and not at_once:
                return
            self.openings += 1
        elif operation != PROBE:
            # It was under way when the breaker opened, and tells nothing new.
            return
        elif self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, _LAST_PAUSE_S)
        self.state = BreakerState.OPEN
        self._is_open.set()
