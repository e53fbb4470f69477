"""The command `wait`: its requests, how it treats each response, and its output."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.cli import client, wait, wait_pace
from gateway.cli.arguments import build_parser
from gateway.cli.wait import Outcome, WaitOptions, read_options
from gateway.cli.wait_pace import Pace
from gateway.core.http.messages import Fields
from tests.testbed.address import free_port
from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import (
    ACTION_ID,
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    ScriptedAos,
    close_unanswered,
    never,
    payload,
    record,
    truncated,
)
from tests.testbed.tls import Authority

_TOKEN = "t0ken-of-alice"
_RUNNING = {
    "status__progress": 40,
    "status__subObjectStatuses": {"vpc": {"phase": "Succeeded"}, "vm-1": {"phase": "Running"}},
}
_DELETE = {"spec__actionName": "delete", "status__actionName": "delete"}
_APPLIED = ("Preference-Applied", "wait=50")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second."""
    monkeypatch.setattr(wait_pace, "_SHORTEST_S", 0.01)
    monkeypatch.setattr(wait_pace, "_WAITED_S", 0.01)
    monkeypatch.setattr(wait_pace, "_LONGEST_S", 0.02)


def _ok(phase: str = "Succeeded", *fields: tuple[str, str], **changes: object) -> Answer:
    return Answer(headers=fields, body=record(phase, **changes))


def _options(url: str, ids: tuple[str, str], timeout: str, *more: str) -> WaitOptions:
    arguments = ["wait", "--gateway", url, "--timeout", timeout, *more, *ids]
    return read_options(build_parser().parse_args(arguments), {"AOS_TOKEN": _TOKEN})


async def _waited(url: str, timeout: str = "10s", *, as_json: bool = False) -> int:
    options = _options(url, (STACK_ID, ACTION_ID), timeout, *["--json"][:as_json])
    return await asyncio.to_thread(wait.run, options)


async def _start(
    *arguments: str, stdout: int = asyncio.subprocess.PIPE, **environ: str
) -> asyncio.subprocess.Process:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AOS_", "PYTHON"))}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "wait", *arguments),
        env={**clean, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm", **environ},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


async def _command(
    *arguments: str, stdout: int = asyncio.subprocess.PIPE, **environ: str
) -> tuple[int, str, str]:
    process = await _start(*arguments, stdout=stdout, **environ)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, (out or b"").decode(), err.decode()


# Requests.


@pytest.mark.usefixtures("fast")
async def test_the_first_request_is_plain_and_the_next_ones_wait_for_a_change(aos: ScriptedAos) -> None:
    aos.queue(
        _ok("Running", ("ETag", '"1"')),
        Answer(304, headers=[("ETag", '"1"'), _APPLIED]),
        _ok("Running", ("ETag", 'W/"2"'), _APPLIED, status__progress=60),
        _ok("Succeeded", ("ETag", '"3"'), _APPLIED),
    )
    assert await _waited(aos.url, "2m") == 0
    assert {(r.method, r.target, r.get("X-Auth-Token")) for r in aos.received} == {
        ("GET", TARGET, _TOKEN.encode())
    }
    assert [(r.get("Prefer"), r.get("If-None-Match")) for r in aos.received] == [
        (None, None),
        (b"wait=50", b'"1"'),
        (b"wait=50", b'"1"'),
        (b"wait=50", b'W/"2"'),
    ]


@pytest.mark.usefixtures("fast")
async def test_no_request_waits_longer_than_the_time_that_is_left(aos: ScriptedAos) -> None:
    aos.queue(_ok("Running"), _ok("Running"), _ok("Succeeded"))
    assert await _waited(aos.url, "9s") == 0
    first, *others = [r.get("Prefer") for r in aos.received]
    assert first is None
    assert {*others} <= {b"wait=%d" % s for s in range(1, 9)}


async def test_ids_are_encoded_and_a_unix_socket_works(socket_folder: Path) -> None:
    async with ScriptedAos(unix_path=socket_folder / "gateway.sock") as aos:
        aos.answer(_ok())
        options = _options(aos.address, ("a b/c?", "ä"), "9s")
        assert await asyncio.to_thread(wait.run, options) == 0
        assert aos.received[0].target == "/v2/stacks/a%20b%2Fc%3F/actions/%C3%A4"


# Responses.


_ENDS: list[tuple[AnyAnswer, int, str]] = [
    (_ok("Succeeded"), 0, r"^Succeeded after \d+s\n$"),
    (_ok("Failed", status__objectStatus__message="no\nquota\x1b"), 3, r"^Failed after \d+s: no\?quota\?\n$"),
    (_ok("Cancelled"), 4, r"^Cancelled after \d+s\n$"),
    (_ok("ForceCancelled"), 4, r"^ForceCancelled after \d+s\n$"),
    (Answer(404, body=payload("error__404")), 6, r"^aos-gateway: there is no such execution \(404\)\n$"),
    (Answer(401), 7, r"^aos-gateway: the token is refused \(401\); it may have expired\n$"),
    (Answer(403), 7, r"^aos-gateway: the token is refused \(403\); it may have expired\n$"),
    (Answer(400), 1, "aos-gateway: unexpected answer: 400 Bad Request; check --gateway"),
    (Answer(302, headers=[("Location", "/elsewhere")]), 1, "302 Found; a redirect is not followed"),
    (Answer(307, headers=[("Location", "http://127.0.0.1:9/")]), 1, "a redirect is not followed"),
    (Answer(304), 1, "unexpected answer: 304 Not Modified"),
    (Answer(body=b"<html>"), 1, r"no execution record \(undecodable\)"),
    (Answer(body=b"\xff"), 1, r"no execution record \(not-utf8\)"),
]


@pytest.mark.parametrize(("answer", "code", "line"), _ENDS)
async def test_an_end_has_its_exit_code_and_line(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str], answer: AnyAnswer, code: int, line: str
) -> None:
    aos.answer(answer)
    assert await _waited(aos.url) == code
    out, err = capsys.readouterr()
    printed = err if code not in (0, 3, 4) else out
    assert re.search(line, printed)
    assert err.count("\n") == (code not in (0, 3, 4))
    assert _TOKEN not in out + err
    assert len(aos.received) == 1


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("code", [0, 6])
async def test_a_404_is_the_normal_end_of_a_delete_and_of_nothing_else(aos: ScriptedAos, code: int) -> None:
    aos.queue(_ok("Running", **(_DELETE if code == 0 else {})), Answer(502), Answer(404))
    assert await _waited(aos.url) == code
    assert len(aos.received) == 3


