"""Draws a result as SVG: cost by path beside the peers, latency by load, cost by what varies, calls."""

from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from . import polls
from .chart import Bar, Line, bars, lines, short
from .goals import assess
from .results import Measured, Result
from .table import FIGURES, number

# Distinguishable with colour blindness too; the gateway stands out.
_GATEWAY: Final = "#d55e00"
_PEERS: Final = ("#0072b2", "#009e73", "#56b4e9", "#cc79a7", "#999999", "#e69f00", "#332288", "#117733")
_MARKS: Final = ("o", "s", "^", "D", "v", "P", "X")
_GREY: Final = "#555555"
_FONT: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "aosgw",
}


def draw(result: Result, stem: Path) -> list[Path]:
    """Draw all plots for which there are figures.

    Args:
        result: the run.
        stem: path and beginning of the files' names.

    Returns:
        The files.
    """
    from matplotlib import rc_context

    drawn: list[tuple[str, Figure]] = []
    with rc_context(_FONT):
        paths = [
            one
            for one in result.scenarios
            if one.measure == "cost" and not one.x_key and bars(one, "cost_us")
        ]
        if paths:
            drawn.append(("cost", _panels(paths)))
        for one in result.scenarios:
            if one.measure == "latency" and lines(one, ["p99_ms"]):
                drawn.append((one.name, _latency(one)))
            elif one.measure == "cost" and one.x_key and lines(one, ["cost_us"]):
                drawn.append((one.name, _by(one)))
            elif one.measure == "scaling" and bars(one, "rate_per_s"):
                drawn.append((one.name, _scaling(one)))
            elif one.measure == "collapse" and bars(one, "upstream_calls"):
                drawn.append((one.name, _saved(one)))
        if result.behaviour:
            drawn.append(("behaviour", _played(result.behaviour)))
        drawn += [
            (one["name"], _polled(one))
            for one in result.behaviour
            if any(side.get("group") for side in one.get("sides", ()))
        ]
        files = []
        for name, figure in drawn:
            file = stem.with_name(f"{stem.name}-{name}.svg")
            # Without a date, the same result gives the same file.
            figure.savefig(file, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.15)
            files.append(file)
    return files


def _colour(name: str, peers: list[str]) -> str:
    return _GATEWAY if name.startswith("gateway") else _PEERS[peers.index(name) % len(_PEERS)]


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _panels(scenarios: list[Measured]) -> Figure:
    """Cost by path, a panel for each; a contestant has one colour in all of them."""
    heights = [1.0 + 0.42 * len(bars(one, "cost_us")) for one in scenarios]
    figure = Figure(figsize=(9.0, sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(scenarios), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    names = [name for one in scenarios for name in one.contestants() if not name.startswith("gateway")]
    peers = list(dict.fromkeys(names))
    for axes, one in zip(grid[:, 0], scenarios, strict=True):
        _bar_panel(axes, one, peers)
    return figure


def _bar_panel(axes: Any, measured: Measured, peers: list[str]) -> None:
    shown = bars(measured, "cost_us")
    for place, one in enumerate(shown):
        _one_bar(axes, place, one, _colour(one.name, peers))
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    axes.invert_yaxis()
    # Room for the number behind the longest bar.
    axes.set_xlim(0, max(one.spread.high for one in shown) * 1.18)
    axes.set_xlabel("CPU per request, µs (median; whiskers: least and greatest round)")
    axes.set_title(measured.title, loc="left", fontsize=11)
    axes.xaxis.grid(True, color="#dddddd")
    said = []
    for assessment in assess(measured):
        goal = assessment.goal
        if (goal.contestant, goal.figure) == (measured.order[0], "cost_us") and assessment.other is not None:
            axes.axvline(goal.at_most * assessment.other.median, color=_GREY, linestyle="--", linewidth=1.2)
            said.append(f"{goal.at_most:g} × {goal.peer}")
    if said:
        goals = f"dashed: goal{'s' * (len(said) > 1)}, {', '.join(said)}"
        axes.set_title(goals, loc="right", fontsize=9, color=_GREY)
    _tidy(axes)


def _one_bar(axes: Any, place: int, one: Bar, colour: str, words: str = "") -> None:
    middle, low, high = one.spread.median, one.spread.low, one.spread.high
    whiskers = [[middle - low], [high - middle]]
    axes.barh(
        place, middle, color=colour, height=0.62, xerr=whiskers, error_kw={"ecolor": "#222222", "capsize": 3}
    )
    _say(axes, high, place, words or number(middle))


def _draw_lines(axes: Any, found: list[Line], peers: list[str], styles: dict[str, str]) -> None:
    names = list(dict.fromkeys(one.name for one in found))
    for one in found:
        xs = [x for x, _ in one.points]
        middles = [spread.median for _, spread in one.points]
        colour = _colour(one.name, peers)
        axes.plot(
            xs,
            middles,
            color=colour,
            linestyle=styles[one.figure],
            marker=_MARKS[names.index(one.name) % len(_MARKS)],
            markersize=5,
            linewidth=1.8,
        )
        lows, highs = [spread.low for _, spread in one.points], [spread.high for _, spread in one.points]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.13, linewidth=0)


def _by(measured: Measured) -> Figure:
    """Cost by the key of the load that varies, both axes logarithmic."""
    found = lines(measured, ["cost_us"])
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    axes = figure.subplots()
    peers = [name for name in measured.contestants() if not name.startswith("gateway")]
    _draw_lines(axes, found, peers, {"cost_us": "-"})
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes, [x for x, _ in max(found, key=lambda one: len(one.points)).points], found)
    axes.set_xlabel(measured.x_label)
    axes.set_ylabel("CPU per request, µs")
    axes.set_title(measured.title, loc="left", fontsize=11)
    axes.grid(True, which="major", color="#dddddd")
    _tidy(axes)
    _legend(figure, axes, found, peers, {})
    return figure


