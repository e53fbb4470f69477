"""The harness end to end: a short run, an interrupted one, and load on a server that runs already."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import chosen, parser, unmeasured
from benchmarks.harness import tree
from benchmarks.harness.contestants import filled
from benchmarks.harness.processes import Origin, Processes, get
from benchmarks.load.closed_loop import requests
from benchmarks.load.generators import closed, once, settled, write_targets
from benchmarks.load.targets import make_targets
from benchmarks.report.results import Round, Row, load_result
from benchmarks.scenarios.scenario import Load
from tests.benchmarks.kit import measured, result, row

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


@pytest.fixture(scope="module")
def origin(processes: Processes) -> Origin:
    return Origin(processes)


def bench(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_run_measures_each_contestant_and_writes_what_came_of_it(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with bench(
        *("forwarded", "workers", "--only", "gateway", "--only", "bare aiohttp proxy"),
        *("--only", "gateway, 2 workers"),
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--generator",
        "python",
        "--no-plots",
        "--out",
        str(file),
    ) as run:
        output, errors = run.communicate(timeout=25)
    assert run.returncode == 0, errors
    result = load_result(file)
    assert not result.is_partial
    measured, workers = result.scenarios
    assert [(row.contestant, row.reasons()) for row in measured.sorted_rows()] == [
        ("gateway", []),
        ("bare aiohttp proxy", []),
    ]
    assert all(row.values("cost_us")[0] > 0 for row in measured.rows)
    assert "≤ 1 × bare aiohttp proxy, stretch ≤ 0.8" in output
    assert [(row.contestant, row.reasons()) for row in workers.rows] == [("gateway, 2 workers", [])]
    assert 0 < workers.rows[0].values("cpu_share")[0] < 2.1
    assert "| contestant | requests per second | its cores | cores of load, upstream and others |" in output
    assert (tmp_path / "result.md").read_text().startswith("# Measurements\n")


def test_an_interrupted_run_ends_everything_and_says_that_its_results_are_partial(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with bench("start", "--only", "gateway", "--rounds", "50", "--no-plots", "--out", str(file)) as run:
        deadline_s = time.monotonic() + 20
        # The origin, a gateway, and whatever that has started.
        while len(family := tree.tree(run.pid)) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=20)
    assert run.returncode == 130
    assert load_result(file).is_partial
    assert "**Interrupted: these results are partial.**" in output
    assert [one.pid for one in family if tree.lives(one)] == []


def test_a_server_that_runs_already_is_put_under_load(origin: Origin) -> None:
    path, token = make_targets(Load())[0]
    environment = {**os.environ, "AOS_TOKEN": token}
    command = ["--url", origin.url, "--target", path, "--rounds", "1", "--seconds", "0.3"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks",
            *command,
            "--pid",
            str(origin.child.pid),
            "--generator",
            "python",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "| answers that were not 200, or none | 0 |" in lines
    assert "| of the first few: 200, no Cache-Status | 1 |" in lines
    assert any(line.startswith("| CPU per request | ") for line in lines)
    assert token not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "measured", "played"),
    [
        (["herd", "hit", "throttled"], ["hit"], ["herd", "throttled"]),
        (["herd"], [], ["herd"]),
        (["latency", "--quick"], ["latency"], []),
    ],
)
def test_scenarios_of_both_sorts_are_chosen_by_name(
    arguments: list[str], measured: list[str], played: list[str]
) -> None:
    scenarios, plays = chosen(parser().parse_args(arguments))
    assert ([one.name for one in scenarios], plays) == (measured, played)


def test_a_quick_run_plays_the_pollers_and_a_full_run_everything() -> None:
    quick, full = (chosen(parser().parse_args(arguments)) for arguments in (["--quick"], []))
    assert quick[1] == ["pollers"]
    assert {"pollers", "herd", "redis-dies", "throttled"} <= set(full[1])
    assert {one.name for one in quick[0]} < {one.name for one in full[0]}


def test_a_scenario_without_result_is_reported_though_others_have_one() -> None:
    good, bad = measured(row("gateway", [1.0])), measured(row("gateway", [None]))
    bad.name = "bad"
    weighed = measured(Row("gateway", None, [Round(0, {"entry_bytes": 1.0})]))
    weighed.name = "weighed"
    run = result(good, bad, weighed)
    run.behaviour = [{"name": "herd"}]
    assert unmeasured(run, ["herd", "mixed"]) == ["bad", "weighed", "mixed"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("hot",), "no scenario 'hot'"),
        (("--url", "http://127.0.0.1:1"), "--target"),
        (("hit", "--rate", "5"), "--rate needs --url"),
        (("hit", "--only", "x"), "matches no contestant"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: tuple[str, ...], problem: str) -> None:
    with bench(*arguments) as run:
        output, errors = run.communicate(timeout=25)
    assert (run.returncode, output, errors.count("\n")) == (2, "", 1)
    assert problem in errors


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("faults", "--only", "no such fault"), "no fault has this in its name"),
        (("faults.slow_peers", "--peers", "0"), "0 is not a positive whole number"),
        (("profile", "hit", "--seconds", "0"), "0 is not a positive whole number"),
        (
            ("load.closed_loop", "--url", "http://h", "--targets", "/none", "--json", "/none/x"),
            "/none: No such file",
        ),
    ],
)
def test_commands_that_would_measure_nothing_end_with_2_and_the_reason(
    arguments: tuple[str, ...], problem: str
) -> None:
    module, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *rest],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_the_origin_answers_by_the_path_alone(origin: Origin) -> None:
    def ask(stack: str, action: str) -> tuple[int, bytes]:
        return get(f"{origin.url}/v2/stacks/{stack}/actions/{action}")

    before = origin.requests()
    status, body = ask("stack-1", "action-1")
    assert (status, len(body)) == (200, 1250)
    record = json.loads(body)
    assert record["metadata"]["name"] == "action-1"
    assert record["status"]["objectStatus"]["phase"] == "Succeeded"
    assert json.loads(ask("running-1", "action-1")[1])["status"]["objectStatus"]["phase"] == "Running"
    assert len(ask("stack-1", "action-1.100000")[1]) == 100_000
    assert origin.requests() == before + 3


def test_the_closed_loop_can_request_each_target_once(processes: Processes, origin: Origin) -> None:
    load = Load(records=50, callers=2, body_bytes=70_000)
    asked = write_targets(make_targets(load), processes.folder, "once")
    before = origin.requests()
    outcome = once(processes, origin.url, asked, load)
    assert (outcome.completed, outcome.statuses, outcome.errors) == (100, {"200": 100}, {})
    assert origin.requests() == before + 100


def test_pollers_keep_to_their_interval(processes: Processes, origin: Origin) -> None:
    load = Load(connections=10, interval_ms=150.0, seconds=0.6)
    asked = write_targets(make_targets(load), processes.folder, "polled")
    outcome = closed(processes, origin.url, asked, load, "wrk")
    assert outcome.failures() == 0
    # Each begins somewhere in the first interval and asks four times, or five on a busy machine.
    assert 10 < outcome.completed <= 50


def test_what_it_takes_to_open_connections_is_not_weighed(processes: Processes, origin: Origin) -> None:
    load = Load(connections=100, seconds=0.5)
    asked = write_targets(make_targets(load), processes.folder, "weighed")
    before, cpu_s = origin.requests(), origin.child.cpu_s()
    outcome = settled(processes, origin.url, asked, load, origin.child.pid)
    assert (outcome.failures(), set(outcome.statuses)) == (0, {"200"})
    # Each connection had two answers before the round, and those under way at its end came after it.
    assert 0 < outcome.completed <= outcome.statuses["200"] - 2 * 100
    assert outcome.statuses["200"] == origin.requests() - before
    assert outcome.cpu_s is not None
    # In ticks of 10 ms: opening the connections may have taken less than one.
    assert 0 < outcome.cpu_s <= origin.child.cpu_s() - cpu_s + 0.001
    assert 0.5 <= outcome.duration_s < 5


def test_a_connection_that_is_refused_is_an_error_and_no_answer(processes: Processes) -> None:
    asked = write_targets(make_targets(Load()), processes.folder, "refused")
    outcome = once(processes, "http://127.0.0.1:1", asked, Load(connections=2))
    assert (outcome.completed, outcome.errors) == (0, {"connect: ConnectionRefusedError": 2})


def test_requests_are_byte_identical_unless_they_carry_ids_of_their_own() -> None:
    targets = [("/a", "t")]
    same = requests(targets, "h", fresh_ids=False, once=False)
    assert next(same) == next(same) == b"GET /a HTTP/1.1\r\nHost: h\r\nX-Auth-Token: t\r\n\r\n"
    fresh = requests(targets, "h", fresh_ids=True, once=False)
    assert next(fresh) != next(fresh)


def test_a_template_names_every_value_that_it_needs() -> None:
    assert filled("a {{b}} $c {{d}}", {"b": "{{d}}", "d": 1}) == "a 1 $c 1"
    with pytest.raises(KeyError):
        filled("{{nothing}}", {})
