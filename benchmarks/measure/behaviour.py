"""Behaviour scenarios as part of a run: each is played in a process of its own (`benchmarks.behaviour`)."""

import sys
from typing import Any

import msgspec

from benchmarks.harness.processes import Processes, StartError
from benchmarks.harness.run_context import RunContext
from benchmarks.report.results import Missing

_AT_MOST_S = 300.0


def play(name: str, context: RunContext) -> dict[str, Any] | None:
    """Play one and return what it came to, as `benchmarks.behaviour` writes it.

    Args:
        name: of the scenario.
        context: of the run.

    Returns:
        `None` when it failed; the reason stands with those that are left out.
    """
    context.on_progress(f"{name}: with and without the gateway", 0.0)
    with Processes() as processes:
        out = processes.folder / "behaviour.json"
        argv = [sys.executable, "-m", "benchmarks.behaviour", name, "--json", str(out)]
        try:
            child = processes.start("behaviour", argv)
            code = child.wait(_AT_MOST_S)
            if not code and out.exists():
                played: list[dict[str, Any]] = msgspec.json.decode(out.read_bytes())
                return played[0]
            why = child.output().strip().rpartition("\n")[2] or f"ended with {code}"
        except (StartError, TimeoutError) as error:
            why = str(error)
    context.missing.append(Missing("behaviour", name, why))
    return None
