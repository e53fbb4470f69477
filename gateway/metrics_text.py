"""One scrape from what one or several processes have counted; the only user of prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from gateway.metrics_catalogue import FAMILIES, Family, Kind, Merge

_MERGES: dict[Merge, Callable[[list[float]], float]] = {
    Merge.SUM: sum,
    Merge.LEAST: min,
    Merge.GREATEST: max,
}


def render(snapshots: Sequence[Snapshot]) -> tuple[bytes, str]:
    """Put the snapshots of all processes together.

    Args:
        snapshots: one of each process.

    Returns:
        The body and its content type.
    """
    registry = CollectorRegistry()
    registry.register(_Families(snapshots))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Families(Collector):
    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.kind is Kind.HISTOGRAM:
                yield self._histogram(family)
            elif values := self._values(family):
                make = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
                metric = make(family.full_name, family.about, labels=family.labels)
                for labels, number in values.items():
                    metric.add_metric(labels, number)
                yield metric

    def _values(self, family: Family) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], list[float]] = {}
        for snapshot in self._snapshots:
            for value in snapshot.values.get(family.name, ()):
                found.setdefault(value.labels, []).append(value.number)
        merge = _MERGES[family.merge]
        return {labels: merge(numbers) for labels, numbers in found.items()}

    def _histogram(self, family: Family) -> HistogramMetricFamily:
        counts: dict[tuple[str, ...], list[int]] = {}
        totals_s: dict[tuple[str, ...], float] = {}
        for snapshot in self._snapshots:
            for one in snapshot.histograms.get(family.name, ()):
                before = counts.get(one.labels, [0] * len(one.counts))
                counts[one.labels] = [old + new for old, new in zip(before, one.counts, strict=True)]
                totals_s[one.labels] = totals_s.get(one.labels, 0.0) + one.total_s
        metric = HistogramMetricFamily(family.full_name, family.about, labels=family.labels)
        bounds = [*(f"{bound:g}" for bound in family.bounds_s), "+Inf"]
        for labels, numbers in counts.items():
            metric.add_metric(
                labels, list(zip(bounds, accumulate(numbers), strict=True)), sum_value=totals_s[labels]
            )
        return metric
