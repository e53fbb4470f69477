"""The page of examples/ that watches an execution, in a real Chromium before a scripted AOS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.aos import ACTION_ID, STACK_ID, TARGET, Answer, ScriptedAos, record, truncated
from tests.testbed.webdriver import Browser, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

_PAGE = (Path(__file__).parents[2] / "examples/watch.html").read_bytes()
_HTML = ("Content-Type", "text/html; charset=utf-8")
_JSON = ("Content-Type", "application/json")
_APPLIED = ("Preference-Applied", "wait=50")
_SOON_S = 15.0
_WATCH = """
const form = document.querySelector('form');
[form.elements.token.value, form.elements.stack.value, form.elements.action.value] = arguments;
form.requestSubmit();
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


async def _watched(aos: ScriptedAos, browser: Browser, end: str) -> list[str]:
    """Watch the example execution until the page says so, and return the phases that it has listed."""
    aos.on("GET", "/watch.html", Answer(headers=[_HTML], body=_PAGE))
    aos.on("GET", "/favicon.ico", Answer(204))

    def look() -> list[str]:
        browser.open(f"{aos.url}/watch.html")
        browser.run(_WATCH, "t0ken", STACK_ID, ACTION_ID)
        until(lambda: browser.text("[role=status]") == end, _SOON_S)
        return [line.split()[-1] for line in browser.text("ol").splitlines()]

    return await asyncio.to_thread(look)


def _asked(aos: ScriptedAos) -> list[tuple[bytes | None, bytes | None]]:
    asked = [r for r in aos.received if r.target == TARGET]
    assert {r.get("X-Auth-Token") for r in asked} == {b"t0ken"}
    return [(r.get("Prefer"), r.get("If-None-Match")) for r in asked]


async def test_the_page_waits_for_another_record_where_it_may(aos: ScriptedAos, chromium: Browser) -> None:
    aos.queue(
        Answer(headers=[_JSON, ("ETag", '"1"')], body=record("Running")),
        Answer(304, headers=[("ETag", '"1"'), _APPLIED]),
        Answer(headers=[_JSON, ("ETag", '"2"'), _APPLIED], body=record("Succeeded")),
    )
    assert await _watched(aos, chromium, "Succeeded") == ["Running", "Succeeded"]
    assert _asked(aos) == [(None, None), (b"wait=50", b'"1"'), (b"wait=50", b'"1"')]


async def test_the_page_polls_without_waiting(aos: ScriptedAos, chromium: Browser) -> None:
    aos.queue(
        Answer(headers=[_JSON], body=record("Running")),
        Answer(503),
        # Chromium itself repeats a request that got no answer at all on a used connection.
        truncated(Answer(headers=[_JSON], body=record("Failed")), 200),
        Answer(headers=[_JSON], body=record("Failed")),
    )
    began_s = asyncio.get_running_loop().time()
    assert await _watched(aos, chromium, "Failed") == ["Running", "Failed"]
    assert asyncio.get_running_loop().time() - began_s > 2 + 3 + 4
    assert _asked(aos) == [(None, None)] + [(b"wait=50", None)] * 3


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer(403), "the answer is 403"),
        (Answer(404), "the answer is 404"),
        (Answer(302, headers=[("Location", "/elsewhere")]), "the answer is a redirect"),
    ],
)
async def test_the_page_says_what_ends_it(
    aos: ScriptedAos, chromium: Browser, answer: Answer, end: str
) -> None:
    aos.queue(answer)
    assert await _watched(aos, chromium, end) == []
    assert len(_asked(aos)) == 1
