"""Results made by hand."""

from collections.abc import Sequence

from benchmarks.report.results import FORMAT, Measured, Result, Round, Row
from benchmarks.scenarios.scenario import Goal, Load


def row(contestant: str, costs_us: Sequence[float | None], x: float | None = None) -> Row:
    """A row with one cost a round; `None` is a round that does not count."""
    rounds = [
        Round(number, {}, "3 of 9 were no hits") if cost is None else Round(number, {"cost_us": cost})
        for number, cost in enumerate(costs_us, 1)
    ]
    return Row(contestant, x, rounds)


def measured(*rows: Row, goals: Sequence[Goal] = (), measure: str = "cost", x_key: str = "") -> Measured:
    """A scenario in which the rows' contestants took part in their order."""
    return Measured(
        name="hit",
        title="a hit",
        measure=measure,
        rounds=max((len(one.rounds) for one in rows), default=1),
        load=Load(),
        x_key=x_key,
        x_label="connections" if x_key else "",
        goals=list(goals),
        order=list(dict.fromkeys(one.contestant for one in rows)),
        rows=list(rows),
    )


def result(*scenarios: Measured, is_partial: bool = False, processor: str = "a fast one") -> Result:
    """A run of them."""
    return Result(
        format=FORMAT,
        began="2026-01-02T03:04:05Z",
        is_quick=True,
        generator="wrk",
        machine={"processor": processor},
        versions={"python": "3.11.7"},
        commit="0123456789abcdef",
        is_partial=is_partial,
        scenarios=list(scenarios),
    )
