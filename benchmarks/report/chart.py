"""What plots show, taken out of a measurement: bars and lines of medians with their spread."""

from collections.abc import Sequence
from dataclasses import dataclass

from .results import Measured
from .summary import Spread, spread


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: beside it.
        spread: its length, and the whiskers.
    """

    name: str
    spread: Spread


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: of the contestant.
        figure: what it shows.
        points: by the series' value.
    """

    name: str
    figure: str
    points: list[tuple[float, Spread]]


def bars(measured: Measured, figure: str) -> list[Bar]:
    """Return a bar for each contestant that has a figure in a valid round, in the scenario's order."""
    found = ((row.contestant, spread(row.values(figure))) for row in measured.sorted_rows())
    return [Bar(name, one) for name, one in found if one is not None]


def lines(measured: Measured, figures: Sequence[str]) -> list[Line]:
    """Return a line for each contestant and figure; a value without a valid round is left out."""
    found = []
    for name in measured.contestants():
        for figure in figures:
            rows = [row for row in measured.sorted_rows() if row.contestant == name]
            spreads = [(row.x, spread(row.values(figure))) for row in rows]
            points = [(x, one) for x, one in spreads if x is not None and one is not None]
            if points:
                found.append(Line(name, figure, points))
    return found


def short(value: float) -> str:
    """Write a number of an axis: 1, 10, 1,000, 0.5, or 1 M."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
