"""One log line for each change of state of a dependency."""

import logging
import time

from gateway.clock import Clock
from gateway.telemetry.log_format import FIELDS
from gateway.telemetry.log_rate_limit import TokenBucket

_log = logging.getLogger("gateway")

# Bounds the lines of a dependency that fails every other time.
_LINES_PER_S = 0.1
_BURST = 6.0
_MAX_REASON = 200


class StateLog:
    """Logs when a dependency fails, once for each reason, and when it works again.

    Report every outcome: an unchanged state costs one comparison. Lines are rate limited; a state whose line
    was dropped is logged with a later outcome.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._logged = ""
        self._began_s = 0.0
        self._began_wall_s = 0.0
        self._failures = 0
        self._bucket = TokenBucket(_LINES_PER_S, _BURST, clock.monotonic_s)

    def down(self, reason: str) -> None:
        """Report a failure; the reason is any text without secrets."""
        if not self._failures:
            self._began_s, self._began_wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        self._failures += 1
        printable = "".join(each if each.isprintable() else " " for each in reason[:_MAX_REASON])
        reason = " ".join(printable.split()) or "no reason given"
        if reason != self._logged and self._bucket.take():
            self._logged = reason
            self._write("down", f"down: {reason}", reason=reason)

    def up(self) -> None:
        if not self._failures:
            return
        if not self._logged:
            # No line said that it was down.
            self._failures = 0
        elif self._bucket.take():
            lasted_s = round(self._clock.monotonic_s() - self._began_s, 1)
            text = f"up again after {lasted_s} s and {self._failures} failures"
            self._write("up", text, lasted_s=lasted_s, failures=self._failures)
            self._logged = ""
            self._failures = 0

    def _write(self, state: str, text: str, **more: object) -> None:
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began_wall_s))
        fields = {"dependency": self._name, "state": state, "down_since": since, **more}
        _log.warning("%s %s", self._name, text, extra={FIELDS: fields})
