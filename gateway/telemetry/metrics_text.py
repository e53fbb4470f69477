"""Encodes a snapshot for Prometheus; the only user of prometheus_client."""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway.telemetry.metrics_catalogue import FAMILIES
from gateway.telemetry.snapshot import Snapshot

_Format = tuple[Callable[[Collector], bytes], str]
_TEXT: Final[_Format] = (generate_latest, CONTENT_TYPE_PLAIN_0_0_4)
_OPENMETRICS: Final[_Format] = (openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST)
# By media type and version; a type without one stands for any (RFC 9110 section 12.5.1).
_FORMATS: Final = {
    ("application/openmetrics-text", ""): _OPENMETRICS,
    ("application/openmetrics-text", "1.0.0"): _OPENMETRICS,
    ("text/plain", ""): _TEXT,
    ("text/plain", "0.0.4"): _TEXT,
    ("text/*", ""): _TEXT,
    ("*/*", ""): _TEXT,
}
_QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """Return a snapshot as text and its content type: OpenMetrics 1.0 if ``Accept`` prefers it, or 0.0.4."""
    encode, content_type = _preferred(accept)
    return encode(_Families(snapshot)), content_type


def _preferred(accept: str) -> _Format:
    best, best_q = _TEXT, 0.0
    for member in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in member.split(";"))
        named = {
            name.strip(): value.strip() for name, _, value in (each.partition("=") for each in parameters)
        }
        q = named.get("q", "1")
        found = _FORMATS.get((media_type, named.get("version", "").strip('"')))
        # The first of equal weight.
        if found is not None and _QVALUE.fullmatch(q) and float(q) > best_q:
            best, best_q = found, float(q)
    return best


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            series = self._snapshot.get(family.name)
            if not series:
                continue
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.full_name, family.about, labels=family.labels)
                bounds = [*(f"{bound:g}" for bound in family.bounds_s), "+Inf"]
                for labels, (*counts, total_s) in series.items():
                    buckets = list(zip(bounds, accumulate(counts), strict=True))
                    histogram.add_metric(labels, buckets, sum_value=total_s)
                yield histogram
            else:
                make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                metric = make(family.full_name, family.about, labels=family.labels)
                for labels, (number,) in series.items():
                    metric.add_metric(labels, number)
                yield metric
