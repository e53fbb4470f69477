"""State of Redis by the outcome of its operations: breaker, log lines, whether to leave the server."""

from collections.abc import Callable

from redis.exceptions import ResponseError

from gateway.clock import Clock
from gateway.store.breaker import PROBE, Breaker
from gateway.store.redis_errors import error_text, is_answer, wrong_server
from gateway.telemetry.state_log import StateLog

CHECK = "ping"
"""The operation that shows whether a server accepts writes; `PROBE` is the other one."""


class Condition:
    """Takes the outcome of each operation.

    Calls ``on_recovered`` when a check succeeds, if it is the first or the one before failed.

    Attributes:
        breaker: whether operations are sent at all.
        is_up: the last operation succeeded.
        refuses: the last reply was an error of Redis itself.
    """

    def __init__(self, clock: Clock, on_recovered: Callable[[], None]) -> None:
        self.breaker = Breaker()
        self.is_up = False
        self.refuses = False
        self._on_recovered = on_recovered
        self._clock = clock
        self._has_been_up = False
        self._is_checked = False
        self._is_wrong = False
        self._state = StateLog("redis", clock)
        self._command_logs: dict[str, StateLog] = {}

    def succeeded(self, operation: str) -> None:
        self.is_up = self._has_been_up = True
        self.refuses = False
        self.breaker.succeeded(operation)
        if operation in self._command_logs:
            self._command_logs[operation].up()
        if self.breaker.is_closed:
            self._state.up()
        if operation in (CHECK, PROBE) and not self._is_checked:
            self._is_checked = True
            self._is_wrong = False
            self._on_recovered()

    def slow(self, operation: str) -> None:
        """Record a reply that came after the timeout."""
        self.breaker.failed(operation)
        self._log_down("answers too slowly")

    def failed(self, operation: str, error: Exception, password: str) -> bool:
        """Record a failure; return whether the server is newly the wrong one: close every connection.

        The password is kept out of the log.
        """
        if operation in (CHECK, PROBE):
            self._is_checked = False
        self.refuses = is_answer(error)
        what = wrong_server(error)
        if what is None and isinstance(error, ResponseError):
            # Other commands may still be allowed.
            self.breaker.succeeded(operation)
            log = self._command_logs.setdefault(operation, StateLog(f"redis {operation}", self._clock))
            log.down(error_text(error, password))
            if operation == PROBE and self._is_wrong:
                # Not the wrong server any more; use it for what it allows.
                self._is_wrong = False
                self._on_recovered()
            return False
        self.is_up = False
        is_newly_wrong = what is not None and not self._is_wrong
        if is_newly_wrong:
            self._is_wrong = True
            self._is_checked = False
        self.breaker.failed(operation, at_once=is_newly_wrong)
        self._log_down((what or "") + error_text(error, password))
        return is_newly_wrong

    def _log_down(self, reason: str) -> None:
        # A single failure is not logged: it may be one lost packet.
        if not self.breaker.is_closed or not self._has_been_up:
            self._state.down(reason)
