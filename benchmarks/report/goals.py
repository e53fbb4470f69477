"""What the figures should come to, beside what they came to."""

from dataclasses import dataclass

from benchmarks.scenarios.scenario import Goal

from .results import Measured
from .summary import Spread, ratios, spread


@dataclass(frozen=True)
class Assessment:
    """One goal after a run.

    Attributes:
        measured: the scenario.
        goal: the goal.
        own: the contestant's figure; `None` when there is no valid round.
        other: what it is compared with; `None` without or when that has no valid round.
        value: what the bound is for: the ratio of paired rounds, or the figure itself.
    """

    measured: Measured
    goal: Goal
    own: Spread | None
    other: Spread | None
    value: Spread | None

    @property
    def word(self) -> str:
        """In one word: yes, stretch, no, or not measured."""
        if self.value is None:
            return "not measured"
        if self.value.median > self.goal.at_most:
            return "no"
        is_stretch = self.goal.stretch is not None and self.value.median <= self.goal.stretch
        return "yes, and the stretch" if is_stretch else "yes"


def assess(measured: Measured) -> list[Assessment]:
    """Return the assessment of each goal of a scenario."""
    return [_assess(measured, goal) for goal in measured.goals]


def _assess(measured: Measured, goal: Goal) -> Assessment:
    row = measured.row(goal.contestant, goal.at)
    own = spread(row.values(goal.figure)) if row else None
    if not goal.is_ratio:
        return Assessment(measured, goal, own, None, own)
    other_at = goal.at if goal.peer_at is None else goal.peer_at
    other_row = measured.row(goal.peer or goal.contestant, other_at)
    figure = goal.peer_figure or goal.figure
    if row is None or other_row is None:
        return Assessment(measured, goal, own, None, None)
    rounds = measured.rounds
    value = spread(ratios(row.by_round(goal.figure, rounds), other_row.by_round(figure, rounds)))
    return Assessment(measured, goal, own, spread(other_row.values(figure)), value)
