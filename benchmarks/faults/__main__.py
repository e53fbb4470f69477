"""What faults of Redis and of the upstream cost: one Markdown table, measured over loopback.

Run it as ``python -m benchmarks.faults``. It needs what the tests need. Each fault has a gateway process of
its own. A few callers request one record at a steady pace, in three phases: before, during (for Redis, once
the breaker is open) and after; the upstream responds after a constant 2 ms. While the breaker is open, 1,000
stacks are written to: the pending invalidations are part of the recovery. A response is wrong if its body is
not the upstream's.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.harness.arguments import positive
from tests.testbed.client import RawClient

from .stage import FAULTS, FORWARDED, HEADERS, HITS, Fault, Stage, body_of, stage

CALLERS = 4
# Between two requests of one caller: a load that leaves the machine time, so that waiting shows.
PAUSE_S = 0.004
PHASE_S = 1.5
OPENING_S = 3.0
# Deadline of the wait; the promised bound is lower.
RECOVERY_S = 5.0
ALLOWED_RECOVERY_S = 2.0
ALLOWED_MORE_S = 0.025


@dataclass
class Phase:
    """What the requests of one phase came to; times in seconds."""

    times_s: list[float] = field(default_factory=list)
    wrong: int = 0
    errors: int = 0

    def quantile_s(self, percent: int) -> float:
        """Return a percentile."""
        return statistics.quantiles(self.times_s, n=100, method="inclusive")[percent - 1]

    def quantiles_ms(self) -> str:
        """Return p50 and p99 in milliseconds."""
        if len(self.times_s) < 2:
            return "–"
        return f"{self.quantile_s(50) * 1000:.1f} / {self.quantile_s(99) * 1000:.1f}"


@dataclass(frozen=True)
class Row:
    """One measured fault."""

    fault: Fault
    before: Phase
    during: Phase
    after: Phase
    opening: Phase
    recovery_s: float | None

    def phases(self) -> tuple[Phase, ...]:
        """Return all its requests."""
        return self.before, self.opening, self.during, self.after

    def broken(self) -> list[str]:
        """Return what was promised and not kept, in words."""
        found = []
        if any(phase.wrong for phase in self.phases()):
            found.append("a wrong answer")
        if any(phase.errors for phase in self.phases()):
            found.append("an error that could have been avoided")
        if self.recovery_s is None or self.recovery_s > ALLOWED_RECOVERY_S:
            found.append(f"not recovered within {ALLOWED_RECOVERY_S:g} s")
        if self.fault.is_bounded and self.during.quantile_s(99) > self.before.quantile_s(99) + ALLOWED_MORE_S:
            found.append(f"a p99 more than {ALLOWED_MORE_S * 1000:g} ms above the healthy one")
        return found

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        phases = self.phases()
        recovery = "not in time" if self.recovery_s is None else f"{self.recovery_s:.2f} s"
        return [
            self.fault.name,
            self.fault.path,
            str(sum(len(phase.times_s) for phase in phases)),
            str(sum(phase.wrong for phase in phases)),
            str(sum(phase.errors for phase in phases)),
            self.before.quantiles_ms(),
            self.during.quantiles_ms(),
            self.after.quantiles_ms(),
            recovery,
            "; ".join(self.broken()) or "yes",
        ]


async def ask(stage: Stage, fault: Fault, phase: Phase, client: RawClient, *, faulty: bool) -> bool:
    """Send one request, record its result and return whether it was right."""
    target = HITS if fault.path == "hits" else FORWARDED
    began_s = time.perf_counter()
    response = await client.request("GET", target, HEADERS, timeout_s=10.0)
    phase.times_s.append(time.perf_counter() - began_s)
    if response.status == 200:
        phase.wrong += response.body != body_of(target)
        return True
    phase.errors += not (faulty and response.status in fault.unavoidable)
    return False


async def run_phase(stage: Stage, fault: Fault, *, faulty: bool = False) -> Phase:
    """Have a few callers ask, one request after the other each, for the time of a phase."""
    phase = Phase()
    ends_s = time.perf_counter() + stage.phase_s

    async def caller() -> None:
        async with await RawClient.connect(stage.gateway.address) as client:
            while time.perf_counter() < ends_s:
                await ask(stage, fault, phase, client, faulty=faulty)
                await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
    return phase


async def run_until(
    stage: Stage, fault: Fault, phase: Phase, timeout_s: float, done: Callable[[], Awaitable[bool]]
) -> float | None:
    """Ask until something holds after a right answer; return how long that took, ``None``: it never did."""
    began_s = time.perf_counter()
    async with await RawClient.connect(stage.gateway.address) as client:
        while (passed_s := time.perf_counter() - began_s) < timeout_s:
            if await ask(stage, fault, phase, client, faulty=True) and await done():
                return time.perf_counter() - began_s
            await asyncio.sleep(0.002 if passed_s < 1 else 0.01)
    return None


async def measure(fault: Fault, phase_s: float) -> Row:
    """Play one fault on a stage of its own."""
    async with stage(phase_s) as played:
        opening = Phase()
        await run_until(played, fault, Phase(), OPENING_S, played.is_subscribed)
        before = await run_phase(played, fault)
        await fault.begins(played)
        if fault.opens:
            opened = await run_until(played, fault, opening, OPENING_S, played.breaker_is_open)
            if opened is None:
                raise RuntimeError(f"{fault.name}: the breaker did not open in {OPENING_S:g} s")
        during = await run_phase(played, fault, faulty=True)
        if fault.opens:
            await played.write_to_many_stacks()
        await fault.heals(played)
        recovery_s = await run_until(played, fault, opening, RECOVERY_S, played.is_settled)
        after = await run_phase(played, fault)
    return Row(fault, before, during, after, opening, recovery_s)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; p50 / p99 in milliseconds."""
    titles = [
        *("fault", "path", "requests", "wrong", "errors beyond the unavoidable"),
        *("before p50 / p99 ms", "during", "after", "recovered in", "kept"),
    ]
    lines = [titles, ["---"] * len(titles), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


async def run(pattern: str, phase_s: float) -> list[Row]:
    """Measure the faults whose name contains a text, one after the other."""
    return [await measure(fault, phase_s) for fault in FAULTS if pattern in fault.name]


def main() -> None:
    """Read the options, measure, print; exits with 1 when something that is promised was not kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose name contains this")
    parser.add_argument(
        "--phase", type=positive, default=PHASE_S, metavar="SECONDS", help=f"length of a phase ({PHASE_S:g})"
    )
    parser.add_argument("--json", action="store_true", help="print the cells as JSON instead")
    options = parser.parse_args()
    if not any(options.only in fault.name for fault in FAULTS):
        names = "; ".join(dict.fromkeys(fault.name for fault in FAULTS))
        parser.error(f"--only {options.only}: no fault has this in its name; there are {names}")
    rows = asyncio.run(run(options.only, options.phase))
    print(json.dumps([row.cells() for row in rows], ensure_ascii=False) if options.json else table(rows))
    if any(row.broken() for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
