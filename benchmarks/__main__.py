"""`./dev bench`: measures the gateway and its peers, or a running server, and writes the results."""

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec

from benchmarks.behaviour.scenario import names as behaviours
from benchmarks.harness.arguments import count, positive
from benchmarks.harness.catalogue import KINDS, WRK, find_program, missing_packages
from benchmarks.harness.descriptors import raise_limit
from benchmarks.harness.progress import progress
from benchmarks.harness.run_context import RunContext, begin
from benchmarks.load.generators import Generator
from benchmarks.measure.behaviour import play
from benchmarks.measure.collapse import measure_collapse
from benchmarks.measure.rounds import measure
from benchmarks.measure.running import measure_running
from benchmarks.measure.start import measure_start
from benchmarks.report.results import Measured, Missing, Result
from benchmarks.report.table import markdown
from benchmarks.scenarios.scenario import Scenario, ScenarioError, choose, read_all

from .report import results

_MEASURES = {
    "cost": measure,
    "latency": measure,
    "scaling": measure,
    "start": measure_start,
    "collapse": measure_collapse,
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure the gateway and its peers, each pinned to a core, in interleaved rounds.",
        epilog="A result is a JSON file, a Markdown report and plots, in benchmarks/results unless "
        "--out names another file. benchmarks/README.md says what each number means.",
    )
    made.add_argument("scenario", nargs="*", help="those to measure, by name (default: all); see --list")
    made.add_argument(
        "--quick", action="store_true", help="what the goals are about, and a little more: two minutes"
    )
    made.add_argument(
        "--list", action="store_true", help="list scenarios and contestants, and what is missing"
    )
    made.add_argument(
        "--rounds", type=count, metavar="N", help="rounds of each contestant (default: the scenario's)"
    )
    made.add_argument("--seconds", type=positive, metavar="S", help="of a round (default: the scenario's)")
    made.add_argument(
        "--out", type=Path, metavar="FILE", help="where the JSON goes; report and plots beside it"
    )
    made.add_argument("--only", action="append", metavar="NAME", help="only this contestant; may be repeated")
    made.add_argument(
        "--generator", choices=["wrk", "python"], help="of the closed loop (default: wrk if installed)"
    )
    made.add_argument("--no-plots", action="store_true", help="draw nothing")
    running = made.add_argument_group("a server that runs already")
    running.add_argument("--url", metavar="URL", help="put load on this one instead of starting anything")
    running.add_argument(
        "--targets", type=Path, metavar="FILE", help='JSONL, {"target": "/v2/…", "token": "…"} a line'
    )
    running.add_argument(
        "--target", action="append", metavar="PATH", help="a path, with the token in AOS_TOKEN"
    )
    running.add_argument("--connections", type=count, metavar="N", help="at once (default: 32)")
    running.add_argument("--rate", type=positive, metavar="R", help="a second: an open loop instead")
    running.add_argument(
        "--pid", type=count, metavar="PID", help="its process, to measure its CPU time on this machine"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure.

    Returns:
        The exit code: 0 done; 1 a scenario, or a round on a running server, measured nothing valid; 2 wrong
        usage; 3 the generator was late on a running server; 130 interrupted.
    """
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    raise_limit()
    try:
        check(options)
        if options.url is not None:
            return _run_on_server(options)
        wanted, plays = chosen(options)
        scenarios = [_adapted(one, options) for one in wanted]
        if options.list:
            print(_listing(scenarios, plays), end="")
            return 0
        return _run(scenarios, plays, options)
    except ScenarioError as error:
        print(f"./dev bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("./dev bench: interrupted", file=sys.stderr)
        return 130


def check(options: argparse.Namespace) -> None:
    """Refuse options that would be ignored.

    Raises:
        ScenarioError: there is one; the text names it.
    """
    of_server = ("targets", "target", "connections", "rate", "pid")
    of_scenarios = ("scenario", "quick", "list", "only")
    for name in of_server if options.url is None else of_scenarios:
        if getattr(options, name):
            shown = "a scenario" if name == "scenario" else f"--{name}"
            raise ScenarioError(f"{shown} {'needs' if options.url is None else 'cannot be had with'} --url")


def _writable(file: Path) -> Path:
    """Return where the result goes, once it is known that it can: not only after the measuring."""
    try:
        results.check_writable(file)
    except OSError as error:
        raise ScenarioError(f"--out {file}: {error.strerror}") from error
    return file


def _run_on_server(options: argparse.Namespace) -> int:
    file = _writable(options.out) if options.out else None
    running = measure_running(options, os.environ.get("AOS_TOKEN", ""))
    print(running.report, end="")
    if file is not None:
        _print_written(_write(running.result, file, plots=False))
    for problem in running.problems:
        print(f"./dev bench: {problem}", file=sys.stderr)
    return running.code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _adapted(scenario: Scenario, options: argparse.Namespace) -> Scenario:
    """Return a scenario with what the command line changes."""
    changes: dict[str, object] = {"rounds": options.rounds} if options.rounds else {}
    if options.seconds:
        changes["load"] = msgspec.structs.replace(scenario.load, seconds=options.seconds)
    if options.only:
        changes["contestant"] = [one for one in scenario.contestant if one.name in options.only]
        if not changes["contestant"]:
            names = ", ".join(one.name for one in scenario.contestant)
            raise ScenarioError(f"{scenario.name}: --only matches no contestant; there are {names}")
    return msgspec.structs.replace(scenario, **changes)


def chosen(options: argparse.Namespace) -> tuple[list[Scenario], list[str]]:
    """Return the scenarios that are measured and the names of those that are played.

    Raises:
        ScenarioError: a name fits none.
    """
    measurable = read_all()
    playable = behaviours()
    names: list[str] = options.scenario
    plays = [name for name in names if name in playable]
    others = [name for name in names if name not in playable]
    for name in others:
        if name not in measurable:
            raise ScenarioError(f"no scenario {name!r}; there are {', '.join([*measurable, *playable])}")
    if not names:
        plays = [] if options.only else behaviours(quick=options.quick)
        return choose(measurable, [], quick=options.quick), plays
    return choose(measurable, others, quick=options.quick) if others else [], plays


def _listing(scenarios: Sequence[Scenario], plays: Sequence[str]) -> str:
    lines = []
    for scenario in scenarios:
        lines.append(f"{scenario.name}{' (quick)' if scenario.quick else ''}: {scenario.title}")
        for entry in scenario.contestant:
            packages = missing_packages(KINDS[entry.kind].needs)
            lines.append(f"  {entry.name}" + (f" - install {', '.join(packages)}" if packages else ""))
    quick = behaviours(quick=True)
    lines += [
        f"{name}{' (quick)' if name in quick else ''}: played with and without the gateway" for name in plays
    ]
    if not WRK.is_met():
        lines.append(
            f"closed loop by a client in Python, which takes more of its core: install {WRK.package}"
        )
    return "\n".join(lines) + "\n"


def _generator(options: argparse.Namespace) -> Generator:
    chosen_generator: Generator | None = options.generator
    return chosen_generator or ("wrk" if find_program("wrk") else "python")


def _run(scenarios: Sequence[Scenario], plays: Sequence[str], options: argparse.Namespace) -> int:
    began_s = time.monotonic()
    generator = _generator(options)
    result = results.begin(is_quick=options.quick, generator=generator)
    file = _writable(options.out or results.file_for(result))
    if not WRK.is_met():
        result.missing.append(
            Missing("wrk", "all", f"install {WRK.package}; a client in Python stands in for it")
        )
    code = 0
    try:
        with progress(len(scenarios) + len(plays)) as of:
            for place, scenario in enumerate(scenarios):
                context = RunContext(generator, of(place), result.missing)
                measured = begin(scenario)
                result.scenarios.append(measured)
                _MEASURES[scenario.measure](measured, scenario, context)
            for place, name in enumerate(plays, len(scenarios)):
                played = play(name, RunContext(generator, of(place), result.missing))
                result.behaviour += [played] if played else []
        result.is_partial = False
    except KeyboardInterrupt:
        code = 130
    result.seconds = time.monotonic() - began_s
    written = _write(result, file, plots=not options.no_plots)
    print(markdown(result))
    _print_written(written)
    if not code and (missed := unmeasured(result, plays)):
        print(f"./dev bench: nothing valid was measured of {', '.join(missed)}", file=sys.stderr)
        code = 1
    return code


def _print_written(files: Sequence[Path]) -> None:
    print("\n".join(["Written:", *(f"  {file}" for file in files)]))


def unmeasured(result: Result, plays: Sequence[str]) -> list[str]:
    """Return those scenarios that came to nothing.

    Args:
        result: of the run.
        plays: the scenarios that were to be played.
    """
    played = {one["name"] for one in result.behaviour}
    missed = [one.name for one in result.scenarios if not _is_valid(one)]
    return missed + [name for name in plays if name not in played]


def _is_valid(measured: Measured) -> bool:
    # Round 0 holds the memory measured before.
    return any(one.number and not one.invalid for row in measured.rows for one in row.rounds)


def _write(result: Result, file: Path, *, plots: bool) -> list[Path]:
    results.save(result, file)
    report = file.with_suffix(".md")
    report.write_text(markdown(result), "utf-8")
    if not plots or not importlib.util.find_spec("matplotlib"):
        return [file, report]
    from benchmarks.report.plots import draw

    return [file, report, *draw(result, file.with_suffix(""))]


if __name__ == "__main__":
    sys.exit(main())