@pytest.mark.usefixtures("fast")
async def test_a_delete_that_fails_has_failed(aos: ScriptedAos) -> None:
    aos.queue(_ok("Running", **_DELETE), _ok("Failed", **_DELETE))
    assert await _waited(aos.url) == 3


@pytest.mark.usefixtures("fast")
async def test_passing_failures_are_retried_and_printed_once(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str]
) -> None:
    aos.queue(
        Answer(500),
        close_unanswered,
        truncated(_ok(), 200),
        Answer(503),
        Answer(503),
        _ok("Running", **_RUNNING),
        Answer(429, body=payload("error__apigw-0308")),
        close_unanswered,
        _ok("Running", **_RUNNING),
        _ok("Running", **_RUNNING),
        _ok("SomethingNew"),
        _ok("Succeeded"),
    )
    assert await _waited(aos.url) == 0
    out, err = capsys.readouterr()
    *lines, last = (line.split(maxsplit=1)[1] for line in out.splitlines())
    assert last.startswith("after ")
    assert [line for line in lines if "connection" not in line] == [
        "(500 Internal Server Error; asking again)",
        "(503 Service Unavailable; asking again)",
        "Running  40 %  vm-1 Running",
        "Running  40 %  vm-1 Running  (429 Too Many Requests; asking again)",
        "Running  40 %  vm-1 Running",
        "SomethingNew  100 %",
    ]
    assert "(no connection: the connection ended too early; asking again)" in lines
    assert err == ""


async def test_an_answer_that_is_too_large_ends_it(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_MAX_BODY_BYTES", 100_000)
    aos.answer(Answer(chunks=[b" " * 60_000] * 20, framing="chunked"))
    assert await _waited(aos.url) == 1
    assert capsys.readouterr().err == (
        "aos-gateway: the answer is larger than 100000 bytes; check --gateway\n"
    )


@pytest.mark.usefixtures("fast")
async def test_straight_at_aos_it_asks_again_when_aos_wants_it(aos: ScriptedAos) -> None:
    asked_s: list[float] = []

    async def answer(_: Received, conversation: Conversation) -> None:
        asked_s.append(time.monotonic())
        refusal = Answer(503, headers=[("Retry-After", "1")])
        await conversation.answer([_ok("Running"), refusal, _ok("Succeeded")][len(asked_s) - 1])

    aos.on("GET", "/", answer)
    assert await _waited(aos.url) == 0
    assert asked_s[1] - asked_s[0] < 0.9 < asked_s[2] - asked_s[1]


@pytest.mark.parametrize("answer", [never, _ok("Running"), Answer(429, headers=[("Retry-After", "60")])])
async def test_a_timeout_ends_it_whatever_is_in_progress(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str], answer: AnyAnswer
) -> None:
    aos.answer(answer)
    assert await asyncio.wait_for(_waited(aos.url, "1s"), 5) == 5
    assert "aos-gateway: time over after 1s; last: " in capsys.readouterr().err
    assert len(aos.heads) == 1


