"""The scripts of examples/, run as they stand against a scripted AOS, the simulated one and the gateway."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway.config.address import TcpAddress
from gateway.twin.profiles import DEMO, Preset
from gateway.twin.routes import Route
from gateway.twin.server import Twin
from gateway.twin.stack import Lifecycle, Order
from tests.testbed.aos import Answer, AnyAnswer, ScriptedAos, close_unanswered, record
from tests.testbed.gateway import running

_EXAMPLES = Path(__file__).parent.parent / "examples"
_TOKEN = 't0ken-"of\\alice'
_APPLIED = ("Preference-Applied", "wait=50")
_SCRIPTS = {
    "shell": ["sh", str(_EXAMPLES / "watch.sh")],
    "python": [sys.executable, str(_EXAMPLES / "watch.py")],
}
_ENDS = {"Succeeded": 0, "Failed": 3, "Cancelled": 4, "ForceCancelled": 4}
_STATUSES = {"403": 1, "404": 1, "302": 1}
_RUNNING_S = 3600.0
_INTERVAL_S = 0.5


async def _run(script: str, *arguments: str, token: str = _TOKEN) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *_SCRIPTS[script],
        *arguments,
        env={**os.environ, "AOS_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 25)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("script", _SCRIPTS)
async def test_the_exit_code_says_how_the_execution_ended(aos: ScriptedAos, script: str) -> None:
    for phase in _ENDS:
        message = 'quota: {\\"phase\\": "Succeeded"}}, "phase": "Running"'
        body = record(phase, status__objectStatus={"message": message, "phase": phase, "reason": message})
        aos.on("GET", f"/v2/stacks/{phase}/", Answer(body=body))
    for status in _STATUSES:
        aos.on("GET", f"/v2/stacks/{status}/", Answer(int(status), headers=[("Location", "/elsewhere")]))
    expected = _ENDS | _STATUSES
    done = await asyncio.gather(*(_run(script, stack, "a", aos.url) for stack in expected))
    assert dict(zip(expected, [code for code, _, _ in done], strict=True)) == expected
    assert {r.get("X-Auth-Token") for r in aos.received} == {_TOKEN.encode()}
    assert len(aos.received) == len(expected)
    usage = await _run(script, "s", "a", token="")
    assert (usage[0], usage[2].count("\n")) == (2, 1)


async def test_the_scripts_wait_where_they_may_and_poll_where_not(aos: ScriptedAos) -> None:
    first = Answer(headers=[("ETag", 'W/"1"')], body=record("Running"))
    waiting: list[AnyAnswer] = [
        first,
        Answer(304, headers=[_APPLIED]),
        Answer(headers=[_APPLIED], body=record()),
    ]
    # Before AOS has written a status.
    empty = Answer(headers=first.headers, body=b'{"spec": null, "status": null}')
    polling: list[AnyAnswer] = [empty, Answer(429), close_unanswered, Answer(body=record("Failed"))]
    for script in _SCRIPTS:
        for kind, answers in (("waiting", waiting), ("polling", polling)):
            for answer in reversed(answers):
                aos.on("GET", f"/v2/stacks/{script}-{kind}/", answer, times=1)

    async def watched(script: str, kind: str) -> tuple[int | None, str, str]:
        began_s = asyncio.get_running_loop().time()
        done = await _run(script, f"{script}-{kind}", "a", aos.url)
        # Three waits of 2, 3 and 4 s; the shell counts whole seconds.
        assert kind == "waiting" or asyncio.get_running_loop().time() - began_s > 2 + 3 + 4 - 3
        return done

    # At once, because the time passes in waiting.
    kinds = [(script, kind) for script in _SCRIPTS for kind in ("waiting", "polling")]
    done = dict(zip(kinds, await asyncio.gather(*(watched(*each) for each in kinds)), strict=True))
    for (script, kind), (code, out, err) in done.items():
        asked = [r for r in aos.received if f"/{script}-{kind}/" in r.target]
        count = 3 if kind == "waiting" else 4
        assert [(r.get("Prefer"), r.get("If-None-Match")) for r in asked] == [
            (None, None),
            *[(b"wait=50", b'W/"1"')] * (count - 1),
        ]
        assert code == (0 if kind == "waiting" else 3)
        if kind == "waiting":
            assert "Running" in out
            assert (out.count("\n"), err) == (2, "")


@asynccontextmanager
async def _twin(*, deletes: bool = False) -> AsyncIterator[tuple[Twin, tuple[str, str]]]:
    """A simulated AOS whose time moves by jumps alone, and the ids of an execution that runs there."""
    preset = Preset(
        project="demo", stacks=1, executions_per_stack=1, running_stacks=not deletes, running_s=_RUNNING_S
    )
    twin = Twin(msgspec.structs.replace(DEMO, preset=preset))
    clock, model = twin.world.clock, twin.world.model
    clock.freeze()
    (stack,) = model.all_stacks(clock.now_s())
    if deletes:
        model.delete(stack, Order(lifecycle=Lifecycle.DELETE), clock.now_s(), force=False)
    await twin.start(TcpAddress(host="127.0.0.1", port=0))
    try:
        yield twin, (stack.guid, stack.newest(1)[0].name)
    finally:
        await twin.close()


def _calls(twin: Twin) -> int:
    return twin.world.received[Route.GET_EXECUTION.label]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("deletes", [False, True], ids=["upgrade", "delete"])
async def test_many_watchers_cost_one_call_an_interval_through_the_gateway(deletes: bool) -> None:
    scripts = [*_SCRIPTS] * 3
    now_s = asyncio.get_running_loop().time
    async with (
        _twin(deletes=deletes) as (twin, ids),
        running(twin.url, wait__interval_s=_INTERVAL_S) as gateway,
    ):
        url = f"http://{gateway.address}"
        began_s = now_s()
        watching = [asyncio.create_task(_run(script, *ids, url, token="demo:a")) for script in scripts]
        await _until(lambda: len(gateway.app.waits) == len(scripts))
        # The first requests are plain; the first who waits has a call an interval until the last is there.
        assert 0 < _calls(twin) <= len(scripts) + (now_s() - began_s) / _INTERVAL_S + 1
        calls, began_s = _calls(twin), now_s()
        await asyncio.sleep(2 * _INTERVAL_S)
        twin.world.clock.advance(2 * _RUNNING_S)
        done = await asyncio.gather(*watching)
        assert 0 < _calls(twin) - calls <= (now_s() - began_s) / _INTERVAL_S + 1
    last = "deleted" if deletes else "Succeeded"
    assert {(code, out.split()[-1], err) for code, out, err in done} == {(0, last, "")}


async def test_straight_at_aos_the_scripts_poll() -> None:
    async with _twin() as (twin, ids):
        watching = [asyncio.create_task(_run(script, *ids, twin.url, token="demo:a")) for script in _SCRIPTS]
        await _until(lambda: _calls(twin) == len(_SCRIPTS))
        twin.world.clock.advance(2 * _RUNNING_S)
        assert {code for code, _, _ in await asyncio.gather(*watching)} == {0}
        assert _calls(twin) == 2 * len(_SCRIPTS)
