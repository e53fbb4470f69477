"""State of Redis by the outcome of its operations: breaker, log lines, whether to leave the server."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import ResponseError

from gateway.clock import Clock
from gateway.store.breaker import PROBE, Breaker
from gateway.store.redis_errors import is_answer, words_of, wrong_server
from gateway.telemetry.state_log import StateLog

CHECK = "ping"
"""The operation that shows whether a server accepts writes; `PROBE` is the other one."""


class Condition:
    """Takes the outcome of each operation.

    Args:
        clock: both clocks.
        password: kept out of the log; "" for none.
        on_well: called when a check succeeds, if it is the first or the one before failed.

    Attributes:
        breaker: whether operations are sent at all.
        is_up: the last operation succeeded.
        refuses: the last reply was an error of Redis itself.
        password: may be replaced.
    """

    def __init__(self, clock: Clock, password: str, on_well: Callable[[], None]) -> None:
        self.breaker = Breaker()
        self.is_up = False
        self.refuses = False
        self.password = password
        self._on_well = on_well
        self._clock = clock
        self._has_been_up = False
        self._is_checked = False
        self._is_wrong = False
        self._state = StateLog("redis", clock)
        self._refusals: dict[str, StateLog] = {}

    def succeeded(self, operation: str) -> None:
        """Record a success."""
        self.is_up = self._has_been_up = True
        self.refuses = False
        self.breaker.succeeded(operation)
        if operation in self._refusals:
            self._refusals[operation].up()
        if self.breaker.is_closed:
            self._state.up()
        if operation in (CHECK, PROBE) and not self._is_checked:
            self._is_checked = True
            self._is_wrong = False
            self._on_well()

    def slow(self, operation: str) -> None:
        """Record a reply that came after the timeout."""
        self.breaker.failed(operation)
        self._log_down("answers too slowly")

    def failed(self, operation: str, error: Exception) -> bool:
        """Record a failure; ``True`` when this server is the wrong one: close every connection."""
        if operation in (CHECK, PROBE):
            self._is_checked = False
        self.refuses = is_answer(error)
        what = wrong_server(error)
        if what is None and isinstance(error, ResponseError):
            # Other commands may still be allowed.
            self.breaker.succeeded(operation)
            if operation not in self._refusals:
                self._refusals[operation] = StateLog(f"redis {operation}", self._clock)
            self._refusals[operation].down(words_of(error, self.password))
            if operation == PROBE and self._is_wrong:
                # Not the wrong server any more; use it for what it allows.
                self._is_wrong = False
                self._on_well()
            return False
        self.is_up = False
        is_left = what is not None and not self._is_wrong
        if is_left:
            self._is_wrong = True
            self._is_checked = False
        self.breaker.failed(operation, at_once=is_left)
        self._log_down((what or "") + words_of(error, self.password))
        return is_left

    def _log_down(self, words: str) -> None:
        # A single failure is not logged: it may be one lost packet.
        if not self.breaker.is_closed or not self._has_been_up:
            self._state.down(words)
