"""Compares two results, such as before and after a change: `python -m benchmarks.compare A.json B.json`.

A difference within the spread of the rounds is no difference. Costs in µs of two machines, or of one machine
at two times, are not the same thing: the ratio to a peer of the same run says more, and stands first.
"""

import argparse
import sys
from pathlib import Path
from types import MappingProxyType

from benchmarks.report.goals import assess
from benchmarks.report.results import Measured, Result, load_result
from benchmarks.report.summary import Spread, spread
from benchmarks.report.table import FIGURES, number, table, unit, with_spread

# By measure. Latencies of closed loops are not comparable.
_FIGURES = MappingProxyType(
    {
        "cost": ("cost_us", "entry_bytes"),
        "latency": ("p50_ms", "p99_ms", "p99.9_ms"),
        "scaling": ("cost_us",),
        "start": ("ready_s", "rss_mb"),
        "collapse": ("upstream_calls",),
    }
)


def differs(before: Spread, after: Spread) -> bool:
    """Whether two figures differ beyond their spread: no round of one lies among those of the other."""
    return after.low > before.high or after.high < before.low


def change(before: Spread | None, after: Spread | None) -> str:
    """Write how a figure has changed; lower is better for every figure here."""
    if before is None or after is None:
        return "not in both"
    if not before.median:
        return "–"
    factor = f"× {number(after.median / before.median)}"
    if before.rounds == after.rounds == 1:
        return factor
    if not differs(before, after):
        return f"{factor}, within the spread"
    return f"{factor}, {'better' if after.median < before.median else 'worse'}"


def compare(before: Result, after: Result) -> str:
    """Return both results side by side as Markdown.

    Raises:
        ValueError: there is nothing to compare.
    """
    if not {one.name for one in before.scenarios} & {one.name for one in after.scenarios}:
        raise ValueError("the two results have no scenario in common")
    parts = [f"# {_name(before)} → {_name(after)}"]
    if before.machine.get("processor") != after.machine.get("processor"):
        parts.append("Not the same processor: only ratios to peers can be compared.")
    for was in before.scenarios:
        now = after.scenario(was.name)
        if now is not None:
            rows = [*_goals(was, now), *_figures(was, now)]
            parts += [f"## {was.title}", table(["what", "before", "after", "change"], rows)]
    only = {one.name for one in before.scenarios} ^ {one.name for one in after.scenarios}
    if only:
        parts.append(f"In one of them only: {', '.join(sorted(only))}.")
    return "\n\n".join(parts) + "\n"


def _name(result: Result) -> str:
    return f"{result.began} {result.commit[:8]}{'+' if result.is_dirty else ''}"


def _goals(was: Measured, now: Measured) -> list[list[str]]:
    rows = []
    for assessment in assess(was):
        same = [other for other in assess(now) if other.goal == assessment.goal]
        goal = assessment.goal
        if goal.is_ratio and same:
            at, peer_at = ("" if x is None else f" at {x:,.0f}" for x in (goal.at, goal.peer_at))
            name = f"{goal.contestant}{at} ÷ {goal.peer or goal.peer_figure or goal.contestant}{peer_at}"
            spreads = (assessment.value, same[0].value)
            rows.append([name, *map(with_spread, spreads), change(*spreads)])
    return rows


def _figures(was: Measured, now: Measured) -> list[list[str]]:
    rows = []
    for row in was.rows:
        other = now.row(row.contestant, row.x)
        for figure in _FIGURES[was.measure]:
            spreads = (spread(row.values(figure)), spread(other.values(figure)) if other else None)
            if any(spreads):
                where = "" if row.x is None else f" at {row.x:,.0f}"
                name = f"{row.contestant}{where}, {FIGURES[figure]}"
                rows.append([name, *(with_spread(one, unit(figure)) for one in spreads), change(*spreads)])
    return rows


def main() -> int:
    """Read the command line and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, metavar="A", help="a result (JSON)")
    parser.add_argument("after", type=Path, metavar="B", help="another one")
    options = parser.parse_args()
    try:
        print(compare(load_result(options.before), load_result(options.after)), end="")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
