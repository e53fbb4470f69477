"""Results as Markdown: the goals first, then every contestant of every scenario."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from . import polls
from .goals import Assessment, assess
from .results import Measured, Result, Row
from .summary import Spread, ratios, spread

FIGURES: Final = MappingProxyType(
    {
        "cost_us": "CPU per request",
        "rate_per_s": "requests per second",
        "cpu_share": "its cores",
        "elsewhere_share": "cores of load, upstream and others",
        "p50_ms": "p50",
        "p90_ms": "p90",
        "p99_ms": "p99",
        "p99.9_ms": "p99.9",
        "ready_s": "start to ready",
        "rss_mb": "idle memory",
        "overhead_bytes": "memory per entry beyond body and head",
        "entry_bytes": "memory per entry",
        "polls": "polls",
        "upstream_calls": "upstream calls",
        "allowed_calls": "duration ÷ round trip",
    }
)
# By measure: the figures of its table.
_COLUMNS: Final = MappingProxyType(
    {
        "cost": ("cost_us", "rate_per_s", "p50_ms", "p99_ms"),
        "latency": ("p50_ms", "p99_ms", "p99.9_ms"),
        "scaling": ("rate_per_s", "cpu_share", "elsewhere_share", "cost_us", "p50_ms", "p99_ms"),
        "start": ("ready_s", "rss_mb"),
        "collapse": ("polls", "upstream_calls", "allowed_calls", "p50_ms", "p99_ms"),
    }
)
_UNITS: Final = MappingProxyType({"us": "µs", "ms": "ms", "s": "s", "bytes": "bytes", "mb": "MB"})
_NONE: Final = "–"


def unit(figure: str) -> str:
    """Return the unit that a figure's name ends in; empty when it is a count or a rate."""
    ending = figure.rpartition("_")[2]
    return "" if figure.endswith("_per_s") else _UNITS.get(ending, "")


def number(value: float) -> str:
    """Write a number with three significant digits, large ones whole."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_spread(values: Spread | None, unit_: str = "") -> str:
    """Write median, least and greatest."""
    if values is None:
        return _NONE
    shown = number(values.median) + (f" {unit_}" if unit_ else "")
    if values.rounds == 1:
        return shown
    return f"{shown} ({number(values.low)}–{number(values.high)})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; the first column is text, the others stand right."""
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def markdown(result: Result) -> str:
    """Return the whole report."""
    parts = [_head(result)]
    assessments = [assessment for measured in result.scenarios for assessment in assess(measured)]
    if assessments:
        parts += ["## Goals", _goals(assessments)]
    parts += [part for measured in result.scenarios for part in (f"## {measured.title}", _rows(measured))]
    if result.behaviour:
        parts += ["## With and without the gateway", _behaviour(result.behaviour)]
    for one in result.behaviour:
        heads, polled = polls.columns(one.get("sides", ()))
        if polled:
            parts += [f"### {one['title']}", table(heads, polled)]
    if result.missing:
        missing = [f"- {one.contestant} ({one.scenario}): {one.why}" for one in result.missing]
        parts += ["## Left out", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


def _head(result: Result) -> str:
    state = ["**Interrupted: these results are partial.**"] if result.is_partial else []
    kind = "quick" if result.is_quick else "full"
    commit = (result.commit[:12] or "no commit") + (" with changes" if result.is_dirty else "")
    run = f"A {kind} run of {result.seconds:.0f} s, begun {result.began}, of {commit}."
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items() if value)
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    run += f" Closed loop by {result.generator}."
    spread_ = "Figures are medians over the rounds, with the least and the greatest in brackets."
    return "\n\n".join(
        ["# Measurements", *state, f"{run} {spread_}", f"Machine: {machine}.", f"Versions: {versions}."]
    )


def _behaviour(played: Sequence[dict[str, Any]]) -> str:
    heads = ["scenario", "upstream calls without", "with the gateway", "saved", "seen"]
    return table(
        heads,
        [
            [
                f"{one['name']}: {one['title']}",
                f"{one['calls_without']:,}",
                f"{one['calls_with']:,}",
                f"{one['saved']:.0%}",
                one["seen"],
            ]
            for one in played
        ],
    )


def _goals(assessments: Sequence[Assessment]) -> str:
    heads = ["path", "goal", "measured", "gateway", "peer", "reached"]
    return table(heads, [_goal(assessment) for assessment in assessments])


def _goal(assessment: Assessment) -> list[str]:
    goal = assessment.goal
    unit_ = unit(goal.figure)
    peer_figure = goal.peer_figure or goal.figure
    bound = f"≤ {goal.at_most:g}" + ("" if goal.is_ratio else f" {unit_}".rstrip())
    if goal.peer or goal.peer_figure:
        bound += f" × {goal.peer or FIGURES.get(peer_figure, peer_figure)}"
    if goal.peer_at is not None:
        bound += f"{' at' if goal.peer else ' × that at'} {goal.peer_at:,.0f}"
    if goal.stretch is not None:
        bound += f", stretch ≤ {goal.stretch:g}"
    at = [] if goal.at is None else [f"{goal.at:,.0f} {assessment.measured.x_label}"]
    # The cost per request is what most are about and needs no name.
    about = (
        [goal.note]
        if goal.note
        else []
        if goal.figure == "cost_us"
        else [FIGURES.get(goal.figure, goal.figure)]
    )
    return [
        "; ".join([assessment.measured.title, *at, *about]),
        bound,
        with_spread(assessment.value, "" if goal.is_ratio else unit_),
        with_spread(assessment.own, unit_),
        with_spread(assessment.other, unit(peer_figure)) if goal.is_ratio else _NONE,
        assessment.word,
    ]


def _rows(measured: Measured) -> str:
    columns = [
        figure for figure in _COLUMNS[measured.measure] if any(row.values(figure) for row in measured.rows)
    ]
    extra = ["entry_bytes"] if any(row.values("entry_bytes") for row in measured.rows) else []
    heads = ["contestant"]
    heads += [measured.x_label] if measured.x_key else []
    compares = measured.measure == "cost" and len(measured.contestants()) > 1
    heads += ["gateway is"] if compares else []
    heads += [FIGURES[figure] for figure in [*columns, *extra]] + ["valid rounds"]
    return table(
        heads, [_row(measured, row, [*columns, *extra], compares=compares) for row in measured.sorted_rows()]
    )


def _row(measured: Measured, row: Row, figures: Sequence[str], *, compares: bool) -> list[str]:
    cells = [row.contestant]
    cells += [] if row.x is None else [f"{row.x:,.0f}"]
    if compares:
        own = measured.row(measured.order[0], row.x)
        pairs = (
            ratios(own.by_round("cost_us", measured.rounds), row.by_round("cost_us", measured.rounds))
            if own
            else []
        )
        cells.append(_NONE if own is row or not pairs else f"{with_spread(spread(pairs))} ×")
    cells += [with_spread(spread(row.values(figure)), unit(figure)) for figure in figures]
    turns = [one for one in row.rounds if one.number]
    valid = f"{sum(not one.invalid for one in turns)} of {len(turns)}"
    return [*cells, "; ".join([valid, *row.reasons()])]