@pytest.mark.usefixtures("fast")
async def test_a_refused_connection_is_retried(capsys: pytest.CaptureFixture[str]) -> None:
    assert await _waited(f"http://127.0.0.1:{free_port()}", "0.3s") == 5
    out, err = capsys.readouterr()
    assert out.endswith("(no connection: Connection refused; asking again)\n")
    assert out.count("\n") == 1
    assert err.endswith("last: no connection: Connection refused\n")


# Pauses.


def _pauses(*answers: tuple[int, Fields, bytes]) -> list[float]:
    pace = Pace()
    return [pace.after(*answer, 0.0) for answer in answers]


def test_pauses_grow_from_2_to_10_seconds_until_something_changes() -> None:
    pace = Pace()
    found = [pace.after(200, (), b"", 0.0) for _ in range(6)]
    assert found == [2.0, 3.0, 4.5, 6.75, 10.0, 10.0]
    assert pace.after_failure() == 10.0
    pace.start_over()
    assert pace.after(304, (), b"", 0.0) == 2.0


@pytest.mark.parametrize(
    ("applied", "pause_s"),
    [(b"wait=50", 1.0), (b"respond-async, WAIT = 7", 1.0), (b"wait=0", 2.0), (b"wait", 2.0), (b"", 2.0)],
)
def test_only_after_a_response_that_waited_the_next_request_is_due_at_once(
    applied: bytes, pause_s: float
) -> None:
    fields = ((b"Preference-Applied", applied),)
    assert _pauses((200, fields, b"")) == _pauses((304, fields, b"")) == [pause_s]
    assert _pauses((503, fields, b"")) == [2.0]


def test_retry_after_and_a_throttling_body_are_obeyed() -> None:
    limit = b'{"error_code":"APIG.0308","error_msg":"policy user over ratelimit,limit:200,time:5 minute"}'
    stated = ((b"Retry-After", b"30"),)
    assert _pauses((429, stated, limit), (503, stated, b"")) == [30.0, 30.0]
    assert _pauses((429, ((b"Retry-After", b"0"),), b"")) == [2.0]
    unstated = [_pauses((429, (), limit))[0] for _ in range(50)]
    assert 5.0 <= min(unstated) < max(unstated) <= 7.5
    assert 2.0 <= _pauses((429, (), b""))[0] <= 3.0


# Usage.


@pytest.mark.parametrize(
    ("arguments", "token", "line"),
    [
        ([], "", "a token is missing; set the environment variable AOS_TOKEN or give --token-file F"),
        ([], "s3cret\nX: y", "AOS_TOKEN holds a character that no token has"),
        (["--token-file", "/nowhere"], "s3cret", "file '/nowhere', named by --token-file, can't be read"),
        (["--gateway", "aos"], "s3cret", "--gateway 'aos' is not a URL; write http://host:port"),
        (["--gateway", "http://u:s3cret@aos"], "s3cret", "--gateway 'http://***@aos' holds userinfo"),
        (["--gateway", "unix:x"], "s3cret", "--gateway 'unix:x' is not an absolute path"),
        (["--timeout", "soon"], "s3cret", "--timeout 'soon' is no time; write it like 20m"),
        (["--timeout", ""], "s3cret", "--timeout '' is no time"),
        (["--timeout", "0s"], "s3cret", "--timeout '0s' is no time"),
        (["--timeout", "721h"], "s3cret", "at most 720h"),
        (["--timeout", "-5"], "s3cret", "--timeout '-5' is no time"),
        (["--help"], "s3cret", ""),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str],
    token: str,
    line: str,
) -> None:
    from gateway.cli import main as cli

    monkeypatch.setenv("AOS_TOKEN", token)
    try:
        code = cli.main(["wait", "s", "a", *arguments])
    except SystemExit as exc:
        code = int(str(exc.code))
    out, err = capsys.readouterr()
    assert code == (2 if line else 0)
    assert line in err
    assert err.count("\n") == bool(line)
    assert "s3cret" not in out + err


