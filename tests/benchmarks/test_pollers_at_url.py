"""Pollers at a server that runs already: what they count, what is refused, and that no token is shown."""

import argparse
import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks.behaviour import at_url
from benchmarks.behaviour.__main__ import main
from benchmarks.behaviour.at_url import NothingToPollError, UrlOptions, poll_at_url
from benchmarks.behaviour.scenario import GATEWAY, Group, Pollers, Variant
from benchmarks.behaviour.stage import Stage
from gateway.config.errors import ConfigError
from tests.testbed.address import free_port
from tests.testbed.aos import TARGET, Answer, AnyAnswer, ScriptedAos, close_unanswered, record

TOKEN = "load:caller:of-the-bench"
SERVER = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A gateway with a bounded age before a twin that takes its time."""
    settings = {"cache.ttl_running_s": "0.5", "wait.interval_s": "0.5"}
    pollers = Pollers(
        title="",
        with_redis=False,
        callers=1,
        interval_s=1,
        before_s=1,
        after_s=1,
        upstream_delay_s=0.02,
        settings=settings,
        groups=(Group(name="all"),),
    )
    with Stage(pollers, Variant(name=GATEWAY)) as made:
        yield made


def options_of(*arguments: str, token: str = TOKEN) -> UrlOptions:
    """Read options behind ``pollers --url`` as the command does."""
    parser = argparse.ArgumentParser()
    at_url.add_arguments(parser)
    options = at_url.read_options(["pollers"], parser.parse_args(arguments), {"AOS_TOKEN": token})
    assert options is not None
    return options


async def behaviour(*arguments: str) -> tuple[int, str, str]:
    """Run the command, and return exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.behaviour", *arguments),
        env={**os.environ, "AOS_TOKEN": TOKEN},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_the_command_polls_a_gateway_until_the_end_and_counts_the_calls_of_its_twin(
    stage: Stage, tmp_path: Path
) -> None:
    # Long enough for the start of the command.
    (target,) = stage.start_executions(1, 4.0)
    before = stage.calls()
    file = tmp_path / "result.json"
    code, output, errors = await behaviour(
        *("pollers", "--url", stage.url, "--target", target, "--callers", "6", "--every", "0.2"),
        *("--control", stage.control.url, "--json", str(file)),
    )
    assert (code, errors) == (0, "")
    (result,) = msgspec.json.decode(file.read_bytes())
    (side,) = result["sides"]
    # One is asked for beforehand, which may serve the first polls.
    assert side["upstream_calls"] in range(1, stage.calls() - before + 1)
    assert side["upstream_calls"] <= 4.0 / 0.5 + 2 < side["requests"]
    assert (side["figures"]["noticed"], side["figures"]["refused"], side["errors"]) == (6, 0, {})
    assert "| 6 callers | every 0.2 s |" in output
    assert TOKEN not in output + file.read_text("utf-8")


async def test_without_a_target_it_finds_executions_that_run(stage: Stage) -> None:
    targets = stage.start_executions(2, 1.5)
    numbers = ("--callers", "2", "--every", "0.2", "--seconds", "20")
    result = await poll_at_url(options_of("--url", stage.url, *numbers))
    assert set(targets) <= set(result.parameters["targets"])
    (side,) = result.sides
    assert side.figures["noticed"] == 2 * len(result.parameters["targets"])
    with pytest.raises(NothingToPollError, match="no execution runs; start one, or name it: --target"):
        await poll_at_url(options_of("--url", stage.url, *numbers))


@pytest.mark.parametrize("answer", [Answer(404, body=b"no"), Answer(body=b"{}"), Answer(body=b"\xff")])
async def test_a_server_that_lists_no_stacks_is_named(aos: ScriptedAos, answer: Answer) -> None:
    aos.answer(answer)
    with pytest.raises(NothingToPollError, match=r"cannot list its executions: .*; name one: --target"):
        await poll_at_url(options_of("--url", aos.url))


@pytest.mark.parametrize("wait", [(), ("--wait", "20")])
async def test_cache_status_tells_the_calls_that_the_twin_counts(stage: Stage, wait: tuple[str, ...]) -> None:
    targets = stage.start_executions(2, 1.2)
    asked = [argument for target in targets for argument in ("--target", target)]
    numbers = ("--callers", "5", "--every", "0.2", "--seconds", "20")
    before = stage.calls()
    result = await poll_at_url(options_of("--url", stage.url, *asked, *numbers, *wait))
    (side,) = result.sides
    calls = stage.calls() - before
    assert side.figures["noticed"] == 10
    assert side.figures["noticed_max_s"] < 5
    # Those of the look before, and of a poller behind callers who wait, are told to nobody who polls.
    assert side.upstream_calls <= calls <= 2 * 6
    assert wait or calls <= side.upstream_calls + 2
    assert (side.requests == 10) == bool(wait)


