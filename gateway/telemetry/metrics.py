"""What the gateway counts: plain integers on the request path, put together when somebody asks.

A `Snapshot` is what one process has counted, in a form that can be sent to another one, and
`metrics_text.render` makes one scrape of as many as there are. Counters and histograms add up, and so do
gauges of things that each process has of its own: connections, upstream connections and their bounds,
waiting requests, flights, memory bytes and entries, debts, queues, memory, descriptors. Gauges that do not:
``ready``, ``redis_up`` and ``redis_subscription_up`` are those of the worst process, ``redis_breaker_open``
is 1 when one is open, and the start is the earliest (`metrics_catalogue.Merge`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.caching.cache_status import HIT, CacheStatus, Reason, outcome, stage
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

_PLAIN_HIT = (HIT, "", "2xx")
_METHODS = frozenset(METHODS)
_OUTCOMES = (HIT, "miss", "bypass", ERROR)


class Histogram:
    """Durations counted by fixed upper bounds: one search and two additions each.

    Args:
        bounds_s: upper bounds, each included, ascending; beyond the last one everything is counted together.
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


class Value(msgspec.Struct, frozen=True, array_like=True):
    """A number under its label values, in the order of `metrics_catalogue.Family.labels`."""

    labels: tuple[str, ...]
    number: float


