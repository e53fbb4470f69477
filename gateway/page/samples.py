"""What the gateway counted, at points in time: read from its own scrape, so all its processes are in it."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import msgspec

STEP_S = 5.0
"""Between two samples of the timeline."""

STEPS = 60
_RECENT = 40
# Samples come a little early or late; the one a second further back would tell of what is over.
_SLACK_S = 0.3
_LINE = re.compile(r"^aos_gateway_([a-z0-9_]+(?:\{.*\})?) (\S+)$", re.MULTILINE)
_SERIES = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})?")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Sample(msgspec.Struct, frozen=True):
    """All values at one moment.

    Attributes:
        at_s: monotonic seconds.
        values: by series as the scrape writes it, without prefix; what is 0 is left out.
    """

    at_s: float
    values: Mapping[str, float]

    def gauge(self, name: str) -> float:
        """Return a gauge without labels; 0 when there is none."""
        return self.values.get(name, 0.0)


class Change(msgspec.Struct, frozen=True):
    """What was counted between two samples.

    Attributes:
        over_s: seconds between them.
        counts: by series; what did not rise is left out.
    """

    over_s: float
    counts: Mapping[str, float]

    def total(self, name: str, **wanted: str | Callable[[str], bool]) -> float:
        """Return the sum of a family's series whose labels are as wanted: a value, or a test for it."""
        return sum(
            count
            for series, count in self.counts.items()
            if (labels := labels_of(series, name)) is not None
            and all(_fits(labels.get(label, ""), wish) for label, wish in wanted.items())
        )

    def by_label(self, name: str, label: str, **wanted: str | Callable[[str], bool]) -> dict[str, float]:
        """Return the sums of a family by one label's values."""
        sums: dict[str, float] = {}
        for series, count in self.counts.items():
            labels = labels_of(series, name)
            if labels is not None and all(_fits(labels.get(key, ""), wish) for key, wish in wanted.items()):
                value = labels.get(label, "")
                sums[value] = sums.get(value, 0.0) + count
        return sums

    def histograms(self) -> dict[str, dict[float, float]]:
        """Return the cumulative buckets of each histogram in seconds, all labels but the bound summed."""
        found: dict[str, dict[float, float]] = {}
        for series, count in self.counts.items():
            name = series.partition("{")[0]
            if not name.endswith("_seconds_bucket"):
                continue
            labels = labels_of(series, name) or {}
            buckets = found.setdefault(name.removesuffix("_seconds_bucket"), {})
            bound_s = float(labels.get("le", "inf"))
            buckets[bound_s] = buckets.get(bound_s, 0.0) + count
        return found


class History:
    """The samples of the last minutes."""

    def __init__(self) -> None:
        self._timeline: deque[Sample] = deque(maxlen=STEPS + 1)
        self._recent: deque[Sample] = deque(maxlen=_RECENT)

    def add(self, sample: Sample, *, is_step: bool) -> None:
        """Take a sample; `is_step` says that it ends a step of the timeline."""
        self._recent.append(sample)
        if is_step or not self._timeline:
            self._timeline.append(sample)

    @property
    def is_empty(self) -> bool:
        """No sample was taken yet."""
        return not self._recent

    @property
    def newest(self) -> Sample:
        """The last sample taken; there has to be one."""
        return self._recent[-1]

    def since(self, ago_s: float) -> Change:
        """Return what was counted since so long before the newest sample, or since the first one kept."""
        newest = self.newest
        wanted_s = newest.at_s - ago_s + _SLACK_S
        older = [sample for sample in self.kept() if sample.at_s <= wanted_s]
        start = max(older, key=lambda sample: sample.at_s) if older else self._timeline[0]
        return change(start, newest)

    def recent(self, ago_s: float) -> list[Sample]:
        """Return the samples since so long before the newest one, oldest first."""
        return [sample for sample in self._recent if sample.at_s >= self.newest.at_s - ago_s]

    def kept(self) -> Iterator[Sample]:
        """Yield every sample there is, some of them twice, in no order."""
        yield from self._timeline
        yield from self._recent

    def steps(self) -> Iterator[Change]:
        """Yield what was counted in each step, oldest first, up to now."""
        samples = list(self._timeline)
        if samples and samples[-1] is not self.newest:
            samples.append(self.newest)
        for start, end in itertools.pairwise(samples):
            yield change(start, end)


def read(text: str, at_s: float) -> Sample:
    """Read a scrape in the Prometheus text format."""
    values = {}
    for series, number in _LINE.findall(text):
        value = float(number)
        if value and "_created" not in series:
            # The same few hundred names in every sample.
            values[sys.intern(series)] = value
    return Sample(at_s, values)


def change(start: Sample, end: Sample) -> Change:
    """Return what was counted between two samples; a counter that fell has begun anew."""
    counts = {}
    for series, value in end.values.items():
        before = start.values.get(series, 0.0)
        rise = value - before if value >= before else value
        if rise:
            counts[series] = rise
    return Change(end.at_s - start.at_s, counts)


def labels_of(series: str, name: str) -> dict[str, str] | None:
    """Return the labels of a series; ``None`` when it is of another family."""
    if not series.startswith(name):
        return None
    match = _SERIES.fullmatch(series)
    if match is None or match[1] != name:
        return None
    return dict(_LABEL.findall(match[2] or ""))


def quantile_s(buckets: Mapping[float, float], share: float) -> float | None:
    """Return a quantile of a histogram, evenly spread within its bucket, in seconds.

    Returns:
        The highest bound when it lies beyond; ``None`` when nothing was measured.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted = share * buckets[bounds[-1]]
    low_s, below = 0.0, 0.0
    for bound_s in bounds:
        count = buckets[bound_s]
        if count >= wanted:
            if math.isinf(bound_s):
                return low_s
            return low_s + (bound_s - low_s) * (wanted - below) / max(count - below, 1e-9)
        low_s, below = bound_s, count
    return low_s


def _fits(value: str, wish: str | Callable[[str], bool]) -> bool:
    return wish(value) if callable(wish) else value == wish
