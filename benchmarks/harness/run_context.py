"""What the measurements of one run share, and what they need alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.load.generators import Generator
from benchmarks.report.results import Measured, Missing, Round, Row
from benchmarks.scenarios.scenario import Entry, Scenario

from .catalogue import KINDS, missing_packages

T = TypeVar("T")


@dataclass
class RunContext:
    """What the measurements of one run share.

    Attributes:
        generator: of the closed loop.
        on_progress: called at every step with a line and the completed share of the scenario.
        missing: contestants that are not installed, or failed.
    """

    generator: Generator
    on_progress: Callable[[str, float], None]
    missing: list[Missing] = field(default_factory=list)

    def present(self, scenario: Scenario) -> list[Entry]:
        """Return the installed contestants; the others are added to `missing`."""
        there = []
        for entry in scenario.contestant:
            packages = missing_packages(KINDS[entry.kind].needs)
            if packages:
                why = f"install {', '.join(packages)}"
                self.missing.append(Missing(entry.name, scenario.name, why))
            else:
                there.append(entry)
        return there


def begin(scenario: Scenario) -> Measured:
    """Return the empty measurement of a scenario."""
    series = scenario.series
    return Measured(
        name=scenario.name,
        title=scenario.title,
        measure=scenario.measure,
        rounds=scenario.rounds,
        load=scenario.load,
        x_key=series.key if series else "",
        x_label=series.label if series else "",
        goals=scenario.goal,
        order=[entry.name for entry in scenario.contestant],
        rows=[],
    )


def add(measured: Measured, contestant: str, x: float | None, round_: Round) -> None:
    """Add one turn to its contestant's row."""
    row = measured.row(contestant, x) if x is not None else measured.row(contestant)
    if row is None:
        row = Row(contestant, x, [])
        measured.rows.append(row)
    row.rounds.append(round_)


def turns(contestants: Sequence[T], rounds: int) -> list[tuple[int, T]]:
    """Return the order of turns: every contestant once a round, each round begun by another one."""
    return [
        (number, contestants[(number - 1 + place) % len(contestants)])
        for number in range(1, rounds + 1)
        for place in range(len(contestants))
    ]
