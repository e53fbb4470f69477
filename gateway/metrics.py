"""What the gateway counts: plain integers on the request path, Prometheus text at scrape time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

_PLAIN_HIT = ("hit", "", "2xx")

Gauges = Callable[[], dict[str, float]]

_GAUGE_HELP = {
    "memory_bytes": "Bytes held by the memory tier.",
    "memory_entries": "Entries held by the memory tier.",
    "connections": "Open downstream connections.",
    "upstream_connections": "Upstream connections in use.",
    "upstream_parked": "Those of them that wait for a caller who sends or reads slowly.",
    "upstream_waiting": "Requests waiting for an upstream connection.",
    "flights": "Shared fetches under way.",
    "redis_breaker_open": "1 while requests do not wait for Redis, because it failed too often.",
    "redis_up": "1 when the last Redis operation succeeded, 0 when it failed.",
    "redis_subscription_up": "1 while forgets of other replicas are heard.",
    "redis_debts": "Stacks that Redis must still be told to forget.",
    "redis_queue": "Stores waiting to be sent to Redis.",
}


class Metrics:
    """Counters of one process; every label value comes from a fixed list.

    Attributes:
        requests: answered requests by (outcome, reason, status class), those below left out.
        fast_hits: hits with status 200 that went the fast lane.
        upstream_calls: requests sent upstream by method.
        upstream_failures: exchanges without a usable response, by RFC 9209 error type.
        redis_failures: failed operations by (operation, kind).
        entries_refused: look-ups that found bytes which do not verify.
        not_stored: fetches that were not stored in a tier, by cause.
        forgotten: stacks forgotten, by cause.
        bad_requests: requests refused before they were understood, by status.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.fast_hits = 0
        self.upstream_calls: Counter[str] = Counter()
        self.upstream_failures: Counter[str] = Counter()
        self.redis_failures: Counter[tuple[str, str]] = Counter()
        self.entries_refused = 0
        self.not_stored: Counter[str] = Counter()
        self.forgotten: Counter[str] = Counter()
        self.bad_requests: Counter[str] = Counter()

    def text(self, gauges: Gauges) -> tuple[bytes, str]:
        """Render everything for a scrape.

        Args:
            gauges: returns the current values by name, without prefix.

        Returns:
            The body and its content type.
        """
        registry = CollectorRegistry()
        registry.register(_Families(self, gauges))
        return generate_latest(registry), CONTENT_TYPE_LATEST


class _Families(Collector):
    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily(
            "aos_gateway_requests",
            "Answered requests; reason is empty when there is nothing to say.",
            labels=["outcome", "reason", "status"],
        )
        answered = metrics.requests + Counter({_PLAIN_HIT: metrics.fast_hits})
        for (outcome, reason, status), count in answered.items():
            requests.add_metric([outcome, reason, status], count)
        yield requests
        yield _by_label("upstream_calls", "Requests sent upstream.", "method", metrics.upstream_calls)
        yield _by_label(
            "upstream_failures", "Exchanges without a usable response.", "error", metrics.upstream_failures
        )
        failures = CounterMetricFamily(
            "aos_gateway_redis_failures", "Failed Redis operations.", labels=["operation", "kind"]
        )
        for (operation, kind), count in metrics.redis_failures.items():
            failures.add_metric([operation, kind], count)
        yield failures
        refused = CounterMetricFamily("aos_gateway_entries_refused", "Stored bytes that did not verify.")
        refused.add_metric([], metrics.entries_refused)
        yield refused
        yield _by_label("not_stored", "Records that did not reach a tier.", "cause", metrics.not_stored)
        yield _by_label("forgotten", "Stacks forgotten.", "cause", metrics.forgotten)
        yield _by_label("bad_requests", "Requests refused before forwarding.", "status", metrics.bad_requests)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"aos_gateway_{name}", _GAUGE_HELP[name], value=value)


def _by_label(name: str, text: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"aos_gateway_{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