async def test_callers_take_the_tokens_in_turn_and_the_first_tells_the_end(
    aos: ScriptedAos, tmp_path: Path
) -> None:
    files = []
    for name in ("first", "second"):
        (tmp_path / name).write_text(f"token-{name}\n")
        files += ["--token-file", str(tmp_path / name)]
    aos.answer(Answer(body=record("Succeeded")))
    aos.queue(*[Answer(body=record("Running"))] * 5)
    numbers = ("--callers", "4", "--every", "0.05")
    result = await poll_at_url(options_of("--url", f"{aos.url}/base", "--target", TARGET, *files, *numbers))
    (side,) = result.sides
    assert {received.target for received in aos.received} == {f"/base{TARGET}"}
    sent = Counter(dict(received.headers)[b"X-Auth-Token"] for received in aos.received[1:])
    assert set(sent) == {b"token-first", b"token-second"}
    # Without Cache-Status, each answer is a call.
    assert side.upstream_calls == side.requests == len(aos.received) - 1
    assert side.figures["noticed"] == 4
    assert 0 <= side.figures["noticed_p50_s"] <= side.figures["noticed_max_s"]


async def test_callers_who_never_notice_an_end_give_up(aos: ScriptedAos) -> None:
    aos.answer(Answer(429, body=b"{}"))
    aos.queue(Answer(body=record("Running")))
    numbers = ("--callers", "3", "--every", "0.1", "--seconds", "0.3")
    result = await poll_at_url(options_of("--url", aos.url, "--target", TARGET, *numbers))
    (side,) = result.sides
    assert side.figures["noticed"] == 0
    assert side.figures["refused"] == side.answered >= 3
    assert "noticed_p50_s" not in side.figures


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(404, body=b"{}"), "answered 404, nothing to poll"),
        (Answer(401, body=b"{}"), "answered 401, nothing to poll"),
        (Answer(body=b"<html>"), "answered 200, nothing to poll: 1 no-record"),
        (close_unanswered, "not answered, nothing to poll: 1 EOFError"),
        (Answer(body=record("Failed")), "has ended already; name an execution that runs"),
    ],
)
async def test_there_is_no_load_where_nothing_runs(aos: ScriptedAos, answer: AnyAnswer, reason: str) -> None:
    aos.answer(answer)
    code, output, errors = await behaviour("pollers", "--url", aos.url, "--target", TARGET)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert f"behaviour: {TARGET}: {reason}" in errors
    assert len(aos.heads) == 1


@pytest.mark.parametrize("answer", [Answer(404, body=b"{}"), Answer(body=b"[]"), Answer(body=b'{"a":1}')])
async def test_a_control_address_that_is_none_is_refused_before_any_load(
    aos: ScriptedAos, answer: Answer
) -> None:
    aos.answer(answer)
    aos.on("GET", TARGET, Answer(body=record("Running")))
    with pytest.raises(NothingToPollError, match="no twin's control address"):
        await poll_at_url(options_of("--url", aos.url, "--target", TARGET, "--control", aos.url))
    nowhere = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NothingToPollError, match=r"no twin's control address: .*refused"):
        await poll_at_url(options_of("--url", aos.url, "--target", TARGET, "--control", nowhere))
    assert aos.count("GET", TARGET) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--target", "x"), "--target 'x' has to begin with /"),
        (("--target", "/x\r\nHost: y"), "has to begin with / and hold visible ASCII alone"),
        (("--target", "/x", "--url", "127.0.0.1:1"), "--url '127.0.0.1:1' is not a URL"),
        (("--target", "/x", "--url", "http://u:hidden@h"), "--url 'http://***@h' holds userinfo"),
        (("--target", "/x", "--control", "h"), "--control 'h' is not a URL"),
        (("--target", "/x", "--token-file", "/none"), "named by --token-file, can't be read"),
        (("--target", "/x", "--callers", "10001"), "10001 pollers are too many; lower --callers"),
        (("--target", "/x", "--target", "/y", "--callers", "5001"), "10002 pollers are too many"),
    ],
)
def test_what_cannot_be_polled_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        options_of("--url", SERVER, *arguments)
    assert problem in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AOS_TOKEN holds a character") as refused:
        options_of("--url", SERVER, "--target", "/x", token="two lines\nof it")
    file = tmp_path / "token"
    file.write_text("two lines\nof it\n")
    with pytest.raises(ConfigError, match=r"the file .* holds a character") as refused_file:
        options_of("--url", SERVER, "--target", "/x", "--token-file", str(file))
    assert "lines" not in f"{refused.value} {refused_file.value}"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("pollers", "--target", "/x"), "--target needs --url"),
        (("--wait", "5"), "--wait needs --url"),
        (("--token-file", "f"), "--token-file needs --url"),
        (("--url", SERVER, "--target", "/x"), "--url is for the scenario pollers alone"),
        (("pollers", "herd", "--url", SERVER, "--target", "/x"), "--url is for the scenario pollers alone"),
        (("pollers", "--url", SERVER, "--target", "/x", "--json", "/"), "--json /: is a folder"),
        (("poller",), "unknown scenario 'poller'; choose one of "),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert problem in said.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--token", "hidden"), "unknown option --token;"),
        (("--token=hidden",), "unknown option --token;"),
        (("--callers", "0"), "--callers: 0 is not a positive whole number"),
        (("--every", "nan"), "--every: nan is not a positive number"),
        (("--wait", "-1"), "--wait: "),
    ],
)
def test_options_that_cannot_be_read_are_one_line_without_their_values(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["pollers", "--url", SERVER, *arguments])
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert problem in said
    assert "hidden" not in said
