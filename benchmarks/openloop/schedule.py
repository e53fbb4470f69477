"""When requests are due: fixed before the first one goes out, whatever happens later."""

from collections.abc import Iterator
from random import Random


def constant(rate_per_s: float, duration_s: float) -> Iterator[float]:
    """Give the due times of a constant rate, in seconds from the start.

    Each is computed from its number, not from the one before: no error adds up.
    """
    number = 0
    while (due_s := number / rate_per_s) < duration_s:
        yield due_s
        number += 1


def poisson(rate_per_s: float, duration_s: float, seed: int) -> Iterator[float]:
    """Give the due times of independent callers: gaps are drawn, the rate holds on average."""
    rng = Random(f"{seed}/schedule")
    due_s = rng.expovariate(rate_per_s)
    while due_s < duration_s:
        yield due_s
        due_s += rng.expovariate(rate_per_s)