@pytest.mark.parametrize("ids", [("", "a"), ("s", "a" * 65), ("..", "a"), ("s", ".")])
def test_an_invalid_id_is_wrong_usage(ids: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.cli import main as cli

    assert cli.main(["wait", *ids]) == 2
    assert "has to be an id of 1 to 64 characters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1_200), ("1h30m", 5_400), ("0.5", 0.5), ("720h", 2_592_000)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    options = _options("http://aos", ("s", "a"), text)
    assert options.timeout_s == seconds
    assert _TOKEN not in repr(options)


def test_without_options_it_asks_the_gateway_of_this_machine_for_20_minutes() -> None:
    found = build_parser().parse_args(["wait", "s", "a"])
    assert (found.gateway, found.timeout, found.token_file) == ("http://127.0.0.1:8080", "20m", None)


# The command as a process.


async def test_the_exit_code_of_the_command_says_how_it_ended(aos: ScriptedAos, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{_TOKEN}\n")
    for phase in ("Succeeded", "Failed", "ForceCancelled", "Running"):
        aos.on("GET", f"/v2/stacks/{phase}/", _ok(phase, **_RUNNING))
    for status in (404, 403, 302):
        aos.on("GET", f"/v2/stacks/{status}/", Answer(status))
    expected = {"Succeeded": 0, "302": 1, "Failed": 3, "ForceCancelled": 4, "Running": 5, "404": 6, "403": 7}
    options = ("--gateway", aos.url, "--token-file", str(file), "--timeout")
    done = await asyncio.gather(
        *(
            _command(*options, "1s" if stack == "Running" else "15s", stack, "a", AOS_TOKEN="other")
            for stack in expected
        )
    )
    assert dict(zip(expected, [code for code, _, _ in done], strict=True)) == expected
    assert {r.get("X-Auth-Token") for r in aos.received} == {_TOKEN.encode()}
    assert [out + err for _, out, err in done if _TOKEN in out + err] == []


async def test_a_pipeline_gets_one_json_object_and_the_rest_as_plain_lines(aos: ScriptedAos) -> None:
    aos.queue(_ok("Running", **_RUNNING), _ok("Failed", status__objectStatus__message="no quota"))
    code, out, err = await _command("--gateway", aos.url, "--json", STACK_ID, ACTION_ID, AOS_TOKEN=_TOKEN)
    result = json.loads(out)
    assert out.count("\n") == 1
    assert (code, result["outcome"], result["exit_code"], result["phase"]) == (3, "failed", 3, "Failed")
    assert (result["stack_id"], result["action_id"]) == (STACK_ID, ACTION_ID)
    assert result["record"] == json.loads(record("Failed", status__objectStatus__message="no quota"))
    assert 1 < result["elapsed_s"] < 20
    assert result["text"].endswith(": no quota")
    assert err.endswith("Running  40 %  vm-1 Running\n")
    assert "\x1b" not in err


async def test_a_terminal_gets_a_line_that_is_redrawn(aos: ScriptedAos) -> None:
    aos.queue(_ok("Running", **_RUNNING), _ok("Succeeded"))
    ours, theirs = pty.openpty()
    try:
        code, _, err = await _command(
            "--gateway", aos.url, STACK_ID, ACTION_ID, stdout=theirs, AOS_TOKEN=_TOKEN
        )
        seen = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert (code, err) == (0, "")
    drawn, _, last = seen.partition("\r\n")
    assert len(drawn.split("\r\x1b[K")) >= 3
    assert drawn.startswith("\r\x1b[K")
    assert drawn.endswith("s  Running  40 %  vm-1 Running")
    assert last.startswith("Succeeded after ")
    assert last.count("\n") == 1


async def test_a_certificate_is_checked_against_the_authorities_of_this_machine(authority: Authority) -> None:
    async with ScriptedAos(tls=authority.server_context()) as aos:
        aos.answer(_ok())
        options = ("--gateway", aos.url, STACK_ID, ACTION_ID, "--timeout")
        trusting, doubting = await asyncio.gather(
            _command(*options, "15s", AOS_TOKEN=_TOKEN, SSL_CERT_FILE=str(authority.ca_file)),
            _command(*options, "1s", AOS_TOKEN=_TOKEN),
        )
        assert (trusting[0], trusting[2]) == (0, "")
        assert doubting[0] == 5
        assert doubting[2].endswith("last: no connection: its certificate is not trusted\n")
        assert len(aos.received) == 1


async def test_an_interrupt_ends_it_without_a_traceback(aos: ScriptedAos) -> None:
    aos.answer(never)
    process = await _start("--gateway", aos.url, STACK_ID, ACTION_ID, AOS_TOKEN=_TOKEN)
    await aos.wait_heads(1, 15)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.communicate(), 10) == (b"", b"")
    assert process.returncode == 1


def test_each_outcome_has_a_code_of_its_own() -> None:
    assert sorted(outcome.value for outcome in Outcome) == [0, 1, 3, 4, 5, 6, 7]
