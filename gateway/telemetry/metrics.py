"""The counters of one process: plain integers on the request path, made into a `Snapshot` for each scrape."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any

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


class Metrics:
    """Counters of one process, named and labelled as in the catalogue; label values come from fixed lists.

    Attributes:
        fast_hits: hits with status 200 on the fast path, which `requests` leaves out.
        fast_running_hits: those of them whose record may still change.
        collapsed: requests that joined another one's fetch.
        running_polls: fetches that showed an execution which had not ended.
        running_polls_avoidable: those of them that a copy, kept for a second, would have spared.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.fast_hits = 0
        self.fast_running_hits = 0
        self.collapsed = 0
        self.running_polls = 0
        self.running_polls_avoidable = 0
        self.records_stored = 0
        self.errors: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.requests_aborted = 0
        self.upstream_requests: Counter[str] = Counter()
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
        self.upstream_wait_s = self._histograms["upstream_wait_seconds"][()]
        self.wake_s = self._histograms["wake_duration_seconds"][()]
        self.redis_s = self._histograms["redis_duration_seconds"]
        self.event_loop_lag_s = self._histograms["event_loop_lag_seconds"][()]

    def answered(self, cache_status: CacheStatus | None, status: int, duration_s: float) -> None:
        """Count a response.

        Args:
            cache_status: what the cache did; ``None`` for a response of the gateway itself.
            duration_s: from the parsed request to the response head, without what its caller asked to wait.
        """
        reason = cache_status.reason if cache_status is not None else None
        how = outcome(cache_status)
        self.requests[how, reason.label if reason is not None else "", _CLASSES[status]] += 1
        self.request_s[how,].observe(duration_s)
        if status == 429:
            self.throttled[GATEWAY if how == ERROR else UPSTREAM] += 1
        if cache_status is None:
            return
        if cache_status.collapsed:
            self.collapsed += 1
        elif cache_status.stored:
            self.records_stored += 1

    def called(self, method: str, waited_s: float) -> None:
        """Count a request sent upstream and its wait; unknown methods count as ``other``."""
        if waited_s:
            self.upstream_wait_s.observe(waited_s)
        else:
            self.upstream_wait_s.counts[0] += 1
        self.upstream_requests[method if method in METHODS else "other"] += 1

    def redis_took(self, operation: str, duration_s: float) -> None:
        """Count the duration of a Redis operation, failed or not."""
        self.redis_s[operation,].observe(duration_s)

    def responded(self, status: int | None, duration_s: float) -> None:
        """Count the time from a slot in the pool to the upstream's response head or failure.

        Args:
            status: of the response; ``None`` when there was no usable one.
            duration_s: since the exchange got its slot in the pool.
        """
        self.upstream_s[NO_STATUS if status is None else _CLASSES[status],].observe(duration_s)

    def snapshot(self) -> Snapshot:
        found: Snapshot = {
            name: {labels: (*one.counts, one.total_s) for labels, one in histograms.items()}
            for name, histograms in self._histograms.items()
        }
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
            "uncached": uncached,
            "upstream_requests_saved": {HIT: hits, "collapsed": self.collapsed},
        }
        for family in FAMILIES:
            if family.kind == "counter" and family.name in counted:
                found[family.name] = dict.fromkeys(family.known, (0,)) | _series(counted[family.name])
        return found


def _series(counts: int | Mapping[str | tuple[str, ...], int]) -> dict[tuple[str, ...], tuple[float, ...]]:
    if isinstance(counts, int):
        return {(): (counts,)}
    return {labels if isinstance(labels, tuple) else (labels,): (count,) for labels, count in counts.items()}
