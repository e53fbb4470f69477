"""Counts the polls of running executions, and what ``cache.ttl_running_s`` would spare where it is off."""

import logging
from typing import Final

import msgspec

from gateway.core.caching import policy
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.request_directives import accepts_events
from gateway.core.http import prefer
from gateway.store.invalidations import Changes
from gateway.store.lookup import FillToken
from gateway.telemetry.metrics import Metrics

TTL_S: Final = 1.0
"""The ``cache.ttl_running_s`` that is tried out."""

MOST: Final = 10_000
"""Records remembered; more are not fetched within `TTL_S`."""

LEAST_POLLS: Final = 200
"""Polls of running executions before anything is said of them."""

_NOTICEABLE = 0.1
_log = logging.getLogger(__name__)


class _Copy(msgspec.Struct, frozen=True, gc=False):
    """A record that would have been kept.

    Attributes:
        began_s: monotonic time of the start of its fetch.
        until_s: until when it would have been given again.
        since: `FillToken.since` of its fetch.
    """

    began_s: float
    until_s: float
    since: int


class RunningPolls:
    """Counts the fetches that show a running execution, and those that a copy in memory would have spared."""

    def __init__(self, rules: policy.Rules, changes: Changes, metrics: Metrics, *, has_memory: bool) -> None:
        self._rules = rules
        self._changes = changes
        self._metrics = metrics
        self._is_trying = has_memory and not rules.ttl_running_s
        self._fetches = 0
        self._has_told = False
        # By `EntryKey.local`; the one kept longest first.
        self._copies: dict[bytes, _Copy] = {}

    def fetched(
        self, began_s: float, token: FillToken, eligible: Eligible, decision: policy.StoreDecision
    ) -> None:
        """Count a fetch that began at a monotonic time, after its token was taken."""
        self._fetches += 1
        metrics, key = self._metrics, token.key
        if not policy.is_running(decision, self._rules):
            self._copies.pop(key.local, None)
            return
        metrics.running_polls += 1
        if not self._is_trying or eligible.directives.no_store:
            return
        entry = key.local
        copy = self._copies.get(entry)
        if (
            copy is not None
            and began_s <= copy.until_s
            and not self._changes.has_changed(key.stack, copy.since)
        ):
            if copy.began_s <= began_s and _takes(eligible, copy.until_s - began_s):
                metrics.running_polls_avoidable += 1
                if not self._has_told and metrics.running_polls >= LEAST_POLLS:
                    self._tell()
            return
        ttl_s = policy.running_ttl_s(decision, TTL_S)
        self._copies.pop(entry, None)
        if ttl_s > 0:
            self._copies[entry] = _Copy(began_s, began_s + ttl_s, token.since)
            if len(self._copies) > MOST:
                del self._copies[next(iter(self._copies))]

    def _tell(self) -> None:
        """Say once what is to be gained, as soon as that is worth it."""
        polls, avoidable = self._metrics.running_polls, self._metrics.running_polls_avoidable
        if avoidable < _NOTICEABLE * self._fetches:
            return
        self._has_told = True
        _log.info(
            "%d %% of the %d fetches until now were polls of running executions; "
            "cache.ttl_running_s = %d would have spared %d %% of the fetches",
            round(100 * polls / self._fetches),
            self._fetches,
            TTL_S,
            round(100 * avoidable / self._fetches),
        )


def _takes(eligible: Eligible, ttl_s: float) -> bool:
    """Tell whether a request may be given a record that was fetched less than a second before it."""
    if eligible.fetch_lines is not None:
        return ttl_s > 0
    directives, fields = eligible.directives, eligible.fields
    if directives.no_cache or directives.unmet(0, ttl_s) is not None:
        return False
    return not accepts_events(fields) and not prefer.wait_s(fields)
