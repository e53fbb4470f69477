"""The pauses of `aos-gateway wait` between two requests."""

import random
from typing import Final

from gateway.core.caching.retry_after import limit, retry_after_s
from gateway.core.http.messages import Fields, members

# From the start of one request to the start of the next. `_WAITED_S` applies after a response that waited.
_SHORTEST_S: Final = 2.0
_LONGEST_S: Final = 10.0
_GROWTH: Final = 1.5
_WAITED_S: Final = 1.0
_JITTER: Final = 0.5


class Pace:
    """Computes the pauses, each from the start of one request to the start of the next, in seconds."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Begin with the shortest pause again, because the record has changed."""
        self._next_s = _SHORTEST_S

    def after_failure(self) -> float:
        """Return the pause after a request without a response; each is longer than the one before."""
        pause_s = self._next_s
        self._next_s = min(pause_s * _GROWTH, _LONGEST_S)
        return pause_s

    def after(self, status: int, fields: Fields, body: bytes, now_s: float) -> float:
        """Return the pause after a response whose body has no content coding; `now_s` is wall clock."""
        wait_s = retry_after_s(fields, now_s)
        if status == 429:
            if wait_s is None:
                wait_s = limit(body).wait_s * (1.0 + _JITTER * random.random())
            return max(_SHORTEST_S, wait_s)
        if status < 400 and _has_waited(fields):
            return _WAITED_S
        return max(self.after_failure(), wait_s or 0.0)


def _has_waited(fields: Fields) -> bool:
    """Tell whether the response waited for a change, as `Prefer` asked (RFC 7240 section 3)."""
    for member in members(fields, b"preference-applied"):
        name, _, value = member.partition(b";")[0].partition(b"=")
        if name.strip().lower() == b"wait":
            return value.strip(b' \t"0') != b""
    return False
