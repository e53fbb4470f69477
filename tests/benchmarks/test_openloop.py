"""The open-loop generator over real sockets: when requests go out, what is counted, what is refused."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.openloop import Report, Target, TimedResponse, offer
from benchmarks.openloop.generator import BadUrlError
from benchmarks.openloop.histogram import Histogram
from tests.testbed.address import free_port
from tests.testbed.answers import Conversation
from tests.testbed.aos import (
    Answer,
    AnyAnswer,
    Received,
    ScriptedAos,
    close_unanswered,
    never,
    reset_unanswered,
    truncated,
)

OK = Answer(body=b"{}")
TARGETS = [Target(target="/v2/stacks/a/actions/b", token="t")]


async def run(url: str, **changes: Any) -> Report:
    """Offer ten requests on one connection, by default."""
    plan: dict[str, Any] = {"rate_per_s": 100.0, "duration_s": 0.1, "connections": 1, "timeout_s": 5.0}
    return await offer(url, changes.pop("targets", TARGETS), **(plan | changes))


def after(delay_s: float, then: AnyAnswer = OK) -> AnyAnswer:
    """Return the answer of a server that takes its time."""

    async def late(_: Received, conversation: Conversation) -> None:
        await asyncio.sleep(delay_s)
        await conversation.answer(then)

    return late


async def test_a_stall_is_counted_against_every_request_that_was_due_meanwhile(aos: ScriptedAos) -> None:
    aos.answer(OK)
    aos.queue(after(0.5))
    report = await run(aos.url, duration_s=0.3)
    assert (report.scheduled, report.sent, report.completed) == (30, 30, 30)
    # The request due at 0.15 s waited for 0.35 s, although its own exchange was quick.
    assert report.latency_ms.p50 >= 345
    assert report.latency_ms.p90 >= 465
    assert report.latency_ms.max >= 500


async def test_requests_go_out_when_due_whether_or_not_others_were_answered(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(OK))
    running = asyncio.create_task(run(aos.url, duration_s=0.2, connections=20))
    await gate.wait_reached(20)
    gate.open()
    report = await running
    assert (report.sent, report.connections, report.errors) == (20, 20, {})
    assert report.latency_ms.max >= 185  # the first one was due 190 ms before the last


async def test_no_more_connections_are_opened_than_allowed(aos: ScriptedAos) -> None:
    aos.answer(after(0.02))
    report = await run(aos.url, rate_per_s=250.0, connections=3)
    assert report.completed == 25
    assert aos.connections == report.connections == 3


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([OK, close_unanswered], "reset-reused"),
        ([OK, reset_unanswered], "reset-reused"),
        ([close_unanswered], "reset-fresh"),
        ([reset_unanswered], "reset-fresh"),
        ([truncated(Answer(body=b"x" * 100), 60)], "cut"),
        ([b"HTP/1.1 200 OK\r\n\r\n"], "malformed"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"], "malformed"),
    ],
)
async def test_what_goes_wrong_has_a_name_and_is_never_tried_again(
    aos: ScriptedAos, answers: list[AnyAnswer], error: str
) -> None:
    aos.answer(OK)
    aos.queue(*answers)
    report = await run(aos.url)
    assert report.errors == {error: 1}
    assert (report.sent, report.completed) == (10, 9)
    assert len(aos.heads) == 10


async def test_a_refused_connection_fails_one_request_each() -> None:
    report = await run(f"http://127.0.0.1:{free_port()}")
    assert report.errors == {"connect": 10}
    assert (report.scheduled, report.sent) == (10, 0)
    assert not report.is_valid
    assert "nothing was answered" in report.why_not


async def test_a_timeout_counts_from_the_scheduled_time_and_stands_in_the_latencies(aos: ScriptedAos) -> None:
    aos.answer(never)
    report = await run(aos.url, timeout_s=0.15)
    # Those behind the first waited for its connection as long as they could, or got another in its place.
    assert report.errors["timeout"] == report.sent == len(aos.heads)
    assert sum(report.errors.values()) == 10
    assert set(report.errors) <= {"timeout", "timeout-waiting"}
    assert report.latency_ms.p50 >= 149


async def test_statuses_are_counted_as_answers_and_by_class(aos: ScriptedAos) -> None:
    aos.answer(OK)
    aos.queue(Answer(429, body=b"{}"), Answer(503, body=b"{}"), Answer(404, body=b"{}"))
    report = await run(aos.url)
    assert report.by_status == {"200": 7, "404": 1, "429": 1, "503": 1}
    assert report.errors == {"status-4xx": 2, "status-5xx": 1}
    assert report.completed == 10


async def test_outcomes_are_read_from_cache_status(aos: ScriptedAos) -> None:
    values = [
        "aos-gateway; hit; ttl=3",
        "aos-gateway; fwd=uri-miss; fwd-status=200; stored; collapsed",
        "aos-gateway; fwd=bypass; detail=route",
    ]
    aos.answer(OK)
    aos.queue(*(Answer(headers=[("Cache-Status", value)], body=b"{}") for value in values))
    report = await run(aos.url)
    assert report.by_outcome == {"hit": 1, "miss": 1, "bypass": 1, "none": 7}
    assert report.collapsed == 1


async def test_a_connection_that_was_closed_while_idle_costs_no_request(aos: ScriptedAos) -> None:
    aos.answer(Answer(headers=[("Connection", "close")], body=b"{}"))
    report = await run(aos.url, connections=4)
    assert (report.errors, report.completed, len(aos.heads)) == ({}, 10, 10)
    assert report.connections == 10


async def test_bytes_that_nobody_asked_for_answer_no_later_request(aos: ScriptedAos) -> None:
    got = asyncio.Event()

    async def twice(_: Received, conversation: Conversation) -> None:
        await conversation.answer(OK)
        await got.wait()
        await conversation.answer(Answer(500, body=b"stray"))

    def check(_: TimedResponse) -> None:
        got.set()

    aos.answer(OK)
    aos.queue(twice)
    report = await run(aos.url, check=check, rate_per_s=5.0, duration_s=0.3)
    assert (report.errors, report.by_status) == ({}, {"200": 2})
    assert report.connections == 2


async def test_targets_are_asked_for_by_weight_each_with_its_token(aos: ScriptedAos) -> None:
    aos.answer(OK)
    targets = [
        Target(target="/often", token="one", weight=9.0),
        Target(target="/seldom", weight=1.0),
    ]
    for _ in range(2):
        await run(aos.url, targets=targets, rate_per_s=2000.0, duration_s=0.1, token="own", seed=7)
    asked = [(received.target, received.get("X-Auth-Token")) for received in aos.received]
    assert set(asked) == {("/often", b"one"), ("/seldom", b"own")}
    assert 160 <= asked[:200].count(("/often", b"one")) <= 195
    assert asked[:200] == asked[200:]  # the same seed on one connection asks the same


async def test_a_base_path_and_a_unix_socket_are_reached(aos: ScriptedAos, tmp_path: Path) -> None:
    aos.answer(OK)
    await run(f"{aos.url}/base/")
    assert {received.target for received in aos.received} == {"/base/v2/stacks/a/actions/b"}
    async with ScriptedAos(unix_path=tmp_path / "aos") as other:
        other.answer(OK)
        report = await run(other.address)
    assert report.completed == len(other.received) == 10


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://", "127.0.0.1:80", "http://h:x", "http://h?q"]
)
async def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(BadUrlError):
        await run(url)


async def test_a_check_sees_whole_answers_and_its_errors_are_counted(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"right", framing="chunked", chunks=[b"ri", b"ght"]))
    aos.queue(Answer(body=b"wrong"))
    seen: list[TimedResponse] = []

    def check(answer: TimedResponse) -> str | None:
        seen.append(answer)
        return None if answer.body == b"right" else "wrong-body"

    report = await run(aos.url, check=check)
    assert report.errors == {"wrong-body": 1}
    assert {answer.target for answer in seen} == set(TARGETS)
    assert len(seen) == 10
    assert all(answer.latency_s > 0 for answer in seen)


async def test_a_check_that_raises_ends_the_run(aos: ScriptedAos) -> None:
    aos.answer(OK)

    def check(answer: TimedResponse) -> str | None:
        raise LookupError(answer.status)

    with pytest.raises(LookupError, match="200"):
        await run(aos.url, check=check)


async def test_a_run_whose_loop_was_blocked_is_not_valid(aos: ScriptedAos) -> None:
    aos.answer(OK)

    def block(_: TimedResponse) -> None:
        time.sleep(0.03)  # what a generator must not do

    report = await run(aos.url, check=block)
    assert report.lag_ms.max >= 15
    assert not report.is_valid
    assert "the generator itself was late" in report.why_not


async def test_a_send_queue_that_overran_makes_the_run_invalid(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(OK))
    running = asyncio.create_task(run(aos.url, max_waiting=3, timeout_s=0.25))
    report = await running
    assert report.errors["queue-full"] >= 6
    assert not report.is_valid
    assert "the send queue overran" in report.why_not


async def test_a_run_that_is_cancelled_leaves_no_connection(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(OK))
    running = asyncio.create_task(run(aos.url, connections=5))
    await gate.wait_reached(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.open()
    async with asyncio.timeout(5):
        while aos.open_connections:
            await asyncio.sleep(0.01)


async def test_the_command_writes_the_report_and_tells_by_its_exit_code_whether_it_is_valid(
    aos: ScriptedAos, tmp_path: Path
) -> None:
    aos.answer(OK)
    (tmp_path / "targets").write_text('{"target": "/v2/stacks/a/actions/b", "token": "t"}\n\n')

    async def command(name: str, *options: str) -> tuple[int, dict[str, Any]]:
        out = tmp_path / name
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.openloop", "--url", aos.url, "--connections", "4"),
            *("--targets", str(tmp_path / "targets"), "--json", str(out), *options),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        code = await process.wait()
        return code, msgspec.json.decode(out.read_bytes()) if out.exists() else {}

    code, report = await command("steady", "--rate", "100", "--duration", "0.2", "--poisson")
    assert code == (0 if report["is_valid"] else 3)
    assert report["scheduled"] == report["completed"] == len(aos.received) > 0
    assert set(report["latency_ms"]) == {"p50", "p90", "p99", "p99.9", "max"}
    again = Histogram()
    again.add(report["histogram"])
    assert again.count == report["completed"]
    assert again.quantile_ms(50) == report["latency_ms"]["p50"]

    code, report = await command("beyond", "--rate", "9e6", "--duration", "60", "--timeout", "0.2")
    assert code == 3
    assert not report["is_valid"]
    assert "gave up" in report["why_not"]

    assert (await command("useless", "--rate", "0", "--duration", "1"))[0] == 2

    aos.answer(Answer(404, body=b"{}"))
    code, report = await command("refused", "--rate", "100", "--duration", "0.1")
    assert (code, report["by_status"]) == (1, {"404": 10})
