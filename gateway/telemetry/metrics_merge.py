"""Merges the snapshots of several processes by the rules of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.telemetry.metrics_catalogue import FAMILIES, Kind, Merge
from gateway.telemetry.snapshot import Buckets, Snapshot, Value

_MERGES: dict[Merge, Callable[[list[float]], float]] = {
    Merge.SUM: sum,
    Merge.LEAST: min,
    Merge.GREATEST: max,
}


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Merge snapshots: counters and histograms add up, gauges follow `Family.merge`.

    Args:
        snapshots: one of each process; a family that none has is left out.
    """
    values: dict[str, list[Value]] = {}
    histograms: dict[str, list[Buckets]] = {}
    for family in FAMILIES:
        if family.kind is Kind.HISTOGRAM:
            found = _histograms(one for each in snapshots for one in each.histograms.get(family.name, ()))
            if found:
                histograms[family.name] = found
        else:
            numbers = [one for each in snapshots for one in each.values.get(family.name, ())]
            if numbers:
                values[family.name] = _values(numbers, _MERGES[family.merge])
    return Snapshot(values, histograms)


def only_counts(snapshot: Snapshot) -> Snapshot:
    """Return the counters and histograms, which outlive their process."""
    counters = {family.name for family in FAMILIES if family.kind is Kind.COUNTER}
    values = {name: numbers for name, numbers in snapshot.values.items() if name in counters}
    return Snapshot(values, snapshot.histograms)


def _values(numbers: Iterable[Value], merge: Callable[[list[float]], float]) -> list[Value]:
    by_labels: dict[tuple[str, ...], list[float]] = {}
    for one in numbers:
        by_labels.setdefault(one.labels, []).append(one.number)
    return [Value(labels, merge(found)) for labels, found in by_labels.items()]


def _histograms(buckets: Iterable[Buckets]) -> list[Buckets]:
    by_labels: dict[tuple[str, ...], Buckets] = {}
    for one in buckets:
        before = by_labels.get(one.labels)
        if before is not None:
            counts = tuple(old + new for old, new in zip(before.counts, one.counts, strict=True))
            by_labels[one.labels] = Buckets(one.labels, counts, before.total_s + one.total_s)
        else:
            by_labels[one.labels] = one
    return list(by_labels.values())
