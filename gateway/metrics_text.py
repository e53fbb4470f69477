"""One scrape from what one or several processes have counted; the only user of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from gateway.metrics import Snapshot
from gateway.metrics_catalogue import FAMILIES, Family, Kind
from gateway.metrics_merge import merged


def render(snapshots: Sequence[Snapshot]) -> tuple[bytes, str]:
    """Put the snapshots of all processes together.

    Args:
        snapshots: one of each process.

    Returns:
        The body and its content type.
    """
    registry = CollectorRegistry()
    registry.register(_Families(merged(snapshots)))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.name in self._snapshot.histograms:
                yield self._histogram(family)
            elif values := self._snapshot.values.get(family.name):
                make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
                metric = make(family.full_name, family.about, labels=family.labels)
                for one in values:
                    metric.add_metric(one.labels, one.number)
                yield metric

    def _histogram(self, family: Family) -> HistogramMetricFamily:
        metric = HistogramMetricFamily(family.full_name, family.about, labels=family.labels)
        bounds = [*(f"{bound:g}" for bound in family.bounds_s), "+Inf"]
        for one in self._snapshot.histograms[family.name]:
            counted = list(zip(bounds, accumulate(one.counts), strict=True))
            metric.add_metric(one.labels, counted, sum_value=one.total_s)
        return metric
