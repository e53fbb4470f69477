"""The results of a run: one JSON file with everything needed to assess and to repeat it."""

import datetime
import errno
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.harness.catalogue import find_program
from benchmarks.harness.processes import ROOT
from benchmarks.scenarios.scenario import Goal, Load

FORMAT: Final = 1
FOLDER: Final = Path(__file__).parents[1] / "results"

_PACKAGES = (
    "aiohttp",
    "aiohttp-client-cache",
    "hdrhistogram",
    "msgspec",
    "orjson",
    "redis",
    "uvloop",
    "yarl",
)
_PROGRAMS = (
    ("haproxy", "-v"),
    ("nginx", "-v"),
    ("redis-server", "--version"),
    ("varnishd", "-V"),
    ("wrk", "-v"),
)


class Round(msgspec.Struct):
    """One turn of one contestant.

    Attributes:
        number: which round; 0 holds the memory measured before the first.
        figures: by name, whose ending is the unit.
        invalid: why it does not count; empty when it does.
    """

    number: int
    figures: dict[str, float]
    invalid: str = ""


class Row(msgspec.Struct):
    """All turns of one contestant under one load.

    Attributes:
        contestant: its name.
        x: the value of the scenario's series; `None` without one.
        rounds: its turns.
    """

    contestant: str
    x: float | None
    rounds: list[Round] = []

    def values(self, figure: str) -> list[float]:
        """Return a figure of each valid round that has it."""
        return [
            round_.figures[figure]
            for round_ in self.rounds
            if not round_.invalid and figure in round_.figures
        ]

    def by_round(self, figure: str, rounds: int) -> list[float | None]:
        """Return a figure of rounds 1 to the last, `None` where there is no valid one."""
        found = {one.number: one.figures.get(figure) for one in self.rounds if not one.invalid}
        return [found.get(number) for number in range(1, rounds + 1)]

    def reasons(self) -> list[str]:
        """Return why rounds do not count, each reason once."""
        return list(dict.fromkeys(one.invalid for one in self.rounds if one.invalid))


class Measured(msgspec.Struct):
    """One scenario as it was measured.

    Attributes:
        name: of the scenario.
        title: its title.
        measure: how.
        rounds: how many were planned.
        load: what was asked for.
        x_key: the key of the load that varied; empty without a series.
        x_label: the axis for it.
        goals: what it should come to.
        order: of the contestants; the first is what the others are compared with.
        rows: what it came to.
    """

    name: str
    title: str
    measure: str
    rounds: int
    load: Load
    x_key: str = ""
    x_label: str = ""
    goals: list[Goal] = []
    order: list[str] = []
    rows: list[Row] = []

    def row(self, contestant: str, x: float | None = None) -> Row | None:
        """Return the row of a contestant, the first one when the series does not matter."""
        for row in self.rows:
            if row.contestant == contestant and (x is None or row.x == x):
                return row
        return None

    def contestants(self) -> list[str]:
        """Return the contestants, in order."""
        there = {row.contestant for row in self.rows}
        return [name for name in self.order if name in there]

    def sorted_rows(self) -> list[Row]:
        """Return the rows by the series' value, and then in the contestants' order."""
        return sorted(self.rows, key=lambda row: (row.x or 0.0, self.order.index(row.contestant)))


class Missing(msgspec.Struct):
    """A contestant that could not take part.

    Attributes:
        contestant: its name.
        scenario: where.
        why: what to install, or what happened.
    """

    contestant: str
    scenario: str
    why: str


class Result(msgspec.Struct):
    """One run.

    Attributes:
        format: of this file.
        began: date and time, UTC.
        seconds: how long it took.
        is_partial: it was interrupted.
        is_quick: with ``--quick``.
        generator: of the closed loop.
        commit: of the working tree; empty without git.
        is_dirty: something in it was not committed.
        machine: system, processor, cores, memory, load before.
        versions: of everything that took part.
        missing: contestants that are not installed, or failed.
        scenarios: what was measured.
        behaviour: what was played, as `benchmarks.behaviour` writes it.
        sampled: of a server that ran already: how many of the first few had which status and Cache-Status.
    """

    format: int
    began: str
    is_quick: bool
    generator: str
    machine: dict[str, str]
    versions: dict[str, str]
    commit: str = ""
    is_dirty: bool = False
    seconds: float = 0.0
    is_partial: bool = True
    missing: list[Missing] = []
    scenarios: list[Measured] = []
    behaviour: list[dict[str, Any]] = []
    sampled: dict[str, int] = {}

    def scenario(self, name: str) -> Measured | None:
        """Return a scenario by name."""
        return next((one for one in self.scenarios if one.name == name), None)


def begin(*, is_quick: bool, generator: str) -> Result:
    """Return the empty result of a run that begins now."""
    now = datetime.datetime.now(datetime.UTC)
    return Result(
        format=FORMAT,
        began=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        is_quick=is_quick,
        generator=generator,
        machine=machine(),
        versions=versions(),
        commit=_said("git", "rev-parse", "HEAD"),
        is_dirty=bool(_said("git", "status", "--porcelain")),
    )


def machine() -> dict[str, str]:
    """Return what it runs on."""
    processor = re.search(r"model name\s*: (.*)", _text("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+) kB", _text("/proc/meminfo"))
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor[1] if processor else platform.processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of all that may take part, of those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for program, option in _PROGRAMS:
        path = find_program(program)
        number = re.search(r"\d+\.\d+(\.\d+)?", _said(str(path), option)) if path else None
        if number:
            found[program] = number[0]
    return dict(sorted(found.items()))


def save(result: Result, file: Path) -> None:
    """Write a result; whoever reads it meanwhile sees the old one or the new one whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    new.replace(file)


def check_writable(file: Path) -> None:
    """Find out before measuring whether a result can be written.

    Raises:
        OSError: it cannot.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if file.suffix in (".md", ".svg"):
        raise OSError(errno.EINVAL, "report and plots get this ending; name the JSON file")
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.touch()
    new.unlink()


def load_result(file: Path) -> Result:
    """Read a result.

    Raises:
        ValueError: it is none, or of another format.
    """
    try:
        result = msgspec.json.decode(file.read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise ValueError(f"{file}: {error}") from error
    if result.format != FORMAT:
        raise ValueError(f"{file}: is of format {result.format}, this reads {FORMAT}")
    return result


def file_for(result: Result, folder: Path = FOLDER) -> Path:
    """Return where a result goes: date, time and commit."""
    stamp = re.sub(r"[-:]", "", result.began)
    return folder / f"{stamp}-{result.commit[:8] or 'nocommit'}{'-quick' if result.is_quick else ''}.json"


def _text(file: str) -> str:
    try:
        return Path(file).read_text("utf-8", "replace")
    except OSError:
        return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # Some programs print their version to standard output, some to standard error.
    return (done.stdout.strip() or done.stderr.strip()) if done.returncode in (0, 1) else ""
