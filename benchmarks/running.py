"""Puts load on a server that runs already: one's own gateway, or what one has today."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from . import tree
from .catalogue import find_program
from .loads import Generator, LoadError, Outcome, closed, open_loop, write_targets
from .processes import Processes
from .scenario import Load, ScenarioError
from .summary import spread
from .table import table, with_spread
from .targets import Target, read_jsonl

_SAMPLES = 20
_SAMPLE_S = 10.0


def measure_running(options: argparse.Namespace, token: str) -> str:
    """Put load on a server, some rounds, and return the report as Markdown.

    Args:
        options: of the command line.
        token: for those targets that are given without one.

    Raises:
        ScenarioError: the options name nothing to ask for.
    """
    targets = _targets(options, token)
    load = Load(
        connections=options.connections,
        seconds=options.seconds or 5,
        rate_per_s=options.rate or 0.0,
    )
    generator: Generator = options.generator or ("wrk" if find_program("wrk") else "python")
    outcomes: list[Outcome] = []
    costs_us: list[float] = []
    with Processes() as processes:
        asked = write_targets(targets, processes.folder, "targets")
        try:
            for _ in range(options.rounds or 5):
                before_s = tree.cpu_s(options.pid) if options.pid else 0.0
                if options.rate:
                    outcome = open_loop(processes, options.url, asked, load)
                else:
                    outcome = closed(processes, options.url, asked, load, generator)
                outcomes.append(outcome)
                if options.pid and outcome.completed:
                    costs_us.append((tree.cpu_s(options.pid) - before_s) / outcome.completed * 1e6)
        except LoadError as error:
            raise ScenarioError(str(error)) from error
    return _report(options.url, outcomes, costs_us, verdicts(options.url, targets))


def verdicts(url: str, targets: list[Target]) -> Counter[str]:
    """Ask for the first few targets once, and count status and Cache-Status."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    found: Counter[str] = Counter()
    for path, token in targets[:_SAMPLES]:
        connection = kind(parts.hostname or "", parts.port, timeout=_SAMPLE_S)
        with suppress(OSError, HTTPException):
            headers = {"X-Auth-Token": token} if token else {}
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            response = connection.getresponse()
            status = response.getheader("Cache-Status", "no Cache-Status")
            # Without how long it has left, which is another for each.
            said = "; ".join(part for part in status.split("; ") if not part.startswith("ttl="))
            found[f"{response.status}, {said}"] += 1
        connection.close()
    return found


def _targets(options: argparse.Namespace, token: str) -> list[Target]:
    targets = [(path, token) for path in options.target or []]
    if options.targets:
        try:
            targets += [(path, own or token) for path, own in read_jsonl(options.targets)]
        except (OSError, ValueError, LookupError) as error:
            raise ScenarioError(f"--targets: {error}") from error
    if not targets:
        raise ScenarioError("--url needs --target or --targets: what to ask for")
    return targets


def _report(url: str, outcomes: list[Outcome], costs_us: list[float], sampled: Counter[str]) -> str:
    rows = [
        ["requests per second", with_spread(spread([one.completed / one.duration_s for one in outcomes]))]
    ]
    for name in ("p50", "p90", "p99", "p99.9", "max"):
        values = [one.latency_ms[name] for one in outcomes if name in one.latency_ms]
        rows.append([name, with_spread(spread(values), "ms")])
    if costs_us:
        rows.append(["CPU per request", with_spread(spread(costs_us), "µs")])
    rows.append(["answers that were not 200, or none", str(sum(one.failures() for one in outcomes))])
    rows += [[f"of the first few: {name}", str(count)] for name, count in sampled.items()]
    late = sum(not one.is_valid for one in outcomes)
    rows += [["rounds in which the generator itself was late", str(late)]] if late else []
    return table([url, "median (least–greatest)"], rows) + "\n"
