"""The measurements under load: what a request costs the server, and how long answers take at a given rate."""

from dataclasses import dataclass

import msgspec

from benchmarks.harness.catalogue import KINDS
from benchmarks.harness.contestants import Contestant, settle, start
from benchmarks.harness.origin import RUNNING, answer
from benchmarks.harness.processes import SERVER_CPU, Origin, Processes, StartError
from benchmarks.harness.run_context import RunContext, add, turns
from benchmarks.harness.tree import busy_s
from benchmarks.load.generators import (
    Asked,
    LoadError,
    Outcome,
    closed,
    once,
    open_loop,
    settled,
    write_targets,
)
from benchmarks.load.targets import make_targets
from benchmarks.report.results import Measured, Missing, Round
from benchmarks.scenarios.scenario import Load, Scenario

# Tolerated share of upstream calls in a scenario of hits: a record may expire between two rounds.
_STRAY_SHARE = 0.001
# Memory per entry cannot be measured with fewer entries: a process grows anyway.
_WEIGHED_ENTRIES = 5000
_PRIMING = 1000
_PRIMING_S = 5.0
_FILL_CONNECTIONS = 32


@dataclass(frozen=True)
class _Under:
    """One load of a scenario.

    Attributes:
        x: the value of the series; `None` without one.
        load: the load.
        asked: its targets.
        where: where it differs from the others, for the progress line.
    """

    x: float | None
    load: Load
    asked: Asked
    where: str


def measure(measured: Measured, scenario: Scenario, context: RunContext) -> None:
    """Measure all contestants of a scenario in turns under each of its loads.

    Args:
        measured: receives the results turn by turn, so that an interruption keeps what was measured.
        scenario: what is measured.
        context: of the run.
    """
    _Measurement(measured, scenario, context).run()


class _Measurement:
    """A scenario under way."""

    def __init__(self, measured: Measured, scenario: Scenario, context: RunContext) -> None:
        self._measured = measured
        self._scenario = scenario
        self._context = context
        self._entries = context.present(scenario)

    def run(self) -> None:
        """Measure under every load; processes stay for all of them, unless each load has its own filling."""
        loads = self._scenario.loads()
        if self._scenario.fill == "store":
            for place, one in enumerate(loads):
                self._run_with([one], place, len(loads))
        else:
            self._run_with(loads, 0, len(loads))

    def _run_with(self, loads: list[tuple[float | None, Load]], first: int, total: int) -> None:
        with Processes() as processes:
            # Whatever fits the largest record and token, and the most connections, fits the others.
            widest = msgspec.structs.replace(
                loads[0][1],
                connections=max(one.connections for _, one in loads),
                body_bytes=max(one.body_bytes for _, one in loads),
                token_bytes=max(one.token_bytes for _, one in loads),
            )
            contestants = self._start(processes, widest)
            for place, (x, load) in enumerate(loads, first):
                asked = write_targets(make_targets(load), processes.folder, f"targets-{place}")
                key = self._scenario.series.key if self._scenario.series else ""
                under = _Under(x, load, asked, "" if x is None else f" at {key} {x:g}")
                ready = [one for one in contestants if self._prepare(one, under)]
                order = turns(ready, self._scenario.rounds) if ready else []
                for done, (number, one) in enumerate(order):
                    self._show(
                        f"{under.where}: round {number}, {one.entry.name}",
                        (place + done / len(order)) / total,
                    )
                    add(self._measured, one.entry.name, x, self._turn(number, one, under, processes))

    def _start(self, processes: Processes, load: Load) -> list[Contestant]:
        upstream = Origin(processes, delay_ms=load.upstream_ms)
        by_store = self._scenario.fill == "store"
        cpu = None if self._scenario.measure == "scaling" else SERVER_CPU
        contestants = []
        for entry in self._entries:
            self._show(f": starting {entry.name}", 0.0)
            try:
                one = start(processes, upstream, entry, load, by_store=by_store, cpu=cpu)
            except StartError as error:
                self._leave_out(entry.name, str(error))
                continue
            if self._scenario.hits and (why := flaw(one)):
                self._leave_out(entry.name, why)
                continue
            contestants.append(one)
        return contestants

    def _prepare(self, one: Contestant, under: _Under) -> bool:
        """Fill and warm one contestant; a wrong answer is named, and keeps it out of this load."""
        self._show(f"{under.where}: filling {one.entry.name}", 0.0)
        load, targets = under.load, under.asked.targets
        path, token = targets[0]
        status, body = settle(one, path, token)
        expected = answer(path.encode("ascii"), load.body_bytes).partition(b"\r\n\r\n")[2]
        if (status, body) != (200, expected):
            why = f"answered {status} and {len(body)} bytes instead of the record's {len(expected)}"
            self._leave_out(one.entry.name, why)
            return False
        with Processes() as processes:
            if self._scenario.hits and self._scenario.fill == "requests":
                self._fill(one, under, processes)
            # With as many connections as in the rounds, so that the first of them is like the others.
            warm = Load(connections=load.connections, fresh_ids=load.fresh_ids)
            some = targets[: max(_PRIMING, load.connections)]
            once(processes, one.url, write_targets(some, processes.folder, "some"), warm, _PRIMING_S)
        return True

    def _fill(self, one: Contestant, under: _Under, processes: Processes) -> None:
        """Ask for every record once; where they are many, weigh what the process grows by."""
        targets = under.asked.targets
        load = Load(connections=_FILL_CONNECTIONS, fresh_ids=under.load.fresh_ids)
        if len(targets) < _WEIGHED_ENTRIES:
            once(processes, one.url, under.asked, load)
            return
        # Growth caused by the first requests is not memory of entries.
        others = make_targets(Load(records=_PRIMING, running=True))
        once(processes, one.url, write_targets(others, processes.folder, "others"), load)
        before = one.child.rss_bytes()
        once(processes, one.url, under.asked, load)
        entry_bytes = (one.child.rss_bytes() - before) / len(targets)
        whole = len(answer(targets[0][0].encode("ascii"), under.load.body_bytes))
        figures = {"entry_bytes": entry_bytes, "overhead_bytes": entry_bytes - whole}
        add(self._measured, one.entry.name, under.x, Round(0, figures))

    def _turn(self, number: int, one: Contestant, under: _Under, processes: Processes) -> Round:
        """Put the load on one contestant once."""
        calls, hits = one.upstream.requests(), _hits(one)
        cpu_s, core_s, machine_s = one.child.cpu_s(), busy_s(SERVER_CPU), busy_s()
        try:
            if self._scenario.measure == "latency":
                outcome = open_loop(processes, one.url, under.asked, under.load)
            elif under.load.settled:
                outcome = settled(processes, one.url, under.asked, under.load, one.child.pid)
            else:
                outcome = closed(processes, one.url, under.asked, under.load, self._context.generator)
        except LoadError as error:
            return Round(number, {}, str(error))
        cpu_s = one.child.cpu_s() - cpu_s if outcome.cpu_s is None else outcome.cpu_s
        others_s = max(0.0, busy_s(SERVER_CPU) - core_s - cpu_s)
        elsewhere_s = max(0.0, busy_s() - machine_s - cpu_s)
        figures = {
            "completed": float(outcome.completed),
            "rate_per_s": outcome.completed / outcome.duration_s,
            "cpu_share": cpu_s / outcome.duration_s,
            "others_share": others_s / outcome.duration_s,
            "elsewhere_share": elsewhere_s / outcome.duration_s,
            "upstream_calls": float(one.upstream.requests() - calls),
            **{f"{name}_ms": value for name, value in outcome.latency_ms.items()},
        }
        if outcome.completed:
            figures["cost_us"] = cpu_s / outcome.completed * 1e6
        hits_now = _hits(one)
        counted = None if hits is None or hits_now is None else hits_now - hits
        hits_wanted = self._scenario.hits
        return Round(
            number, figures, objection(outcome, figures["upstream_calls"], counted, hits=hits_wanted)
        )

    def _show(self, text: str, share: float) -> None:
        self._context.on_progress(f"{self._scenario.name}{text}", share)

    def _leave_out(self, name: str, why: str) -> None:
        self._context.missing.append(Missing(name, self._scenario.name, why))


