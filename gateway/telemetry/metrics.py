"""The counters of one process: plain integers on the request path, made into a `Snapshot` for each scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from gateway.core.caching.cache_status import HIT, CacheStatus, Reason, outcome
from gateway.telemetry.metrics_catalogue import (
    ERROR,
    FAMILIES,
    GATEWAY,
    LOOP_BOUNDS_S,
    METHODS,
    NO_STATUS,
    OPERATIONS,
    REDIS_BOUNDS_S,
    STATUS_CLASSES,
    UPSTREAM,
    UPSTREAM_BOUNDS_S,
    Kind,
)
from gateway.telemetry.snapshot import Buckets, Snapshot, Value

_PLAIN_HIT = (HIT, "", "2xx")
_METHODS = frozenset(METHODS)
_OUTCOMES = (HIT, "miss", "bypass", ERROR)


class Histogram:
    """Counts durations in buckets.

    Args:
        bounds_s: inclusive upper bounds, ascending; one more bucket is for what lies beyond the last.
    """

    __slots__ = ("bounds_s", "counts", "total_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        self.total_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.total_s += duration_s


class Metrics:
    """Counters of one process; every label value comes from a fixed list.

    Attributes:
        requests: requests by (outcome, reason, status class), without `fast_hits`.
        fast_hits: hits with status 200 on the fast path.
        collapsed: requests that joined another one's fetch.
        stored: records stored in at least one tier.
        errors: error responses of the gateway itself, by code.
        throttled: responses with status 429, by origin.
        requests_aborted: requests without a response: the caller left, or the drain deadline passed.
        request_s: durations to the response head, by outcome.
        upstream_requests: requests sent upstream, by method.
        upstream_failures: exchanges without a usable response, by RFC 9209 error type.
        upstream_s: durations to the upstream's response head, by status class.
        upstream_wait_s: waits for a slot in the upstream pool.
        redis_failures: failed operations, by (operation, kind).
        redis_s: durations, by operation.
        redis_subscriptions: how often the subscription was confirmed.
        entries_invalid: look-ups whose entry failed verification.
        not_stored: records that could not be stored in a tier, by cause.
        invalidations: stacks invalidated, by cause.
        bad_requests: requests rejected as malformed or too large, by status.
        connections_refused: connections closed because the limit was reached.
        connections_unfit: connections without a valid PROXY protocol header, by `Unfit`.
        event_loop_lag_s: delay of a timer, once a second.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.fast_hits = 0
        self.collapsed = 0
        self.stored = 0
        self.errors: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.requests_aborted = 0
        self.request_s = {how: Histogram(UPSTREAM_BOUNDS_S) for how in _OUTCOMES}
        self.upstream_requests: Counter[str] = Counter()
        self.upstream_failures: Counter[str] = Counter()
        self.upstream_s = {status: Histogram(UPSTREAM_BOUNDS_S) for status in (*STATUS_CLASSES, NO_STATUS)}
        self.upstream_wait_s = Histogram(UPSTREAM_BOUNDS_S)
        self.redis_failures: Counter[tuple[str, str]] = Counter()
        self.redis_s = {operation: Histogram(REDIS_BOUNDS_S) for operation in OPERATIONS}
        self.redis_subscriptions = 0
        self.entries_invalid = 0
        self.not_stored: Counter[str] = Counter()
        self.invalidations: Counter[str] = Counter()
        self.bad_requests: Counter[str] = Counter()
        self.connections_refused = 0
        self.connections_unfit: Counter[str] = Counter()
        self.event_loop_lag_s = Histogram(LOOP_BOUNDS_S)

    def answered(self, cache_status: CacheStatus | None, status: int, duration_s: float) -> None:
        """Count a response.

        Args:
            cache_status: what the cache did; ``None`` for a response of the gateway itself.
            status: of the response.
            duration_s: from the parsed request to the response head.
        """
        how = ERROR if cache_status is None else outcome(cache_status)
        reason = None if cache_status is None else cache_status.reason
        self.requests[how, "" if reason is None else reason.label, f"{status // 100}xx"] += 1
        self.request_s[how].observe(duration_s)
        if status == 429:
            self.throttled[GATEWAY if cache_status is None else UPSTREAM] += 1
        if cache_status is None:
            return
        if cache_status.collapsed:
            self.collapsed += 1
        elif cache_status.stored:
            self.stored += 1

    def called(self, method: str, waited_s: float) -> None:
        """Count a request sent upstream and its wait; unknown methods count as ``other``."""
        self.upstream_wait_s.observe(waited_s)
        self.upstream_requests[method if method in _METHODS else "other"] += 1

    def redis_took(self, operation: str, duration_s: float) -> None:
        """Count the duration of a Redis operation, failed or not."""
        self.redis_s[operation].observe(duration_s)

    def responded(self, status: int | None, duration_s: float, error: str = "") -> None:
        """Count the time to the upstream's response head or failure.

        Args:
            status: of the response; ``None`` when there was no usable one.
            duration_s: since the exchange got its slot in the pool.
            error: type of the failure (RFC 9209); for subclasses.
        """
        del error
        name = NO_STATUS if status is None else f"{status // 100}xx"
        self.upstream_s.get(name, self.upstream_s[NO_STATUS]).observe(duration_s)

    def snapshot(self, gauges: Mapping[str, float], build: tuple[str, ...] = ()) -> Snapshot:
        """Return everything that was counted.

        Args:
            gauges: values kept elsewhere, counters too, by their name in the catalogue.
            build: label values of ``build_info``; empty leaves it out.
        """
        counted = self._counted()
        values: dict[str, list[Value]] = {}
        for family in FAMILIES:
            if family.kind is Kind.HISTOGRAM:
                continue
            if family.name in gauges:
                values[family.name] = [Value((), float(gauges[family.name]))]
            elif family.name in counted:
                numbers = {**dict.fromkeys(family.known, 0.0), **counted[family.name]}
                values[family.name] = [Value(labels, number) for labels, number in numbers.items()]
        if build:
            values["build_info"] = [Value(build, 1.0)]
        return Snapshot(values, self._histograms())

    def _counted(self) -> dict[str, Mapping[tuple[str, ...], float]]:
        requests = self.requests + Counter({_PLAIN_HIT: self.fast_hits})
        uncached: Counter[tuple[str, ...]] = Counter()
        hits = 0
        for (how, reason, _), count in requests.items():
            hits += count if how == HIT else 0
            if reason:
                uncached[Reason(reason).stage, reason] += count
        return {
            "requests": dict(requests.items()),
            "uncached": uncached,
            "errors": _by_label(self.errors),
            "throttled": _by_label(self.throttled),
            "requests_aborted": {(): self.requests_aborted},
            "bad_requests": _by_label(self.bad_requests),
            "upstream_requests_saved": {(HIT,): hits, ("collapsed",): self.collapsed},
            "records_stored": {(): self.stored},
            "not_stored": _by_label(self.not_stored),
            "invalidations": _by_label(self.invalidations),
            "entries_invalid": {(): self.entries_invalid},
            "connections_refused": {(): self.connections_refused},
            "connections_unfit": _by_label(self.connections_unfit),
            "upstream_requests": _by_label(self.upstream_requests),
            "upstream_failures": _by_label(self.upstream_failures),
            "redis_subscriptions": {(): self.redis_subscriptions},
            "redis_failures": dict(self.redis_failures.items()),
        }

    def _histograms(self) -> dict[str, list[Buckets]]:
        return {
            "request_duration_seconds": _buckets(self.request_s.items()),
            "upstream_duration_seconds": _buckets(self.upstream_s.items()),
            "upstream_wait_seconds": _buckets([(None, self.upstream_wait_s)]),
            "redis_duration_seconds": _buckets(self.redis_s.items()),
            "event_loop_lag_seconds": _buckets([(None, self.event_loop_lag_s)]),
        }


def _by_label(counts: Counter[str]) -> dict[tuple[str, ...], float]:
    return {(value,): count for value, count in counts.items()}


def _buckets(histograms: Iterable[tuple[str | None, Histogram]]) -> list[Buckets]:
    return [
        Buckets(() if value is None else (value,), tuple(one.counts), one.total_s)
        for value, one in histograms
    ]
