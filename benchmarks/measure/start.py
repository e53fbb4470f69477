"""Start to ready, and memory when idle."""

import time

from benchmarks.harness.contestants import import_s, start
from benchmarks.harness.processes import Origin, Processes, StartError
from benchmarks.harness.run_context import RunContext, add, turns
from benchmarks.report.results import Measured, Missing, Round
from benchmarks.scenarios.scenario import Scenario

_IDLE_S = 0.3
_MB = 1e6


def measure_start(measured: Measured, scenario: Scenario, context: RunContext) -> None:
    """Start each contestant again and again, and read its memory when it is idle."""
    entries = context.present(scenario)
    with Processes() as around:
        upstream = Origin(around)
        order = turns(entries, scenario.rounds)
        for done, (number, entry) in enumerate(order):
            context.on_progress(f"{scenario.name}: round {number}, {entry.name}", done / len(order))
            if entry.kind == "import":
                add(measured, entry.name, None, Round(number, {"ready_s": import_s()}))
                continue
            with Processes() as processes:
                try:
                    one = start(processes, upstream, entry, scenario.load, bare=True)
                except StartError as error:
                    context.missing.append(Missing(entry.name, scenario.name, str(error)))
                    continue
                time.sleep(_IDLE_S)
                figures = {"ready_s": one.child.started_s, "rss_mb": one.child.rss_bytes() / _MB}
                add(measured, entry.name, None, Round(number, figures))
