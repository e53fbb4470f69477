"""Load on a server that runs already: what counts, exit codes, usage errors."""

import asyncio
import os
import signal
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks.__main__ import check, parser
from benchmarks.harness.arguments import count, positive
from benchmarks.harness.processes import Origin, Processes
from benchmarks.load.generators import Outcome
from benchmarks.measure.running import measure_running
from benchmarks.report.results import check_writable, load_result
from benchmarks.scenarios.scenario import ScenarioError
from tests.testbed.address import free_port
from tests.testbed.aos import Answer, AnyAnswer, ScriptedAos, close_unanswered

OK = Answer(body=b"{}")
TARGET = "/v2/stacks/a/actions/b"
TOKEN = "token-of-the-bench"
BY = {"closed": ("--generator", "python"), "open": ("--rate", "60")}


async def bench(*arguments: str, token: str = TOKEN) -> tuple[int, str, str]:
    """Run it for a moment, and return exit code, output and errors."""
    command = ["--rounds", "1", "--seconds", "0.3", "--connections", "4", *arguments]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", *command),
        env={**os.environ, "AOS_TOKEN": token},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def usage_error(*arguments: str, token: str = TOKEN) -> str:
    """Return why a command line is refused."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        measure_running(options, token)
    except ScenarioError as error:
        return str(error)
    pytest.fail("it is not refused")


@pytest.mark.parametrize("by", BY)
async def test_a_server_that_is_not_there_ends_with_1_and_the_reason(by: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code, _, errors = await bench("--url", url, "--target", TARGET, *BY[by])
    assert code == 1
    assert "Connection refused" in errors


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(404, body=b"{}"), "404"),
        (Answer(301, headers=[("Location", "/")], body=b""), "301"),
        (close_unanswered, "no answer"),
    ],
)
async def test_a_server_without_one_right_answer_ends_with_1_and_the_reason(
    aos: ScriptedAos, answer: AnyAnswer, reason: str
) -> None:
    aos.answer(answer)
    code, _, errors = await bench("--url", aos.url, "--target", TARGET)
    assert code == 1
    assert f"none was answered 200: {reason}" in errors
    assert len(aos.heads) == 1


@pytest.mark.parametrize("by", BY)
async def test_a_server_that_fails_in_the_middle_ends_with_1_and_the_reason(
    aos: ScriptedAos, by: str
) -> None:
    aos.answer(close_unanswered)
    aos.queue(*[OK] * 8)
    code, output, errors = await bench("--url", aos.url, "--target", TARGET, *BY[by])
    assert code == 1
    assert "not all were answered 200" in errors
    assert "| rounds that count | 0 of 1 |" in output


async def test_some_targets_that_fail_end_with_1_though_others_do_not(aos: ScriptedAos) -> None:
    aos.answer(OK)
    aos.on("GET", "/gone", Answer(404, body=b"{}"))
    code, _, errors = await bench("--url", aos.url, "--target", TARGET, "--target", "/gone", *BY["closed"])
    assert code == 1
    assert "not all were answered 200: 404 " in errors


async def test_a_generator_that_is_late_ends_with_3() -> None:
    with Processes() as processes:
        origin = Origin(processes)
        load = ("--rate", "1e6", "--seconds", "0.02")
        code, output, errors = await bench("--url", origin.url, "--target", TARGET, *load)
    assert code == 3
    assert "round 1 does not count" in errors
    assert "the generator itself was late" in errors
    assert "| rounds that count | 0 of 1 |" in output


@pytest.mark.parametrize(
    ("outcome", "objection"),
    [
        (Outcome(999, 1.0, {}, {"connection lost": 1}), ""),
        (Outcome(990, 1.0, {}, {"reset-reused": 10}), "not all were answered 200: reset-reused 10"),
        (Outcome(90, 1.0, {}, {"timeout": 10}, why_not="late"), "late"),
        (Outcome(90, 1.0, {}, {"connect": 10}, why_not="late"), "not all were answered 200: connect 10"),
        (Outcome(0, 1.0, {}, {"timeout": 10}, why_not="late"), "nothing was answered: timeout 10"),
        (Outcome(9, 1.0, {}, {"status": 9}), "nothing was answered 200: status 9"),
        (Outcome(9, 1.0, {}, {}, {"503": 9}), "nothing was answered 200: 503 9"),
    ],
)
def test_what_a_late_generator_does_not_explain_is_the_servers(outcome: Outcome, objection: str) -> None:
    assert outcome.objection(0.001) == objection


async def test_the_result_is_written_where_out_says_without_a_token(aos: ScriptedAos, tmp_path: Path) -> None:
    aos.answer(OK)
    file = tmp_path / "folder" / "result.json"
    code, output, _ = await bench("--url", aos.url, "--target", TARGET, *BY["closed"], "--out", str(file))
    assert code == 0
    assert str(file) in output
    (measured,) = load_result(file).scenarios
    (turn,) = measured.rows[0].rounds
    # One before the load, and one after it.
    assert turn.figures["completed"] == len(aos.received) - 2
    for written in (file, file.with_suffix(".md")):
        assert TOKEN not in written.read_text("utf-8")


async def test_an_interrupted_load_is_written_and_said_to_be_partial(
    aos: ScriptedAos, tmp_path: Path
) -> None:
    aos.answer(OK)
    file = tmp_path / "result.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--url", aos.url, "--target", TARGET, "--out", str(file)),
        *("--seconds", "20", *BY["closed"]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    # One is asked for before the load.
    await aos.wait_received(5, 20)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert load_result(file).is_partial


async def test_a_result_that_cannot_be_written_is_refused_before_any_load(
    aos: ScriptedAos, tmp_path: Path
) -> None:
    code, _, errors = await bench("--url", aos.url, "--target", TARGET, "--out", str(tmp_path))
    assert (code, errors) == (2, f"./dev bench: --out {tmp_path}: is a folder\n")
    assert aos.heads == []
    (tmp_path / "file").touch()
    for out in ("file/result.json", "result.md"):
        with pytest.raises(OSError):
            check_writable(tmp_path / out)
    check_writable(tmp_path / "folder" / "result.json")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("by", BY)
async def test_targets_without_a_token_are_reported_and_requested_without_the_field(
    aos: ScriptedAos, tmp_path: Path, by: str
) -> None:
    aos.answer(OK)
    file = tmp_path / "targets.jsonl"
    file.write_text(f'{{"target": "{TARGET}", "token": "own"}}\n')
    arguments = ("--url", f"{aos.url}/base", "--target", TARGET, "--targets", str(file), *BY[by])
    code, _, errors = await bench(*arguments, token="")
    assert code in (0, 3)
    assert "AOS_TOKEN is not set: 1 of 2 targets" in errors
    tokens = {dict(received.headers).get(b"X-Auth-Token") for received in aos.received}
    assert tokens == {b"own", None}
    assert {received.target for received in aos.received} == {f"/base{TARGET}"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f'{{"target": "{TARGET}", "tokne": "t"}}', "line 3: Object contains unknown field `tokne`"),
        (f'{{"target": "{TARGET}", "weight": 2}}', "line 3: Object contains unknown field `weight`"),
        ('{"token": "t"}', "line 3: Object missing required field `target`"),
        ('{"target": "/a b"}', "line 3: "),
        (f'{{"target": "{TARGET}", "token": "t\\r\\nX: y"}}', "line 3: "),
        ("/v2", "line 3: JSON is malformed"),
    ],
)
def test_a_line_of_targets_that_says_something_else_is_refused_by_its_number(
    tmp_path: Path, line: str, problem: str
) -> None:
    file = tmp_path / "targets.jsonl"
    file.write_text(f'{{"target": "{TARGET}"}}\n\n{line}\n')
    assert usage_error("--url", "http://127.0.0.1:1", "--targets", str(file)).startswith(
        f"--targets: {file}, {problem}"
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--targets", "/none"), "--targets: /none: No such file"),
        (("--targets", "/dev/null"), "--targets: /dev/null: no targets"),
        (("--target", "x"), "--target begins with /"),
        (("--target", "/x\r\nHost: y"), "--target begins with /"),
        (("--target", "/x", "--pid", "4194305"), "--pid 4194305: there is no such process"),
        (("--target", "/x", "--url", "unix:/x"), "wanted http://host:port"),
        (("--target", "/x", "--url", "127.0.0.1:1"), "wanted http://host:port"),
        (("--target", "/x", "--url", "http://u:p@h"), "takes no user and password"),
        (("--target", "/x", "--url", "https://h", "--rate", "1"), "https is for wrk alone"),
        (("--target", "/x", "hit"), "a scenario cannot be had with --url"),
        (("--target", "/x", "--quick"), "--quick cannot be had with --url"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    assert problem in usage_error("--url", "http://127.0.0.1:1", *arguments)


@pytest.mark.parametrize("option", ["--targets", "--target", "--connections", "--rate", "--pid"])
def test_options_of_a_running_server_are_not_ignored_without_one(option: str) -> None:
    with pytest.raises(ScenarioError, match=f"{option} needs --url"):
        check(parser().parse_args(["--quick", option, "1"]))


def test_a_token_that_cannot_be_sent_is_refused_and_not_shown() -> None:
    said = usage_error("--url", "http://127.0.0.1:1", "--target", TARGET, token="two lines\nof it")
    assert said.startswith("AOS_TOKEN ")
    assert "lines" not in said


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_numbers_that_would_measure_nothing_are_refused(text: str) -> None:
    for read in (positive, count):
        with pytest.raises(ArgumentTypeError):
            read(text)
    assert (positive("0.5"), count("3")) == (0.5, 3)
