"""What the figures should come to, beside what they came to."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scenarios.scenario import Goal

from .results import Measured
from .summary import Spread, ratios, spread


@dataclass(frozen=True)
class Verdict:
    """One goal after a run.

    Attributes:
        measured: the scenario.
        goal: the goal.
        own: the contestant's figure; `None` when there is no valid round.
        other: what it is compared with; `None` without or when that has no valid round.
        judged: what the bound is for: the ratio of paired rounds, or the figure itself.
    """

    measured: Measured
    goal: Goal
    own: Spread | None
    other: Spread | None
    judged: Spread | None

    @property
    def is_ratio(self) -> bool:
        """Whether the bound is for a ratio."""
        return bool(self.goal.peer or self.goal.peer_figure)

    @property
    def word(self) -> str:
        """In one word: yes, stretch, no, or not measured."""
        if self.judged is None:
            return "not measured"
        if self.judged.median > self.goal.at_most:
            return "no"
        is_stretch = self.goal.stretch is not None and self.judged.median <= self.goal.stretch
        return "yes, and the stretch" if is_stretch else "yes"


def judge(measured: Measured) -> list[Verdict]:
    """Return the verdict of each goal of a scenario."""
    return [_judge(measured, goal) for goal in measured.goals]


def _judge(measured: Measured, goal: Goal) -> Verdict:
    row = measured.row(goal.contestant)
    own = spread(row.values(goal.figure)) if row else None
    if not (goal.peer or goal.peer_figure):
        return Verdict(measured, goal, own, None, own)
    other_row = measured.row(goal.peer or goal.contestant)
    figure = goal.peer_figure or goal.figure
    if row is None or other_row is None:
        return Verdict(measured, goal, own, None, None)
    rounds = measured.rounds
    judged = spread(ratios(row.by_round(goal.figure, rounds), other_row.by_round(figure, rounds)))
    return Verdict(measured, goal, own, spread(other_row.values(figure)), judged)
