"""The measurements without a cost per request: start to ready, and how many polls share one upstream call."""

from __future__ import annotations

import statistics
import time

from benchmarks.harness.contestants import import_s, start
from benchmarks.harness.processes import Origin, Processes, StartError, get
from benchmarks.harness.setting import Setting, add, turns
from benchmarks.load.loads import closed, write_targets
from benchmarks.load.targets import make_targets
from benchmarks.report.results import Measured, Missing, Round
from benchmarks.scenarios.scenario import Scenario

_IDLE_S = 0.3
_MB = 1e6
_TRIPS = 7


def measure_start(measured: Measured, scenario: Scenario, setting: Setting) -> None:
    """Start each contestant again and again, and weigh it when it is idle."""
    entries = setting.present(scenario)
    with Processes() as around:
        upstream = Origin(around)
        order = turns(entries, scenario.rounds)
        for done, (number, entry) in enumerate(order):
            setting.tell(f"{scenario.name}: round {number}, {entry.name}", done / len(order))
            if entry.kind == "import":
                add(measured, entry.name, None, Round(number, {"ready_s": import_s()}))
                continue
            with Processes() as processes:
                try:
                    one = start(processes, upstream, entry, scenario.load, bare=True)
                except StartError as error:
                    setting.missing.append(Missing(entry.name, scenario.name, str(error)))
                    continue
                time.sleep(_IDLE_S)
                figures = {"ready_s": one.child.started_s, "rss_mb": one.child.rss_bytes() / _MB}
                add(measured, entry.name, None, Round(number, figures))


def measure_collapse(measured: Measured, scenario: Scenario, setting: Setting) -> None:
    """Let many callers of one token poll one running execution, and count what the upstream hears of it."""
    load = scenario.load
    with Processes() as processes:
        upstream = Origin(processes, delay_ms=load.upstream_ms)
        contestants = []
        for entry in setting.present(scenario):
            try:
                contestants.append(start(processes, upstream, entry, load))
            except StartError as error:
                setting.missing.append(Missing(entry.name, scenario.name, str(error)))
        asked = write_targets(make_targets(load), processes.folder, "targets")
        trip_s = statistics.median(_trip_s(upstream.url + asked.targets[0][0]) for _ in range(_TRIPS))
        order = turns(contestants, scenario.rounds) if contestants else []
        for done, (number, one) in enumerate(order):
            setting.tell(f"{scenario.name}: round {number}, {one.entry.name}", done / len(order))
            before = upstream.requests()
            outcome = closed(processes, one.url, asked, load, setting.generator)
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
