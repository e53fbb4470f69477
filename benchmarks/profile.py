"""Shows where the gateway's time goes under the load of a scenario: `python -m benchmarks.profile SCENARIO`.

With py-spy it writes a flame graph (SVG) and a table of functions; without, or where it may not look into
another process, cProfile gives a table alone, and makes Python functions dearer than they are.
"""

import argparse
import io
import pstats
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.harness.arguments import count
from benchmarks.harness.catalogue import find_program
from benchmarks.harness.contestants import LONG_LIVED, setting_text
from benchmarks.harness.processes import LOAD_CPU, ROOT, GatewayServer, Origin, Processes, Redis
from benchmarks.load.generators import Generator, LoadError, closed, once, write_targets
from benchmarks.load.targets import make_targets
from benchmarks.report.results import FOLDER
from benchmarks.report.table import table
from benchmarks.scenarios.scenario import Entry, Load, Scenario, ScenarioError, choose, read_all

_RATE_PER_S = 500
_ROWS = 25
_RECORDS = 2000
_SPY_MARGIN_S = 60.0


class ProfileError(Exception):
    """py-spy could not do its work."""


def top_table(stacks: str, rows: int = _ROWS) -> str:
    """Return the functions that took most time, as Markdown.

    Args:
        stacks: py-spy's raw format: a line for each stack, its frames parted by ``;``, and a count.
        rows: how many.
    """
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if not count.isdigit():
            continue
        # Without the line, which would make many rows of one function.
        names = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in frames.split(";")]
        total += int(count)
        own[names[-1]] += int(count)
        whole.update({name: int(count) for name in names})
    if not total:
        return "no samples\n"
    lines = [
        [name, f"{count / total:.1%}", f"{whole[name] / total:.1%}"] for name, count in own.most_common(rows)
    ]
    return table([f"function ({total} samples)", "itself", "with what it calls"], lines) + "\n"


def spy(scenario: Scenario, entry: Entry, seconds: int, stem: Path) -> list[Path]:
    """Record with py-spy, and return the files written.

    Raises:
        ProfileError: there is no py-spy, or it may not look into another process.
    """
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise ProfileError("there is no py-spy (./dev bench installs it)")
    graph, raw = stem.with_suffix(".svg"), stem.with_suffix(".raw")
    with Processes() as processes:
        stage = Stage(processes, scenario, entry, ())
        for out, form in ((graph, "flamegraph"), (raw, "raw")):
            argv = [str(program), "record", "--pid", str(stage.gateway.child.pid), "--native"]
            argv += [
                "--duration",
                str(seconds),
                "--rate",
                str(_RATE_PER_S),
                "--format",
                form,
                "--output",
                str(out),
            ]
            child = processes.start("py-spy", argv, cpu=LOAD_CPU)
            stage.load(seconds + 1)
            if child.wait(_SPY_MARGIN_S) or not out.exists():
                raise ProfileError(child.output().strip().rpartition("\n")[2])
    report = stem.with_suffix(".md")
    report.write_text(f"# {scenario.title}\n\n{top_table(raw.read_text('utf-8'))}", "utf-8")
    raw.unlink()
    return [graph, report]


def trace(scenario: Scenario, entry: Entry, seconds: int, stem: Path) -> list[Path]:
    """Record with cProfile, and return the file written."""
    with Processes() as processes:
        numbers = processes.folder / "profile"
        stage = Stage(processes, scenario, entry, ("-m", "cProfile", "-o", str(numbers)))
        stage.load(seconds)
        # It writes its numbers when the gateway ends by itself.
        stage.gateway.child.stop()
        said = io.StringIO()
        pstats.Stats(str(numbers), stream=said).sort_stats("tottime").print_stats(_ROWS)
    report = stem.with_suffix(".txt")
    report.write_text(said.getvalue().replace(f"{ROOT}/", ""), "utf-8")
    return [report]


class Stage:
    """The gateway of a scenario, filled, and ready to be put under load.

    Args:
        processes: what everything belongs to.
        scenario: whose load it is; the first value of a series.
        entry: the gateway among its contestants.
        under: options of Python before ``-m gateway``.
    """

    def __init__(self, processes: Processes, scenario: Scenario, entry: Entry, under: Sequence[str]) -> None:
        self._processes = processes
        self._load = scenario.loads()[0][1]
        upstream = Origin(processes, delay_ms=self._load.upstream_ms)
        settings = {**LONG_LIVED, **{name: setting_text(value) for name, value in entry.settings.items()}}
        if entry.redis:
            settings["redis.url"] = Redis(processes).url
        self.gateway = GatewayServer(processes, upstream.url, settings=settings, under=under)
        self._asked = write_targets(make_targets(self._load), processes.folder, "targets")
        once(processes, self.gateway.url, self._asked, Load(fresh_ids=self._load.fresh_ids))

    def load(self, seconds: int) -> None:
        """Put the load on it for some seconds."""
        generator: Generator = "wrk" if find_program("wrk") else "python"
        load = msgspec.structs.replace(self._load, seconds=seconds)
        outcome = closed(self._processes, self.gateway.url, self._asked, load, generator)
        if why := outcome.objection():
            raise LoadError(why)


def main() -> int:
    """Read the command line, record, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("\n")[0])
    parser.add_argument("scenario", help="whose load: hit, spread, redis-hit, forwarded, …")
    parser.add_argument(
        "--contestant", default="gateway", metavar="NAME", help="a gateway among its contestants"
    )
    parser.add_argument("--seconds", type=count, default=5, metavar="S", help="of load (default: 5)")
    parser.add_argument("--out", type=Path, metavar="STEM", help="path without ending (default: in results)")
    parser.add_argument("--cprofile", action="store_true", help="with cProfile, even if py-spy is there")
    options = parser.parse_args()
    stem: Path = options.out or FOLDER / f"profile-{options.scenario}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        scenario = choose(read_all(), [options.scenario], quick=False)[0]
        entries = [
            one for one in scenario.contestant if one.kind == "gateway" and one.name == options.contestant
        ]
        if not entries:
            raise ScenarioError(f"{scenario.name} has no gateway {options.contestant!r}")
        written = _record(scenario, entries[0], options.seconds, stem, with_spy=not options.cprofile)
    except ScenarioError as error:
        print(error, file=sys.stderr)
        return 2
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print("\n".join(str(file) for file in written))
    return 0


def _record(scenario: Scenario, entry: Entry, seconds: int, stem: Path, *, with_spy: bool) -> list[Path]:
    if with_spy:
        try:
            return spy(scenario, entry, seconds, stem)
        except ProfileError as error:
            print(f"{error}: cProfile instead", file=sys.stderr)
    return trace(scenario, entry, seconds, stem)


if __name__ == "__main__":
    sys.exit(main())
