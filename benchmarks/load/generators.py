"""Puts load on one address with a generator in a process of its own, and returns what came of it."""

import sys
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from benchmarks.harness.catalogue import find_program
from benchmarks.harness.processes import LOAD_CPU, Processes
from benchmarks.scenarios.scenario import Load

from .targets import Target, write_jsonl, write_lines

Generator = Literal["wrk", "python", "open"]

_MARGIN_S = 20.0
_SETTLING_S = 60.0
# More would not help on one core, and each needs connections of its own.
_WRK_THREADS = 1
# Errors that a generator which cannot keep up makes itself.
_OF_THE_LATE = frozenset({"queue-full", "timeout-waiting", "timeout"})


class LoadError(Exception):
    """A generator did not do its work; the text has the end of what it said."""


class Outcome(msgspec.Struct, frozen=True):
    """What came of one load.

    Attributes:
        completed: whole answers.
        duration_s: from the first request to the last answer.
        latency_ms: percentiles by name; of the closed loop from the sending, of the open from the schedule.
        errors: how many, by name.
        statuses: of the answers; empty when the generator counts only those that are errors.
        cpu_s: CPU time of the server meanwhile, where the generator weighs it.
        cache_statuses: of the gateway's Cache-Status, when the generator reads it.
        why_not: what the generator itself did wrong, such as being late; empty when nothing.
    """

    completed: int
    duration_s: float
    latency_ms: dict[str, float]
    errors: dict[str, int] = {}
    statuses: dict[str, int] = {}
    cpu_s: float | None = None
    cache_statuses: dict[str, int] = {}
    why_not: str = ""

    def failures(self) -> int:
        """Return how many requests had no answer of status 200."""
        other = sum(count for status, count in self.statuses.items() if status != "200")
        return sum(self.errors.values()) + other

    def successes(self) -> int:
        """Return how many requests were answered 200; of wrk, below 400."""
        other = sum(count for status, count in self.statuses.items() if status != "200")
        return max(self.completed - other - self.errors.get("status", 0), 0)

    def objection(self, tolerated: float = 0.0) -> str:
        """Why it says nothing about the server; empty if it does.

        Args:
            tolerated: so large a share of the requests may fail.
        """
        other = {status: n for status, n in self.statuses.items() if status != "200"}
        causes = {name: n for name, n in (self.errors | other).items() if n}
        said = ", ".join(f"{name} {n}" for name, n in causes.items())
        if not self.successes():
            what = "nothing was answered 200" if self.completed else "nothing was answered"
            return f"{what}: {said}" if said else what
        theirs = sum(n for name, n in causes.items() if not (self.why_not and name in _OF_THE_LATE))
        if theirs > tolerated * (self.successes() + self.failures()):
            return f"not all were answered 200: {said}"
        return self.why_not


class Asked(msgspec.Struct, frozen=True):
    """A list of targets as files, for each generator.

    Attributes:
        targets: what is asked for.
        lines: for wrk.
        jsonl: for the generators in Python.
    """

    targets: list[Target]
    lines: Path
    jsonl: Path


def write_targets(targets: list[Target], folder: Path, name: str) -> Asked:
    """Write targets where the generators find them."""
    return Asked(
        targets, write_lines(targets, folder / f"{name}.tsv"), write_jsonl(targets, folder / f"{name}.jsonl")
    )


def closed(processes: Processes, url: str, asked: Asked, load: Load, generator: Generator) -> Outcome:
    """Have every connection ask again as soon as it is answered, or at the load's interval."""
    if generator == "wrk" and not load.interval_ms:
        return _wrk(processes, url, asked, load)
    more = ("--duration", str(load.seconds), "--interval-ms", str(load.interval_ms))
    return _python(processes, url, asked, load, *more, seconds=load.seconds)


def settled(processes: Processes, url: str, asked: Asked, load: Load, pid: int) -> Outcome:
    """Do the same with connections that are all in use before the round begins, and weigh a process in it."""
    more = ("--duration", str(load.seconds), "--pid", str(pid))
    return _python(processes, url, asked, load, *more, seconds=load.seconds + _SETTLING_S)


def once(processes: Processes, url: str, asked: Asked, load: Load, at_most_s: float = 600.0) -> Outcome:
    """Have each target asked for once."""
    return _python(processes, url, asked, load, "--once", "--duration", str(at_most_s), seconds=at_most_s)


def open_loop(processes: Processes, url: str, asked: Asked, load: Load) -> Outcome:
    """Have requests sent at the times of a schedule, whether or not others are answered."""
    out = processes.folder / "open.json"
    out.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "benchmarks.openloop", "--url", url, "--rate", f"{load.rate_per_s:g}"]
    argv += ["--duration", str(load.seconds), "--connections", str(load.connections)]
    argv += ["--targets", str(asked.jsonl), "--json", str(out)]
    code, said = _run(processes, "open loop", argv, load.seconds)
    if not out.exists():
        raise LoadError(f"the open loop ended with {code}: {said[-400:]}")
    report = msgspec.json.decode(out.read_bytes())
    return Outcome(
        completed=report["completed"],
        duration_s=float(load.seconds),
        latency_ms=report["latency_ms"],
        # Statuses are reported separately.
        errors={name: n for name, n in report["errors"].items() if not name.startswith("status-")},
        statuses=report["by_status"],
        cache_statuses=report["by_outcome"],
        why_not=report["why_not"],
    )


def _wrk(processes: Processes, url: str, asked: Asked, load: Load) -> Outcome:
    program = find_program("wrk")
    if program is None:
        raise LoadError("wrk is not installed")
    script = Path(__file__).parent / "wrk.lua"
    argv = [
        str(program),
        "-t",
        str(_WRK_THREADS),
        "-c",
        str(load.connections),
        "-d",
        f"{max(1, round(load.seconds))}s",
    ]
    argv += ["--timeout", "10s", "-s", str(script), url, "--", str(asked.lines), urlsplit(url).netloc]
    argv += ["fresh" if load.fresh_ids else "same"]
    code, said = _run(processes, "wrk", argv, load.seconds)
    last = said.strip().rpartition("\n")[2]
    if code or not last.startswith("{"):
        raise LoadError(f"wrk ended with {code}: {said[-400:]}")
    return msgspec.json.decode(last, type=Outcome)


def _python(processes: Processes, url: str, asked: Asked, load: Load, *more: str, seconds: float) -> Outcome:
    out = processes.folder / "closed.json"
    out.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "benchmarks.load.closed_loop", "--url", url, "--targets", str(asked.jsonl)]
    argv += ["--json", str(out), "--connections", str(load.connections), *more]
    argv += ["--fresh-ids"] if load.fresh_ids else []
    code, said = _run(processes, "closed loop", argv, seconds)
    if code or not out.exists():
        raise LoadError(f"the closed loop ended with {code}: {said[-400:]}")
    return msgspec.json.decode(out.read_bytes(), type=Outcome)


def _run(processes: Processes, name: str, argv: list[str], seconds: float) -> tuple[int, str]:
    child = processes.start(name, argv, cpu=LOAD_CPU)
    try:
        code = child.wait(seconds + _MARGIN_S)
        return code, child.output()
    except TimeoutError as error:
        raise LoadError(str(error)) from error
    finally:
        processes.stop(child)
        child.log.unlink(missing_ok=True)
