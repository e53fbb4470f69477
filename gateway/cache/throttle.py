"""Callers whom the upstream asked to wait: their misses are answered here until the time is over."""

from __future__ import annotations

from collections import OrderedDict

from gateway.clock import Clock

_LIMIT = 100_000


class Throttle:
    """Remembers, by caller digest, until when the upstream wants to hear nothing.

    Args:
        clock: monotonic time.
        limit: how many callers are kept; beyond it the oldest is dropped, which costs one call.
    """

    def __init__(self, clock: Clock, limit: int = _LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._until_s: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until_s)

    def held(self) -> int:
        """Return how many callers must still wait, and drop the others."""
        now_s = self._clock.monotonic_s()
        over = [caller for caller, until_s in self._until_s.items() if until_s <= now_s]
        for caller in over:
            del self._until_s[caller]
        return len(self._until_s)

    def hold(self, caller: bytes, wait_s: float) -> None:
        """Send nothing of this caller upstream for a time."""
        self._until_s[caller] = self._clock.monotonic_s() + wait_s
        self._until_s.move_to_end(caller)
        if len(self._until_s) > self._limit:
            self._until_s.popitem(last=False)

    def wait_s(self, caller: bytes) -> float | None:
        """Return how long a caller must still wait, in seconds; ``None`` when it need not."""
        until_s = self._until_s.get(caller)
        if until_s is None:
            return None
        left_s = until_s - self._clock.monotonic_s()
        if left_s > 0:
            return left_s
        del self._until_s[caller]
        return None
