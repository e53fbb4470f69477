"""Puts load on a running server: a gateway of your own, or what you use today."""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import msgspec

from benchmarks.harness import tree
from benchmarks.harness.catalogue import find_program
from benchmarks.harness.processes import Processes
from benchmarks.load.generators import Asked, Generator, LoadError, closed, open_loop, write_targets
from benchmarks.load.targets import Target, read_jsonl
from benchmarks.openloop.targets import BadTargetsError, RequestPath, Token
from benchmarks.report import results
from benchmarks.report.results import Measured, Result, Round, Row
from benchmarks.report.summary import spread
from benchmarks.report.table import table, with_spread
from benchmarks.scenarios.scenario import Load, ScenarioError

LATE = 3

_SAMPLES = 20
_SAMPLE_S = 10.0
_CONNECTIONS = 32
_ROUNDS = 5
_SECONDS = 5.0
# A connection that ends while it is idle, as at a restart, is no reason against a round.
_TOLERATED = 0.001


@dataclass
class Running:
    """Results of load on a running server.

    Attributes:
        result: all rounds, to be kept.
        report: the figures as Markdown.
        problems: what invalidates them, a line each.
        code: the exit code: 0, 1 when a round says nothing about the server, 3 when the generator was late,
            130 after an interruption.
    """

    result: Result
    report: str
    problems: list[str]
    code: int


def measure_running(options: argparse.Namespace, token: str) -> Running:
    """Put load on a server, some rounds.

    Args:
        options: of the command line.
        token: for targets without one.

    Raises:
        ScenarioError: the options cannot be used.
    """
    generator: Generator = options.generator or ("wrk" if find_program("wrk") else "python")
    generator = "open" if options.rate else generator
    url, base = _server(options.url, takes_tls=generator == "wrk")
    targets = [(base + path, own) for path, own in _targets(options, token)]
    if options.pid and tree.stat(options.pid) is None:
        raise ScenarioError(f"--pid {options.pid}: there is no such process")
    if without := sum(not own for _, own in targets):
        text = f"{without} of {len(targets)} targets are asked for without a token"
        print(f"./dev bench: AOS_TOKEN is not set: {text}", file=sys.stderr)
    result, row = _begin(options, generator, len(targets))
    sampled = look(url, targets)
    if not any(answer.startswith("200") for answer in sampled):
        found = "; ".join(f"{answer} ({number})" for answer, number in sampled.items())
        problem = f"nothing to measure: of the first {sampled.total()} targets none was answered 200: {found}"
        return Running(result, _report(result, sampled), [problem], 1)
    code = 0
    try:
        with Processes() as processes:
            asked = write_targets(targets, processes.folder, "targets")
            under = _Under(url, asked, result.scenarios[0].load, generator, options.pid)
            for number in range(1, result.scenarios[0].rounds + 1):
                turn, turn_code = _turn(number, under, processes)
                row.rounds.append(turn)
                # A generator that is late does not excuse a server that is gone.
                code = min(filter(None, (code, turn_code)), default=0)
                if not turn.figures.get("successes"):
                    break
        sampled = look(url, targets)
        result.is_partial = False
    except KeyboardInterrupt:
        code = 130
    result.sampled = dict(sampled)
    problems = [f"round {one.number} does not count: {one.invalid}" for one in row.rounds if one.invalid]
    problems += ["interrupted"] if result.is_partial else []
    return Running(result, _report(result, sampled), problems, code)


def _begin(options: argparse.Namespace, generator: Generator, records: int) -> tuple[Result, Row]:
    """Return the empty result, and the row in it that gets the rounds."""
    row = Row("server", None, [])
    load = Load(
        connections=options.connections or _CONNECTIONS,
        seconds=options.seconds or _SECONDS,
        records=records,
        rate_per_s=options.rate or 0.0,
    )
    result = results.begin(is_quick=False, generator=generator)
    result.scenarios = [
        Measured(
            name="running",
            title=options.url,
            measure="latency" if options.rate else "cost",
            rounds=options.rounds or _ROUNDS,
            load=load,
            order=[row.contestant],
            rows=[row],
        )
    ]
    return result, row


@dataclass(frozen=True)
class _Under:
    """The load of each round.

    Attributes:
        url: of the server.
        asked: the targets.
        load: how many at once, how long, at which rate.
        generator: what makes it.
        pid: the process that is weighed; `None` weighs none.
    """

    url: str
    asked: Asked
    load: Load
    generator: Generator
    pid: int | None


