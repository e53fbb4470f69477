"""The metrics of all processes at points in time, and what was counted between two of them."""

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from gateway.telemetry.metrics_catalogue import FAMILIES
from gateway.telemetry.snapshot import Snapshot

STEP_S = 5.0
"""Between two samples of the timeline."""

STEPS = 60
_RECENT = 40
# Samples may be a little early or late: without slack, the sample a second before would be taken.
_SLACK_S = 0.3
_LABELS = {family.name: family.labels if family.kind != "histogram" else ("le",) for family in FAMILIES}

Series = tuple[str, ...]
"""A family's name in the catalogue, then its label values; of a histogram the upper bound of a bucket."""


class Sample(msgspec.Struct, frozen=True):
    """All metrics at one moment, in monotonic seconds: counters, gauges, each histogram bucket alone.

    Those that are 0 are left out, but not of gauges with labels.
    """

    at_s: float
    values: Mapping[Series, float]

    @classmethod
    def of(cls, snapshot: Snapshot, at_s: float) -> "Sample":
        """Return a snapshot as a sample; buckets are summed over the labels."""
        values: defaultdict[Series, float] = defaultdict(float)
        for family in FAMILIES:
            for labels, numbers in snapshot.get(family.name, {}).items():
                if family.kind != "histogram":
                    if numbers[0] or (labels and family.kind == "gauge"):
                        values[family.name, *labels] = numbers[0]
                    continue
                for bound, count in zip(buckets(family.bounds_s), numbers[:-1], strict=True):
                    if count:
                        values[family.name, bound] += count
        return cls(at_s, values)

    def gauge(self, name: str) -> float:
        """Return a gauge without labels; 0 when there is none."""
        return self.values.get((name,), 0.0)

    def by_label(self, name: str) -> dict[str, float]:
        """Return a gauge with one label by its values."""
        return {labels[0]: value for (family, *labels), value in self.values.items() if family == name}


class Change(msgspec.Struct, frozen=True):
    """The counters that rose between two samples, ``over_s`` seconds apart."""

    over_s: float
    counts: Mapping[Series, float]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a family's series with these labels."""
        return sum(count for _, count in self._series(name, labels))

    def by_label(self, name: str, label: str, **labels: str) -> defaultdict[str, float]:
        """Return the sums of a family's series with these labels by the values of another label."""
        sums: defaultdict[str, float] = defaultdict(float)
        for found, count in self._series(name, labels):
            sums[found[label]] += count
        return sums

    def _series(self, name: str, expected: Mapping[str, str]) -> Iterator[tuple[dict[str, str], float]]:
        for (family, *values), count in self.counts.items():
            if family == name:
                labels = dict(zip(_LABELS[name], values, strict=True))
                if expected.items() <= labels.items():
                    yield labels, count


class History:
    """The samples of the last minutes."""

    def __init__(self) -> None:
        self._timeline: deque[Sample] = deque(maxlen=STEPS + 1)
        self._recent: deque[Sample] = deque(maxlen=_RECENT)

    def add(self, sample: Sample, *, is_step: bool) -> None:
        """Add a sample; `is_step` says that it ends a step of the timeline."""
        self._recent.append(sample)
        if is_step or not self._timeline:
            self._timeline.append(sample)

    @property
    def is_empty(self) -> bool:
        """No sample was taken yet."""
        return not self._recent

    @property
    def newest(self) -> Sample:
        return self._recent[-1]

    def since(self, ago_s: float) -> Change:
        """Return what was counted from this long before the newest sample, or from the oldest one kept."""
        wanted_s = self.newest.at_s - ago_s + _SLACK_S
        older = (sample for sample in self.kept() if sample.at_s <= wanted_s)
        start = max(older, key=lambda sample: sample.at_s, default=self._timeline[0])
        return change(start, self.newest)

    def recent(self, ago_s: float) -> list[Sample]:
        """Return the samples of this long before the newest one, oldest first."""
        return [sample for sample in self._recent if sample.at_s >= self.newest.at_s - ago_s]

    def kept(self) -> Iterator[Sample]:
        """Yield every sample kept, some of them twice, in no order."""
        yield from self._timeline
        yield from self._recent

    def steps(self) -> Iterator[Change]:
        """Yield what was counted in each step, oldest first, up to now."""
        samples = list(self._timeline)
        if samples and samples[-1] is not self.newest:
            samples.append(self.newest)
        for start, end in itertools.pairwise(samples):
            yield change(start, end)


def change(start: Sample, end: Sample) -> Change:
    """Return what was counted between two samples; a counter that fell was reset to 0 in between."""
    counts = {}
    for series, value in end.values.items():
        before = start.values.get(series, 0.0)
        if rise := value - before if value >= before else value:
            counts[series] = rise
    return Change(end.at_s - start.at_s, counts)


def buckets(bounds_s: Sequence[float]) -> list[str]:
    """Return the label of each bucket of a histogram."""
    return [f"{bound_s:g}" for bound_s in (*bounds_s, math.inf)]


def quantile_s(bounds_s: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Return a quantile of a histogram in seconds, interpolated linearly within its bucket.

    Args:
        bounds_s: upper bounds of the buckets, ascending.
        counts: of each bucket alone; one more than bounds, for what lies beyond the last.
        share: 0 to 1.

    Returns:
        The last bound if the quantile lies beyond it; ``None`` if nothing was measured.
    """
    left = share * sum(counts)
    if not left:
        return None
    low_s = 0.0
    for bound_s, count in zip(bounds_s, counts, strict=False):
        if count >= left:
            return low_s + (bound_s - low_s) * left / count
        left -= count
        low_s = bound_s
    return low_s
