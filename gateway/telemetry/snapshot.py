"""What one process has counted at one moment, in a form that can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Value(msgspec.Struct, frozen=True, array_like=True):
    """A number under its label values, in the order of `metrics_catalogue.Family.labels`."""

    labels: tuple[str, ...]
    number: float


class Buckets(msgspec.Struct, frozen=True, array_like=True):
    """A histogram under its label values: the count of each bucket alone, and the sum in seconds."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total_s: float


class Snapshot(msgspec.Struct, frozen=True):
    """Counters, gauges and histograms by family.

    Attributes:
        values: counters and gauges.
        histograms: histograms.
    """

    values: dict[str, list[Value]]
    histograms: dict[str, list[Buckets]]

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Snapshot:
        """Return numbers without labels as a snapshot, by their names in the catalogue."""
        return cls({name: [Value((), float(number))] for name, number in numbers.items()}, {})