def _turn(number: int, under: _Under, processes: Processes) -> tuple[Round, int]:
    """Put the load on once; return what came of it, and the exit code for it."""
    pid = under.pid
    before_s = tree.cpu_s(pid) if pid else 0.0
    try:
        if under.generator == "open":
            outcome = open_loop(processes, under.url, under.asked, under.load)
        else:
            outcome = closed(processes, under.url, under.asked, under.load, under.generator)
    except LoadError as error:
        return Round(number, {}, str(error)), 1
    figures = {
        "completed": float(outcome.completed),
        "successes": float(outcome.successes()),
        "failures": float(outcome.failures()),
        "rate_per_s": outcome.completed / outcome.duration_s,
        **{f"{name}_ms": value for name, value in outcome.latency_ms.items()},
    }
    if pid:
        used_s = tree.cpu_s(pid) - before_s
        if tree.stat(pid) is None:
            return Round(number, figures, f"process {pid} has ended"), 1
        if outcome.completed:
            figures["cost_us"] = used_s / outcome.completed * 1e6
    why = outcome.objection(_TOLERATED)
    is_late = bool(why) and bool(outcome.successes()) and why == outcome.why_not
    return Round(number, figures, why), LATE if is_late else int(bool(why))


def look(url: str, targets: list[Target]) -> Counter[str]:
    """Request the first few targets once, up to one without a response; count status and Cache-Status."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    found: Counter[str] = Counter()
    for path, token in targets[:_SAMPLES]:
        connection = kind(parts.hostname or "", parts.port, timeout=_SAMPLE_S)
        try:
            connection.request("GET", path, headers={"X-Auth-Token": token} if token else {})
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            found[f"no answer, {getattr(error, 'strerror', None) or error or type(error).__name__}"] += 1
            break
        finally:
            connection.close()
        status = response.getheader("Cache-Status", "no Cache-Status")
        # Without how long it has left, which is another for each.
        said = "; ".join(part for part in status.split("; ") if not part.startswith("ttl="))
        found[f"{response.status}, {said}"] += 1
    return found


def _server(url: str, *, takes_tls: bool) -> tuple[str, str]:
    """Return scheme and authority, and the path that stands before every target."""
    try:
        parts = urlsplit(url)
        is_server = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError as error:
        raise ScenarioError(f"--url {url}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ScenarioError("--url: takes no user and password")
    if not is_server or parts.scheme not in ("http", "https"):
        raise ScenarioError(f"--url {url}: wanted http://host:port, or with a base path")
    if parts.scheme == "https" and not takes_tls:
        raise ScenarioError(f"--url {url}: https is for wrk alone (apt install wrk), and not for --rate")
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


def _targets(options: argparse.Namespace, token: str) -> list[Target]:
    _check("AOS_TOKEN", token or "none", Token)
    targets = [(_check("--target", path, RequestPath), token) for path in options.target or []]
    if options.targets:
        try:
            targets += [(path, own or token) for path, own in read_jsonl(options.targets)]
        except BadTargetsError as error:
            raise ScenarioError(f"--targets: {error}") from error
    if not targets:
        raise ScenarioError("--url needs --target or --targets: what to ask for")
    return targets


def _check(name: str, text: str, kind: object) -> str:
    """Return a text that can stand in a request; errors do not show it: it may be a secret."""
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        begins = "begins with / and " if kind is RequestPath else ""
        raise ScenarioError(f"{name} {begins}holds visible ASCII characters alone") from error
    return text


def _report(result: Result, sampled: Counter[str]) -> str:
    (measured,) = result.scenarios
    rounds = measured.rows[0].rounds

    def shown(figure: str, unit: str = "") -> str:
        return with_spread(spread([one.figures[figure] for one in rounds if figure in one.figures]), unit)

    rows = []
    if rounds:
        rows.append(["requests per second", shown("rate_per_s")])
        rows += [[name, shown(f"{name}_ms", "ms")] for name in ("p50", "p90", "p99", "p99.9", "max")]
        if any("cost_us" in one.figures for one in rounds):
            rows.append(["CPU per request", shown("cost_us", "µs")])
        failures = sum(one.figures.get("failures", 0.0) for one in rounds)
        rows.append(["answers that were not 200, or none", f"{failures:.0f}"])
    rows += [[f"of the first few: {name}", str(count)] for name, count in sampled.items()]
    valid = sum(not one.invalid for one in rounds)
    rows.append(["rounds that count", f"{valid} of {len(rounds)}"])
    return table([measured.title, "median (least–greatest)"], rows) + "\n"
