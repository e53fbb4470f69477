"""Logs once why settled records are not stored; `Cache-Status` says it only to the caller."""

import logging

from gateway.core.caching import policy
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.hints import hint

_log = logging.getLogger(__name__)


class Hints:
    """Warns about each reason once in the life of a process."""

    def __init__(self, rules: policy.Rules) -> None:
        self._rules = rules
        self._given: set[Reason] = set()

    def refused(self, fetched_response: policy.FetchedResponse, decision: policy.StoreDecision) -> None:
        """Log the reason of a response that was not stored, unless it was logged before."""
        reason = decision.reason
        # Most records are not settled, which needs no hint.
        if reason is None or decision.phase not in self._rules.terminal_phases or reason in self._given:
            return
        text = hint(fetched_response, decision, self._rules)
        if text is not None:
            self._given.add(reason)
            _log.warning("settled records are not stored (detail=%s): %s", reason.value, text)
