"""What is measured: scenarios in TOML, read strictly into frozen structs."""

import tomllib
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks.harness.catalogue import KINDS

FOLDER: Final = Path(__file__).parent

Measure = Literal["cost", "latency", "scaling", "start", "collapse"]


class ScenarioError(Exception):
    """A scenario file cannot be used; the text names file and key."""


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What callers ask for, and how many of them at once.

    Attributes:
        connections: keep-alive connections.
        seconds: length of a round; wrk takes whole ones, one at least.
        records: executions that are asked for, in a random order.
        callers: tokens; each asks for each record.
        running: the records are in progress, never settled.
        elements: elements of a stack are asked for instead of executions: a call that is passed through.
        fresh_ids: each request carries an X-Request-Id of its own; else all of a caller's are byte-identical.
        body_bytes: of a record.
        token_bytes: length of a token.
        upstream_ms: how long the upstream takes.
        settled: what it takes to open connections is not counted: a round begins when they are open, on both
            sides. The client in Python makes this load.
        interval_ms: a caller asks again so long after its last request, at the earliest; 0 at once.
        rate_per_s: requests offered by the open loop; other loads ignore it.
    """

    connections: int = 32
    seconds: float = 1
    records: int = 1
    callers: int = 1
    running: bool = False
    elements: bool = False
    fresh_ids: bool = False
    body_bytes: int = 1250
    token_bytes: int = 64
    upstream_ms: float = 0.0
    settled: bool = False
    interval_ms: float = 0.0
    rate_per_s: float = 1000.0


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One contestant.

    Attributes:
        kind: one of `catalogue.KINDS`.
        name: what it is called in tables; its kind's title by default.
        settings: more configuration of the gateway, by ``section.key``.
        quick: takes part in quick runs.
        redis: has a Redis of its own.
    """

    kind: str
    name: str = ""
    settings: dict[str, str | int | float | bool] = {}
    quick: bool = True
    redis: bool = False


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure should come to.

    Attributes:
        contestant: whose figure.
        figure: its name; the unit is its ending.
        at_most: the bound, of the ratio when there is something to compare with, else of the figure itself.
        peer: the contestant whose figure it is compared with.
        peer_figure: the figure it is compared with, of the same contestant unless `peer` is set.
        at: the value of the series that it is about.
        peer_at: the value of the series that it is compared with; `at` unless set.
        stretch: a bound that would be better still.
        note: a few words for the table.
    """

    contestant: str
    at_most: float
    figure: str = "cost_us"
    peer: str = ""
    peer_figure: str = ""
    at: float | None = None
    peer_at: float | None = None
    stretch: float | None = None
    note: str = ""

    @property
    def is_ratio(self) -> bool:
        """Whether the bound is for a ratio."""
        return bool(self.peer or self.peer_figure) or self.peer_at is not None


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key of the load that takes several values, one after the other.

    Attributes:
        key: of `Load`.
        values: what it takes.
        label: of the plot's axis, with the unit.
    """

    key: str
    values: list[int]
    label: str


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement of several contestants.

    Attributes:
        title: a line for tables and plots.
        about: what it shows and why, for readers of the file.
        contestant: the servers to measure.
        measure: how it is measured; "scaling" as "cost", but on all cores.
        quick: part of quick runs.
        hits: answers come out of the cache: the upstream must not receive them.
        fill: how records get in beforehand: by asking for each ("requests"), or through the gateway's store
            interface ("store", for more than requests could fill in reasonable time; gateway only).
        load: what is asked for.
        series: a key of the load that varies.
        goal: what it should come to.
        rounds: how often each contestant has its turn.
        name: of the file.
    """

    title: str
    about: str
    contestant: list[Entry]
    measure: Measure = "cost"
    quick: bool = False
    hits: bool = True
    fill: Literal["requests", "store"] = "requests"
    load: Load = Load()
    series: Series | None = None
    goal: list[Goal] = []
    rounds: int = 5
    name: str = ""

    def loads(self) -> list[tuple[float | None, Load]]:
        """Return each load with the value that its series gives it, `None` without a series."""
        if self.series is None:
            return [(None, self.load)]
        key = self.series.key
        return [
            (float(value), msgspec.structs.replace(self.load, **{key: value})) for value in self.series.values
        ]


def parse(text: str, name: str) -> Scenario:
    """Read one scenario.

    Args:
        text: TOML.
        name: what it is called.

    Raises:
        ScenarioError: an unknown key, a wrong type, or names that fit nothing.
    """
    try:
        scenario = msgspec.convert(tomllib.loads(text) | {"name": name}, Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ScenarioError(f"{name}.toml: {error}") from error
    scenario = msgspec.structs.replace(scenario, contestant=[_named(entry) for entry in scenario.contestant])
    for problem in _problems(scenario):
        raise ScenarioError(f"{name}.toml: {problem}")
    return scenario


def _named(entry: Entry) -> Entry:
    kind = KINDS.get(entry.kind)
    return entry if entry.name or kind is None else msgspec.structs.replace(entry, name=kind.title)


def _problems(scenario: Scenario) -> list[str]:
    problems = [f"no kind {one.kind!r}" for one in scenario.contestant if one.kind not in KINDS]
    names = [one.name for one in scenario.contestant]
    if len(set(names)) != len(names):
        problems.append("two contestants have one name")
    values = scenario.series.values if scenario.series else []
    for goal in scenario.goal:
        problems += [
            f"the goal is about {who!r}" for who in (goal.contestant, goal.peer) if who and who not in names
        ]
        problems += [
            f"the goal is at {at:g}" for at in (goal.at, goal.peer_at) if at is not None and at not in values
        ]
        if values and goal.at is None:
            problems.append(f"the goal of {goal.contestant!r} needs a value of the series")
    if scenario.series is not None and scenario.series.key not in Load.__struct_fields__:
        problems.append(f"no load has {scenario.series.key!r}")
    if scenario.rounds < 1 or scenario.load.seconds <= 0 or not scenario.contestant:
        problems.append("at least one round, some seconds and one contestant")
    return problems


def read_all(folder: Path = FOLDER) -> dict[str, Scenario]:
    """Return all scenarios by name, in the order of their names' numbers.

    Raises:
        ScenarioError: one cannot be used.
    """
    files = sorted(folder.glob("*.toml"))
    scenarios = (parse(file.read_text("utf-8"), file.stem.partition("-")[2]) for file in files)
    return {scenario.name: scenario for scenario in scenarios}


def choose(scenarios: dict[str, Scenario], names: list[str], *, quick: bool) -> list[Scenario]:
    """Return the scenarios of one run.

    Args:
        scenarios: all of them.
        names: those wanted; none means all.
        quick: leave out what quick runs leave out, among them contestants of the others.

    Raises:
        ScenarioError: a name fits none.
    """
    unknown = [name for name in names if name not in scenarios]
    if unknown:
        raise ScenarioError(f"no scenario {unknown[0]!r}; there are {', '.join(scenarios)}")
    chosen = [scenarios[name] for name in names] if names else list(scenarios.values())
    if not quick:
        return chosen
    return [
        msgspec.structs.replace(one, contestant=[entry for entry in one.contestant if entry.quick])
        for one in chosen
        if one.quick or names
    ]