class Buckets(msgspec.Struct, frozen=True, array_like=True):
    """A histogram under its label values: how many fell under each bound alone, and the sum in seconds."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total_s: float


class Snapshot(msgspec.Struct, frozen=True):
    """What one process had counted at one moment, by family.

    Attributes:
        values: counters and gauges.
        histograms: histograms.
    """

    values: dict[str, list[Value]]
    histograms: dict[str, list[Buckets]]


def told(gauges: Mapping[str, float]) -> Snapshot:
    """Return numbers without labels as a snapshot, by their names in the catalogue."""
    return Snapshot({name: [Value((), float(number))] for name, number in gauges.items()}, {})


class Metrics:
    """Counters of one process; every label value comes from a fixed list.

    Attributes:
        requests: answered requests by (outcome, reason, status class), those below left out.
        fast_hits: hits with status 200 that went the fast lane.
        collapsed: requests answered by a fetch that another one had begun.
        stored: records handed to at least one tier.
        errors: answers that the gateway made itself, by code.
        throttled: answers with status 429, by who gave them.
        request_s: durations to the head of the answer by outcome.
        upstream_calls: requests sent upstream by method.
        upstream_failures: exchanges without a usable response, by RFC 9209 error type.
        upstream_s: durations to the upstream's head by status class.
        upstream_wait_s: waits for a place in the upstream pool.
        redis_failures: failed operations by (operation, kind).
        redis_s: durations by operation.
        redis_subscriptions: how often the subscription was confirmed.
        entries_refused: look-ups that found bytes which do not verify.
        not_stored: fetches that were not stored in a tier, by cause.
        forgotten: stacks forgotten, by cause.
        unanswered: requests whose caller left before the answer, or that a drain cut.
        bad_requests: requests refused before they were understood, by status.
        connections_refused: connections beyond the bound.
        connections_unfit: connections closed for want of a PROXY protocol header, by `Unfit`.
        loop_lag_s: how late the event loop was, once a second.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.fast_hits = 0
        self.collapsed = 0
        self.stored = 0
        self.errors: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.aborted = 0
        self.request_s = {how: Histogram(UPSTREAM_BOUNDS_S) for how in _OUTCOMES}
        self.upstream_calls: Counter[str] = Counter()
        self.upstream_failures: Counter[str] = Counter()
        self.upstream_s = {status: Histogram(UPSTREAM_BOUNDS_S) for status in (*STATUS_CLASSES, NO_STATUS)}
        self.upstream_wait_s = Histogram(UPSTREAM_BOUNDS_S)
        self.redis_failures: Counter[tuple[str, str]] = Counter()
        self.redis_s = {operation: Histogram(REDIS_BOUNDS_S) for operation in OPERATIONS}
        self.redis_subscriptions = 0
        self.entries_refused = 0
        self.not_stored: Counter[str] = Counter()
        self.forgotten: Counter[str] = Counter()
        self.bad_requests: Counter[str] = Counter()
        self.connections_refused = 0
        self.connections_unfit: Counter[str] = Counter()
        self.loop_lag_s = Histogram(LOOP_BOUNDS_S)

    def answered(self, cache_status: CacheStatus | None, status: int, took_s: float) -> None:
        """Count an answer.

        Args:
            verdict: what the cache did; ``None`` when the gateway answered for itself.
            status: of the answer.
            took_s: from the parsed request to the answer's head.
        """
        reason = (
            cache_status.reason.value if cache_status is not None and cache_status.reason is not None else ""
        )
        how = ERROR if cache_status is None else outcome(cache_status)
        self.requests[how, reason, f"{status // 100}xx"] += 1
        self.request_s[how].observe(took_s)
        if status == 429:
            self.throttled[GATEWAY if cache_status is None else UPSTREAM] += 1
        if cache_status is None:
            return
        if cache_status.collapsed:
            self.collapsed += 1
        elif cache_status.stored:
            self.stored += 1

    def called(self, method: str, waited_s: float) -> None:
        """Count a request sent upstream and its wait; methods that callers make up count together."""
        self.upstream_wait_s.observe(waited_s)
        self.upstream_calls[method if method in _METHODS else "other"] += 1

    def redis_took(self, operation: str, took_s: float) -> None:
        """Note how long a Redis operation took, failed ones too."""
        self.redis_s[operation].observe(took_s)

    def responded(self, status: int | None, took_s: float, error: str = "") -> None:
        """Note how long the upstream took to its head, or to its failure.

        Args:
            status: of the answer; ``None`` when it gave no usable one.
            took_s: from the place in the pool on.
            error: type of the failure (RFC 9209).
        """
        del error
        name = NO_STATUS if status is None else f"{status // 100}xx"
        self.upstream_s.get(name, self.upstream_s[NO_STATUS]).observe(took_s)

    def snapshot(self, gauges: Mapping[str, float], build: tuple[str, ...] = ()) -> Snapshot:
        """Return everything that was counted.

        Args:
            readings: gauges, and counters that are kept elsewhere, by their name in the catalogue.
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
        refusals: Counter[tuple[str, ...]] = Counter()
        hits = 0
        for (how, reason, _), count in requests.items():
            hits += count if how == HIT else 0
            if reason:
                refusals[stage(Reason(reason)), reason] += count
        return {
            "requests": dict(requests.items()),
            "refusals": refusals,
            "errors": _by_one(self.errors),
            "throttled": _by_one(self.throttled),
            "unanswered": {(): self.aborted},
            "bad_requests": _by_one(self.bad_requests),
            "upstream_calls_saved": {(HIT,): hits, ("collapsed",): self.collapsed},
            "records_stored": {(): self.stored},
            "not_stored": _by_one(self.not_stored),
            "forgotten": _by_one(self.forgotten),
            "entries_refused": {(): self.entries_refused},
            "connections_refused": {(): self.connections_refused},
            "connections_unfit": _by_one(self.connections_unfit),
            "upstream_calls": _by_one(self.upstream_calls),
            "upstream_failures": _by_one(self.upstream_failures),
            "redis_subscriptions": {(): self.redis_subscriptions},
            "redis_failures": dict(self.redis_failures.items()),
        }

    def _histograms(self) -> dict[str, list[Buckets]]:
        return {
            "request_duration_seconds": _buckets(self.request_s.items()),
            "upstream_duration_seconds": _buckets(self.upstream_s.items()),
            "upstream_wait_seconds": _buckets([(None, self.upstream_wait_s)]),
            "redis_duration_seconds": _buckets(self.redis_s.items()),
            "loop_lag_seconds": _buckets([(None, self.loop_lag_s)]),
        }


def _by_one(counts: Counter[str]) -> dict[tuple[str, ...], float]:
    return {(value,): count for value, count in counts.items()}


def _buckets(histograms: Iterable[tuple[str | None, Histogram]]) -> list[Buckets]:
    return [
        Buckets(() if value is None else (value,), tuple(one.counts), one.total_s)
        for value, one in histograms
    ]
