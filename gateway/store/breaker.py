"""Circuit breaker of Redis: opened by failures, closed by probes of its own.

Requests never probe: while it is not closed, none of them waits. Failures are counted by operation: short
replies in time say nothing about long ones.
"""

import asyncio
import enum
from collections import Counter

OPENING_FAILURES = 3
"""Failures of one operation in a row that open it; one may be a lost packet."""

PROBE = "probe"
"""The only operation that closes it."""

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 0.5


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Counts the outcomes of operations, and how often it has opened."""

    def __init__(self) -> None:
        self.openings = 0
        self.state = BreakerState.CLOSED
        self._failures: Counter[str] = Counter()
        self._pause_s = _FIRST_PAUSE_S
        self._is_open = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether operations are sent."""
        return self.state is BreakerState.CLOSED

    async def wait_open(self) -> float:
        """Wait until it is open, and return in how many seconds a probe is due."""
        await self._is_open.wait()
        return self._pause_s

    def begin_probe(self) -> None:
        self.state = BreakerState.HALF_OPEN

    def succeeded(self, operation: str = PROBE) -> None:
        """Count a success; that of a probe closes it."""
        if operation != PROBE:
            self._failures.pop(operation, None)
            return
        self.state = BreakerState.CLOSED
        self._failures.clear()
        self._pause_s = _FIRST_PAUSE_S
        self._is_open.clear()

    def failed(self, operation: str = PROBE, *, at_once: bool = False) -> None:
        """Count a failure, and open, ``at_once`` or after some; that of a probe doubles the next pause."""
        if self.is_closed:
            self._failures[operation] += 1
            if self._failures[operation] < OPENING_FAILURES and not at_once:
                return
            self.openings += 1
        elif operation != PROBE:
            # It was under way when the breaker opened.
            return
        elif self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, _LAST_PAUSE_S)
        self.state = BreakerState.OPEN
        self._is_open.set()