def flaw(one: Contestant) -> str:
    """Return why a contestant's hits are not comparable; empty if they are.

    Two callers ask for one settled record, which has to be fetched for each of them. Those which look into
    bodies are asked twice for a running one, which has to be fetched each time.
    """
    calls = one.upstream.requests()
    for caller in ("first", "second"):
        settle(one, "/v2/stacks/stack-check/actions/check", f"token-of-the-{caller}-caller")
    if one.upstream.requests() < calls + 2:
        return "gave one caller's record to another"
    for _ in range(2):
        settle(one, f"/v2/stacks/{RUNNING.decode()}-check/actions/check", "token-of-the-first-caller")
    if KINDS[one.entry.kind].reads_bodies and one.upstream.requests() < calls + 4:
        return "kept a running record"
    return ""


def objection(outcome: Outcome, upstream_calls: float, counted_hits: float | None, *, hits: bool) -> str:
    """Return why a turn does not count; empty if it does.

    Args:
        outcome: of the load.
        upstream_calls: that the upstream had meanwhile.
        counted_hits: what the gateway itself counted meanwhile; `None` for others.
        hits: the answers should have come out of the cache, or else none of them.
    """
    if why := outcome.objection():
        return why
    if hits and upstream_calls > _STRAY_SHARE * outcome.completed:
        return f"{upstream_calls:.0f} of {outcome.completed} were no hits"
    if hits and counted_hits is not None and counted_hits < (1 - _STRAY_SHARE) * outcome.completed:
        return f"the gateway counted {counted_hits:.0f} hits for {outcome.completed} answers"
    if not hits and upstream_calls < (1 - _STRAY_SHARE) * outcome.completed:
        return f"only {upstream_calls:.0f} of {outcome.completed} were forwarded"
    return ""


def _hits(one: Contestant) -> float | None:
    """Return how many hits a gateway has counted; `None` for others."""
    if one.gateway is None:
        return None
    lines = one.gateway.metrics().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("aos_gateway_requests_total{") and 'outcome="hit"' in line
    )