def _latency(measured: Measured) -> Figure:
    """Three percentiles by the rate that is offered, on a logarithmic axis."""
    styles = {"p50_ms": "-", "p99_ms": "--", "p99.9_ms": ":"}
    found = lines(measured, list(styles))
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    axes = figure.subplots()
    peers = [name for name in measured.contestants() if not name.startswith("gateway")]
    _draw_lines(axes, found, peers, styles)
    axes.set_yscale("log")
    _plain_ticks(axes, None, found)
    axes.set_xlim(left=0)
    axes.set_xlabel(measured.x_label)
    axes.set_ylabel("milliseconds from the scheduled time to the last byte")
    axes.set_title(measured.title, loc="left", fontsize=11)
    axes.grid(True, which="major", color="#dddddd")
    _tidy(axes)
    _legend(figure, axes, found, peers, styles)
    return figure


def _saved(measured: Measured) -> Figure:
    """Polls and the upstream calls they caused, beside as many as fit one after the other."""
    shown = [
        Bar(f"{one.name}: {label}", one.spread)
        for figure, label in (("polls", "polls"), ("upstream_calls", "upstream calls"))
        for one in bars(measured, figure)
    ]
    allowed = bars(measured, "allowed_calls")[0]
    shown.append(Bar("duration ÷ round trip", allowed.spread))
    figure = Figure(figsize=(9.0, 1.2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(shown):
        colour = _GREY if one.name == "duration ÷ round trip" else _colour(one.name, [one.name])
        _one_bar(axes, place, one, colour)
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, max(one.spread.high for one in shown) * 1.18)
    axes.set_xlabel(f"requests in {measured.load.seconds:g} s (median; whiskers: least and greatest round)")
    axes.set_title(measured.title, loc="left", fontsize=11)
    axes.xaxis.grid(True, color="#dddddd")
    _tidy(axes)
    return figure


def _scaling(measured: Measured) -> Figure:
    """Requests per second, and whose work the cores did meanwhile."""
    shown = bars(measured, "rate_per_s")
    figure = Figure(figsize=(9.0, 1.4 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(shown):
        own, elsewhere = (
            next(bar.spread.median for bar in bars(measured, share) if bar.name == one.name)
            for share in ("cpu_share", "elsewhere_share")
        )
        words = f"{number(one.spread.median)}: {own:.2f} cores, {elsewhere:.2f} for load, upstream and others"
        _one_bar(axes, place, one, _colour(one.name, [one.name]), words)
    axes.set_yticks(range(len(shown)), [one.name for one in shown])
    axes.invert_yaxis()
    # Room for the words behind the longest bar.
    axes.set_xlim(0, max(one.spread.high for one in shown) * 2.2)
    axes.set_xlabel("requests per second (median; whiskers: least and greatest round)")
    axes.set_title(measured.title, loc="left", fontsize=11)
    axes.xaxis.grid(True, color="#dddddd")
    _tidy(axes)
    return figure


def _played(behaviour: list[dict[str, Any]]) -> Figure:
    """Upstream calls with the gateway as shares of those without."""
    figure = Figure(figsize=(9.0, 1.4 + 0.62 * len(behaviour)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(behaviour):
        share = 100.0 * one["calls_with"] / one["calls_without"] if one["calls_without"] else 0.0
        axes.barh(place - 0.2, 100.0, color="#bbbbbb", height=0.36)
        axes.barh(place + 0.2, share, color=_GATEWAY, height=0.36)
        _say(axes, 100.0, place - 0.2, f"{one['calls_without']:,}")
        _say(axes, share, place + 0.2, f"{one['calls_with']:,}")
    axes.set_yticks(range(len(behaviour)), [one["name"] for one in behaviour])
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xlabel("upstream calls, % of those without the gateway (numbers: calls)")
    axes.set_title("upstream calls without (grey) and with the gateway", loc="left", fontsize=11)
    axes.xaxis.grid(True, color="#dddddd")
    _tidy(axes)
    return figure


def _polled(played: dict[str, Any]) -> Figure:
    """Calls a second of each way to ask, a panel for each group of callers."""
    sides = [side for side in played["sides"] if side["group"]]
    groups = list(dict.fromkeys(side["group"] for side in sides))
    panels = [[side for side in sides if side["group"] == group] for group in groups]
    heights = [1.0 + 0.42 * len(panel) for panel in panels]
    figure = Figure(figsize=(9.0, sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    most = max(side["figures"]["calls_per_s"] for side in sides)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        for place, side in enumerate(panel):
            figures = side["figures"]
            colour = _GATEWAY if side["name"].startswith("gateway") else _GREY
            axes.barh(place, figures["calls_per_s"], color=colour, height=0.62)
            _say(axes, figures["calls_per_s"], place, polls.in_words(figures))
        axes.set_yticks(range(len(panel)), [side["name"] for side in panel])
        axes.invert_yaxis()
        # Room for the words behind the longest bar.
        axes.set_xlim(0, most * 2.4)
        axes.set_title(panel[0]["group"], loc="left", fontsize=11)
        axes.xaxis.grid(True, color="#dddddd")
        _tidy(axes)
    axes.set_xlabel("calls a second at AOS while the executions run; median (last) notice of the end")
    figure.suptitle(played["title"], fontsize=11)
    return figure


def _say(axes: Any, x: float, y: float, text: str) -> None:
    """Write a number behind a bar, on white so that no line runs through it."""
    axes.annotate(
        text,
        (x, y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color="#222222",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        zorder=5,
    )


def _plain_ticks(axes: Any, xs: list[float] | None, found: list[Line]) -> None:
    """Write ticks as numbers, not as powers, and give the vertical axis at least a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    if xs is not None:
        axes.set_xticks(xs, [short(x) for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    values = [
        value for one in found for _, spread in one.points for value in (spread.low, spread.high) if value > 0
    ]
    low, high = min(values) * 0.8, max(values) * 1.25
    if high / low < 10:
        low, high = low / 2, high * 2
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Any, found: list[Line], peers: list[str], styles: dict[str, str]) -> None:
    """Name contestants by colour and mark, and percentiles by the line, outside of the axes."""
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(one.name for one in found))
    marks = {name: _MARKS[place % len(_MARKS)] for place, name in enumerate(names)}
    handles = [Line2D([], [], color=_colour(name, peers), marker=marks[name], label=name) for name in names]
    handles += [
        Line2D([], [], color=_GREY, linestyle=style, label=FIGURES[figure_name])
        for figure_name, style in styles.items()
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
