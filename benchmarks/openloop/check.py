"""The open-loop generator beside another one, autocannon, and beside arithmetic; prints a Markdown table.

Run it as ``python -m benchmarks.openloop.check --autocannon node_modules/.bin/autocannon``, after
``npm install autocannon@9`` in a folder of its own. `openloop-check.md` keeps its table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.harness.arguments import count, positive
from benchmarks.harness.processes import LOAD_CPU, GatewayServer, Origin, Processes, get
from benchmarks.openloop import Report

TOKEN: Final = "token-of-the-check"
HIT: Final = "/v2/stacks/stack-hit/actions/action-hit"
# A query goes past the cache: equal requests under way at the same time would share one fetch.
FORWARDED: Final = "/v2/stacks/running-check/actions/action-run?past=cache"
_SLACK_S: Final = 60.0
# Its own invalid runs are repeated; the other generator does not report validity.
_NOT_VALID: Final = 3
_TRIES: Final = 8
_INVALID: Final = "no valid run"

Cells = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One load that every generator offers.

    Attributes:
        name: its first cell.
        target: what is asked for.
        rate_per_s: requests a second.
        connections: open at most so many.
        delay_ms: how long the origin takes for each.
        is_direct: past the gateway, to the origin, whose latency under overload can be computed.
    """

    name: str
    target: str
    rate_per_s: int
    connections: int
    delay_ms: float = 0.0
    is_direct: bool = False


CASES: Final = (
    Case("hits", HIT, 500, 16),
    Case("hits", HIT, 2000, 16),
    Case("hits", HIT, 4000, 16),
    Case("forwarded, 20 ms upstream", FORWARDED, 160, 16, delay_ms=20),
    Case("forwarded, 20 ms upstream", FORWARDED, 600, 16, delay_ms=20),
    Case("20 ms origin, a quarter too much", FORWARDED, 250, 4, delay_ms=20, is_direct=True),
)


def computed(case: Case, duration_s: float) -> Cells:
    """Return rate, p50, p99 and max (ms) of an origin that does so many at once and takes so long for each.

    The n-th request is due at n / rate. Its turn comes when the one `connections` before it is done.
    """
    free_s = [0.0] * case.connections
    latencies_ms = []
    for number in range(int(case.rate_per_s * duration_s)):
        due_s = number / case.rate_per_s
        place = number % case.connections
        free_s[place] = max(due_s, free_s[place]) + case.delay_ms / 1000
        latencies_ms.append((free_s[place] - due_s) * 1000)
    cuts = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return len(latencies_ms) / duration_s, cuts[49], cuts[98], max(latencies_ms)


def ours(case: Case, url: str, duration_s: float, folder: Path) -> Cells | None:
    """Have the open-loop generator offer the load; ``None`` when it was never valid, on a busy machine."""
    targets, out = folder / "targets.jsonl", folder / "report.json"
    targets.write_text(json.dumps({"target": case.target, "token": TOKEN}))
    argv = [sys.executable, "-m", "benchmarks.openloop", "--url", url, "--targets", str(targets)]
    argv += ["--rate", str(case.rate_per_s), "--duration", str(duration_s), "--json", str(out)]
    for _ in range(_TRIES):
        done = _run([*argv, "--connections", str(case.connections)], duration_s)
        if done.returncode == 0:
            break
        print(done.stderr.decode().strip(), file=sys.stderr)
        if done.returncode != _NOT_VALID:
            raise RuntimeError("the generator failed")
    else:
        return None
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    latency = report.latency_ms
    return report.completed / duration_s, latency.p50, latency.p99, latency.max


def autocannon(binary: Path, case: Case, url: str, duration_s: float, *, is_corrected: bool) -> Cells:
    """Have autocannon offer the load; latencies as they were, or corrected by its own rule."""
    argv = [str(binary), "-j", "-R", str(case.rate_per_s), "-c", str(case.connections)]
    argv += ["-d", str(round(duration_s)), "-H", f"X-Auth-Token={TOKEN}", *([] if is_corrected else ["-C"])]
    done = _run([*argv, url + case.target], duration_s)
    if done.returncode:
        raise RuntimeError(f"autocannon: {done.stderr.decode()[-300:]}")
    result = json.loads(done.stdout)
    latency = result["latency"]
    return result["2xx"] / result["duration"], latency["p50"], latency["p99"], latency["max"]


def _run(argv: Sequence[str], duration_s: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, capture_output=True, timeout=duration_s + _SLACK_S, check=False)


def measure(binary: Path, rounds: int, duration_s: float) -> Iterator[list[str]]:
    """Run every case with every generator, round by round, and give the rows of the table as they come."""
    with Processes() as processes:
        origin = Origin(processes, cpu=LOAD_CPU)
        gateway = GatewayServer(processes, origin.url)
        for case in CASES:
            origin.delay(case.delay_ms)
            url = origin.url if case.is_direct else gateway.url
            get(url + case.target, X_Auth_Token=TOKEN)
            contestants: dict[str, Callable[[], Cells | None]] = {
                "this one": lambda c=case, u=url: ours(c, u, duration_s, processes.folder),  # type: ignore[misc]
                "autocannon -C": lambda c=case, u=url: autocannon(  # type: ignore[misc]
                    binary, c, u, duration_s, is_corrected=False
                ),
                "autocannon": lambda c=case, u=url: autocannon(  # type: ignore[misc]
                    binary, c, u, duration_s, is_corrected=True
                ),
            }
            taken: dict[str, list[Cells]] = {name: [] for name in contestants}
            for number in range(rounds):
                for name, contestant in contestants.items():
                    print(f"{case.name}, {case.rate_per_s}/s, round {number + 1}: {name}", file=sys.stderr)
                    if (cells := contestant()) is not None:
                        taken[name].append(cells)
            if case.is_direct:
                taken = {"arithmetic": [computed(case, duration_s)], **taken}
            yield from (_row(case, name, cells) for name, cells in taken.items())


def _row(case: Case, name: str, cells: Sequence[Cells]) -> list[str]:
    load = [case.name, f"{case.rate_per_s}/s", str(case.connections)]
    if not cells:
        return [*load, name, _INVALID, "–", "–", "–"]
    rate, *latencies = (statistics.median(column) for column in zip(*cells, strict=True))
    return [*load, name, f"{rate:.0f}/s", *(f"{latency:.2f}" for latency in latencies)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Read the options, measure, print the table.

    Returns:
        0, or 1 when a generator had no valid run of some load.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openloop.check")
    parser.add_argument("--autocannon", type=Path, required=True, metavar="PATH", help="its program")
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="medians over so many (3)")
    parser.add_argument("--seconds", type=positive, default=4.0, metavar="S", help="of each run (default 4)")
    options = parser.parse_args()
    titles = ["load", "offered", "connections", "generator", "answered", "p50 ms", "p99 ms", "max ms"]
    print(_line(titles), _line(["---"] * len(titles)), sep="\n", flush=True)
    code = 0
    for cells in measure(options.autocannon, options.rounds, options.seconds):
        print(_line(cells), flush=True)
        code |= _INVALID in cells
    return code


if __name__ == "__main__":
    sys.exit(main())
