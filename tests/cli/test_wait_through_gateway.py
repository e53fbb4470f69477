"""The command `wait` through a gateway that lets it wait."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.cli import wait, wait_pace
from gateway.cli.arguments import build_parser
from gateway.cli.wait import read_options
from tests.testbed.address import free_port
from tests.testbed.aos import ACTION_ID, STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import fetch
from tests.testbed.gateway import RunningGateway, running

_TOKEN = "t0ken-of-alice"
_RUNNING = Answer(body=record("Running"))
_DELETING = Answer(body=record("Running", spec__actionName="delete", status__actionName="delete"))
_THROTTLED = Answer(429, headers=[("Retry-After", "1")], body=b"slow down")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between its requests."""
    monkeypatch.setattr(wait_pace, "_SHORTEST_S", 0.05)
    monkeypatch.setattr(wait_pace, "_WAITED_S", 0.05)
    monkeypatch.setattr(wait_pace, "_LONGEST_S", 0.1)


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[RunningGateway]:
    """A gateway that looks often for those who wait."""
    async with running(aos.url, wait__interval_s=0.1, wait__max_interval_s=0.2) as started:
        yield started


def _wait(address: str, timeout: str = "20s") -> asyncio.Task[int]:
    """Start the command, in a thread; it returns its exit code."""
    arguments = ["wait", "--gateway", f"http://{address}", "--timeout", timeout, STACK_ID, ACTION_ID]
    options = read_options(build_parser().parse_args(arguments), {"AOS_TOKEN": _TOKEN})
    return asyncio.create_task(asyncio.to_thread(wait.run, options))


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def _is_waiting(gateway: RunningGateway, aos: ScriptedAos, calls: int) -> None:
    await _until(
        lambda: len(gateway.app.waits) == 1 and aos.count() == calls and not len(gateway.app.flights)
    )


async def test_a_wait_over_several_rounds_costs_no_call_of_its_own(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str]
) -> None:
    aos.answer(_RUNNING)
    async with running(aos.url, wait__max_s=1, wait__interval_s=60) as gateway:
        code = _wait(gateway.address)
        await _until(lambda: gateway.app.metrics.waits["timed_out"] == 2)
        await _is_waiting(gateway, aos, 2)
        aos.answer(Answer(body=record("Failed")))
        # Whoever asks for the same wakes who waits.
        same = [("Accept", "application/json"), ("Accept-Encoding", "gzip, deflate")]
        await fetch(gateway.address, TARGET, headers=same, token=_TOKEN)
        assert await code == 3
        assert gateway.app.metrics.waits == {"timed_out": 2, "woken": 1}
    assert aos.count() == 3
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["0s", "Running"],
        ["Failed", "after"],
    ]


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([_RUNNING, _RUNNING, Answer(body=record("ForceCancelled"))], 4),
        ([_RUNNING, Answer(404)], 6),
        ([_DELETING, _DELETING, Answer(404)], 0),
        ([_DELETING, Answer(body=record("Running", spec__actionName=None)), Answer(404)], 0),
        ([_DELETING, Answer(503), _THROTTLED, Answer(404)], 0),
        ([_RUNNING, Answer(401)], 7),
        ([_RUNNING, Answer(400)], 1),
        ([_RUNNING, Answer(body=b"<html>")], 1),
        ([_THROTTLED, _RUNNING, _THROTTLED, Answer(body=record())], 0),
    ],
    ids=["changes", "gone", "deleted", "seen once", "deleted after refusals", "token", "400", "html", "429"],
)
async def test_what_the_gateway_is_told_ends_it(
    aos: ScriptedAos, gateway: RunningGateway, answers: list[Answer], code: int
) -> None:
    aos.queue(*answers)
    assert await _wait(gateway.address) == code
    assert aos.count() == len(answers)
    assert set(gateway.app.metrics.waits) == {"woken"}
    assert {request.get("Prefer") for request in aos.received} == {None}


async def test_time_over_ends_the_wait_at_the_gateway_too(
    aos: ScriptedAos, gateway: RunningGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    aos.answer(_RUNNING)
    assert await _wait(gateway.address, "2s") == 5
    assert capsys.readouterr().err == "aos-gateway: time over after 2s; last: Running  100 %\n"
    assert gateway.app.metrics.waits == {"timed_out": 1}


@pytest.mark.parametrize("drain_s", [5.0, 0.0], ids=["drained", "cut"])
async def test_a_gateway_that_is_replaced_meanwhile_does_not_end_it(
    aos: ScriptedAos, capsys: pytest.CaptureFixture[str], drain_s: float
) -> None:
    aos.answer(_RUNNING)
    listen = f"127.0.0.1:{free_port()}"
    async with running(aos.url, server__listen=listen, wait__interval_s=60) as old:
        code = _wait(listen)
        await _is_waiting(old, aos, 2)
        async with asyncio.timeout(2):
            await old.app.close(drain_s)
        aos.answer(Answer(body=record()))
        async with running(aos.url, server__listen=listen, wait__interval_s=60):
            assert await code == 0
    assert aos.count() == 3
    assert capsys.readouterr().err == ""


async def test_where_waiting_is_off_it_polls(aos: ScriptedAos) -> None:
    aos.queue(_RUNNING, _RUNNING, Answer(body=record()))
    async with running(aos.url, wait__max_s=0) as gateway:
        assert await _wait(gateway.address) == 0
        assert not gateway.app.metrics.waits
