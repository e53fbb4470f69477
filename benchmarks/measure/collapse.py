"""How many polls of one running execution share one upstream call."""

import statistics
import time

from benchmarks.harness.contestants import start
from benchmarks.harness.processes import Origin, Processes, StartError, get
from benchmarks.harness.run_context import RunContext, add, turns
from benchmarks.load.generators import closed, write_targets
from benchmarks.load.targets import make_targets
from benchmarks.report.results import Measured, Missing, Round
from benchmarks.scenarios.scenario import Scenario

_TRIPS = 7


def measure_collapse(measured: Measured, scenario: Scenario, context: RunContext) -> None:
    """Let many callers of one token poll one running execution, and count the upstream calls."""
    load = scenario.load
    with Processes() as processes:
        upstream = Origin(processes, delay_ms=load.upstream_ms)
        contestants = []
        for entry in context.present(scenario):
            try:
                contestants.append(start(processes, upstream, entry, load))
            except StartError as error:
                context.missing.append(Missing(entry.name, scenario.name, str(error)))
        asked = write_targets(make_targets(load), processes.folder, "targets")
        trip_s = statistics.median(_trip_s(upstream.url + asked.targets[0][0]) for _ in range(_TRIPS))
        order = turns(contestants, scenario.rounds) if contestants else []
        for done, (number, one) in enumerate(order):
            context.on_progress(f"{scenario.name}: round {number}, {one.entry.name}", done / len(order))
            before = upstream.requests()
            outcome = closed(processes, one.url, asked, load, context.generator)
            figures = {
                "polls": float(outcome.completed),
                "upstream_calls": float(upstream.requests() - before),
                "allowed_calls": outcome.duration_s / trip_s,
                **{f"{name}_ms": value for name, value in outcome.latency_ms.items()},
            }
            add(measured, one.entry.name, None, Round(number, figures, outcome.objection()))


def _trip_s(url: str) -> float:
    began_s = time.perf_counter()
    get(url)
    return time.perf_counter() - began_s
