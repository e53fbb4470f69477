"""One scrape for several workers: what each has counted, put together sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_ADDED_UP = frozenset({"counter", "histogram", "summary"})
# Gauges that say yes or no of each worker: all have to be up, and one that is open or informs speaks for all.
_LEAST_ENDINGS = ("_up",)
_MOST_ENDINGS = ("_open", "_info", "_seconds", "_success")

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Summed:
    """Metrics of several processes as one.

    Counters, histograms and gauges are added up; gauges whose name ends in ``_up`` keep the least, those in
    ``_open``, ``_info``, ``_success`` or ``_seconds`` the largest value.
    """

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._values: dict[str, dict[_Key, float]] = {}

    def copy(self) -> Summed:
        """Return another one with the same values."""
        copied = Summed()
        copied._families = dict(self._families)
        copied._values = {name: dict(values) for name, values in self._values.items()}
        return copied

    def add(self, text: bytes, *, only_counts: bool = False) -> None:
        """Add what one process tells in the text format.

        Args:
            text: as scraped.
            only_counts: leave gauges out: the process has ended.
        """
        for family in text_string_to_metric_families(text.decode("utf-8")):
            if only_counts and family.type not in _ADDED_UP:
                continue
            self._families.setdefault(family.name, family)
            values = self._values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                known = values.get(key)
                values[key] = sample.value if known is None else _joined(family, known, sample.value)

    def text(self) -> tuple[bytes, str]:
        """Return everything in the text format, and its content type."""
        registry = CollectorRegistry()
        registry.register(_Families(self._collect))
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def _collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            summed = Metric(name, family.documentation, family.type)
            summed.samples = [
                Sample(sample_name, dict(labels), value)
                for (sample_name, labels), value in self._values[name].items()
            ]
            yield summed


class _Families(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def gauges_text(values: dict[str, tuple[str, float]]) -> bytes:
    """Return gauges in the text format.

    Args:
        values: help and value by name without prefix; a name that ends in ``_total`` is a counter.
    """
    lines = []
    for name, (about, value) in values.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        full = f"aos_gateway_{name}"
        lines += [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {value:g}"]
    return ("\n".join(lines) + "\n").encode()


def _joined(family: Metric, one: float, other: float) -> float:
    if family.type in _ADDED_UP:
        return one + other
    if family.name.endswith(_LEAST_ENDINGS):
        return min(one, other)
    if family.name.endswith(_MOST_ENDINGS):
        return max(one, other)
    return one + other
