"""The scripts of examples/, run as they stand against a scripted AOS."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.testbed.aos import Answer, AnyAnswer, ScriptedAos, close_unanswered, record

_EXAMPLES = Path(__file__).parent.parent / "examples"
_TOKEN = 't0ken-"of\\alice'
_APPLIED = ("Preference-Applied", "wait=50")
_SCRIPTS = {
    "shell": ["sh", str(_EXAMPLES / "watch.sh")],
    "python": [sys.executable, str(_EXAMPLES / "watch.py")],
}
_ENDS = {"Succeeded": 0, "Failed": 3, "Cancelled": 4, "ForceCancelled": 4}
_STATUSES = {"403": 1, "302": 1}


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
    polling: list[AnyAnswer] = [first, Answer(429), close_unanswered, Answer(body=record("Failed"))]
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
