"""What one process has counted at one moment, in a form that can be sent to another and merged there."""

from collections.abc import Mapping, Sequence

from gateway.telemetry.metrics_catalogue import FAMILIES

Snapshot = dict[str, dict[tuple[str, ...], tuple[float, ...]]]
"""Numbers by family, then by label values in the order of `Family.labels`.

One number of a counter or gauge; of a histogram the count of each bucket alone, then the sum in seconds.
"""


def unlabelled(numbers: Mapping[str, float]) -> Snapshot:
    """Return numbers without labels, booleans too, as a snapshot, by their names in the catalogue."""
    return {name: {(): (float(number),)} for name, number in numbers.items()}


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Merge the snapshots of several processes by `Family.merge`; a family that none has is left out."""
    found: Snapshot = {}
    for family in FAMILIES:
        for snapshot in snapshots:
            for labels, numbers in snapshot.get(family.name, {}).items():
                series = found.setdefault(family.name, {})
                before = series.get(labels)
                series[labels] = numbers if before is None else tuple(map(family.merge, before, numbers))
    return found


def only_counts(snapshot: Snapshot) -> Snapshot:
    """Return the counters and histograms, which outlive their process."""
    return {
        family.name: snapshot[family.name]
        for family in FAMILIES
        if family.kind != "gauge" and family.name in snapshot
    }
