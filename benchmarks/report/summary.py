"""The little statistics that results need: medians with spread, ratios of paired rounds, percentiles."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What several rounds came to.

    Attributes:
        median: the middle one.
        low: the least.
        high: the greatest.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return median, least and greatest; `None` when there are no values."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(values: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """Return the ratio of each round to the other's round of the same number.

    Rounds are interleaved, so that what disturbs the machine for a while is in both and goes out of the
    ratio. A round that one of them has not, or that divides by nothing, is left out.
    """
    pairs = zip(values, others, strict=False)
    return [value / other for value, other in pairs if value is not None and other]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return the usual percentiles by the nearest rank, and the greatest value; empty without values."""
    if not values:
        return {}
    ordered = sorted(values)
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    found = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in ranks.items()}
    return {**found, "max": ordered[-1]}
