"""The counters of one process: plain integers on the request path, made into a `Snapshot` for each scrape."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.caching.cache_status import ERROR, HIT, CacheStatus, Reason, outcome
from gateway.telemetry.metrics_catalogue import FAMILIES, GATEWAY, METHODS, NO_STATUS, UPSTREAM
from gateway.telemetry.snapshot import Snapshot

_CLASSES = {status: f"{status // 100}xx" for status in range(100, 600)}


class Histogram:
    """Counts durations in buckets: by inclusive upper bounds, ascending, and one for what lies beyond."""

    __slots__ = ("bounds_s", "counts", "total_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.total_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.total_s += duration_s


class _Tally:
    """Counts responses that differ in their duration alone."""

    __slots__ = ("count", "durations")

    def __init__(self, durations: Histogram) -> None:
        self.count = 0
        self.durations = durations


class Metrics:
    """Counters of one process, named and labelled as in the catalogue; label values come from fixed lists.

    Attributes:
        fast_hits: hits with status 200 on the fast path, which `requests` leaves out.
        fast_running_hits: those of them whose record may still change.
        running_polls: fetches that showed an execution which had not ended.
        running_polls_avoidable: those of them that a copy, kept for a second, would have spared.
    """

    def __init__(self) -> None:
        # By status; hits without their time to live.
        self._tallies: dict[tuple[CacheStatus | None, int], _Tally] = {}
        self.fast_hits = 0
        self.fast_running_hits = 0
        self.running_polls = 0
        self.running_polls_avoidable = 0
        self.errors: Counter[str] = Counter()
        self.requests_aborted = 0
        self.upstream_requests = dict.fromkeys(METHODS, 0)
        self.upstream_failures: Counter[str] = Counter()
        self.redis_failures: Counter[tuple[str, str]] = Counter()
        self.redis_subscriptions = 0
        self.entries_invalid = 0
        self.not_stored: Counter[str] = Counter()
        self.invalidations: Counter[str] = Counter()
        self.iam_questions: Counter[str] = Counter()
        self.credential_renewals: Counter[str] = Counter()
        self.bad_requests: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.leases: Counter[str] = Counter()
        self.connections_refused = 0
        self.connections_unfit: Counter[str] = Counter()
        self._histograms = {
            family.name: {labels: Histogram(family.bounds_s) for labels in family.known}
            for family in FAMILIES
            if family.kind == "histogram"
        }
        self.request_s = self._histograms["request_duration_seconds"]
        self.upstream_s = self._histograms["upstream_duration_seconds"]
        self._responses: dict[int | None, Histogram] = {None: self.upstream_s[NO_STATUS,]}
        self._responses |= {
            status: self.upstream_s[how,] for status, how in _CLASSES.items() if status >= 200
        }
        self.upstream_wait_s = self._histograms["upstream_wait_seconds"][()]
        self.wake_s = self._histograms["wake_duration_seconds"][()]
        self.redis_s = self._histograms["redis_duration_seconds"]
        self.event_loop_lag_s = self._histograms["event_loop_lag_seconds"][()]

    def answered(self, cache_status: CacheStatus | None, status: int, duration_s: float) -> None:
        """Count a response; without a cache status it is one of the gateway itself.

        Its duration is from the parsed request to the response head, without what its caller asked to wait.
        """
        tally = self._tallies.get((cache_status, status)) or self._tally(cache_status, status)
        tally.count += 1
        tally.durations.observe(duration_s)

    def _tally(self, cache_status: CacheStatus | None, status: int) -> _Tally:
        if cache_status is not None and cache_status.ttl_s is not None:
            cache_status = msgspec.structs.replace(cache_status, ttl_s=0)
        fresh = _Tally(self.request_s[outcome(cache_status),])
        return self._tallies.setdefault((cache_status, status), fresh)

    @property
    def requests(self) -> Counter[tuple[str, str, str]]:
        """Responses by outcome, reason and class of status, without the hits of the fast path."""
        found: Counter[tuple[str, str, str]] = Counter()
        for (cache_status, status), tally in self._tallies.items():
            reason = None if cache_status is None else cache_status.reason
            label = "" if reason is None else reason.label
            found[outcome(cache_status), label, _CLASSES[status]] += tally.count
        return found

    @property
    def throttled(self) -> Counter[str]:
        """Responses with status 429, by who has said so."""
        found: Counter[str] = Counter()
        for (cache_status, status), tally in self._tallies.items():
            if status == 429:
                found[GATEWAY if outcome(cache_status) == ERROR else UPSTREAM] += tally.count
        return found

    def _answered(self, *, collapsed: bool) -> int:
        """Return how many responses were another one's fetch, or stored by their own."""
        return sum(
            tally.count
            for (one, _), tally in self._tallies.items()
            if one is not None and one.collapsed == collapsed and (collapsed or one.stored)
        )

    def called(self, method: str, waited_s: float) -> None:
        """Count a request sent upstream and its wait; unknown methods count as ``other``."""
        if waited_s:
            self.upstream_wait_s.observe(waited_s)
        else:
            self.upstream_wait_s.counts[0] += 1
        counts = self.upstream_requests
        counts[method if method in counts else "other"] += 1

    def redis_took(self, operation: str, duration_s: float) -> None:
        """Count the duration of a Redis operation, failed or not."""
        self.redis_s[operation,].observe(duration_s)

    def responded(self, status: int | None, duration_s: float) -> None:
        """Count the time from a slot in the pool to the response head, or to a failure: status ``None``."""
        self._responses[status].observe(duration_s)

    def snapshot(self) -> Snapshot:
        found: Snapshot = {
            name: {labels: (*one.counts, one.total_s) for labels, one in histograms.items()}
            for name, histograms in self._histograms.items()
        }
        collapsed = self._answered(collapsed=True)
        requests = self.requests + Counter(
            {
                (HIT, "", "2xx"): self.fast_hits - self.fast_running_hits,
                (HIT, Reason.RUNNING.label, "2xx"): self.fast_running_hits,
            }
        )
        uncached: Counter[tuple[str, str]] = Counter()
        for (_, reason, _), count in requests.items():
            if reason and (stage := Reason(reason).stage):
                uncached[stage, reason] += count
        hits = sum(count for (how, _, _), count in requests.items() if how == HIT)
        counted: dict[str, Any] = {
            **vars(self),
            "requests": requests,
            "throttled": self.throttled,
            "collapsed": collapsed,
            "records_stored": self._answered(collapsed=False),
            "uncached": uncached,
            "upstream_requests_saved": {HIT: hits, "collapsed": collapsed},
        }
        for family in FAMILIES:
            if family.kind == "counter" and family.name in counted:
                found[family.name] = dict.fromkeys(family.known, (0,)) | _series(counted[family.name])
        return found


def _series(counts: int | Mapping[str | tuple[str, ...], int]) -> dict[tuple[str, ...], tuple[float, ...]]:
    if isinstance(counts, int):
        return {(): (counts,)}
    return {labels if isinstance(labels, tuple) else (labels,): (count,) for labels, count in counts.items()}
