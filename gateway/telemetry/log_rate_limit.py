"""Rate limit for log lines that callers can cause: a token bucket."""

import logging
from collections.abc import Callable


class TokenBucket:
    """Allows `per_s` events a second on average, and up to `burst` at once, also at the start."""

    def __init__(self, per_s: float, burst: float, monotonic_s: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._monotonic_s = monotonic_s
        self._tokens = burst
        self._filled_s = monotonic_s()

    def take(self) -> bool:
        """Take a token; ``False`` when there is none."""
        now_s = self._monotonic_s()
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class LogLimit(logging.Filter):
    """Drops lines beyond a rate; the next line written says how many."""

    def __init__(self, bucket: TokenBucket) -> None:
        super().__init__()
        self._bucket = bucket
        self.dropped = 0
        self._reported = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._bucket.take():
            self.dropped += 1
            return False
        if self.dropped > self._reported:
            record.msg = f"{record.getMessage()} ({self.dropped - self._reported} such lines were dropped)"
            record.args = ()
            self._reported = self.dropped
        return True
