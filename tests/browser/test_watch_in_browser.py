"""The page of examples/ that watches an execution, in a real Chromium before a scripted AOS and a gateway."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.aos import ACTION_ID, STACK_ID, TARGET, Answer, ScriptedAos, record, truncated
from tests.testbed.client import fetch
from tests.testbed.gateway import running
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


async def _watched(aos: ScriptedAos, browser: Browser, end: str, url: str = "") -> list[str]:
    """Watch the example execution until the page says so, and return the phases that it has listed."""
    aos.on("GET", "/watch.html", Answer(headers=[_HTML], body=_PAGE))
    aos.on("GET", "/favicon.ico", Answer(204))

    def look() -> list[str]:
        browser.open(f"{url or aos.url}/watch.html")
        browser.run(_WATCH, "t0ken", STACK_ID, ACTION_ID)
        until(lambda: browser.text("[role=status]") == end, _SOON_S)
        return [line.split()[-1] for line in browser.text("ol").splitlines()]

    return await asyncio.to_thread(look)


def _requests(aos: ScriptedAos) -> list[tuple[bytes | None, bytes | None]]:
    received = [r for r in aos.received if r.target == TARGET]
    assert {r.get("X-Auth-Token") for r in received} == {b"t0ken"}
    return [(r.get("Prefer"), r.get("If-None-Match")) for r in received]


async def test_the_normal_end_of_a_delete_is_told(aos: ScriptedAos, chromium: Browser) -> None:
    aos.queue(Answer(headers=[_JSON], body=record("Running", spec__actionName="delete")), Answer(404))
    assert await _watched(aos, chromium, "deleted") == ["Running"]


async def test_the_page_waits_for_another_record_where_it_may(aos: ScriptedAos, chromium: Browser) -> None:
    aos.queue(
        Answer(headers=[_JSON, ("ETag", '"1"')], body=record("Running")),
        Answer(304, headers=[("ETag", '"1"'), _APPLIED]),
        Answer(headers=[_JSON, ("ETag", '"2"'), _APPLIED], body=record("Succeeded")),
    )
    assert await _watched(aos, chromium, "Succeeded") == ["Running", "Succeeded"]
    assert _requests(aos) == [(None, None), (b"wait=50", b'"1"'), (b"wait=50", b'"1"')]


async def test_the_page_polls_without_support_for_prefer(aos: ScriptedAos, chromium: Browser) -> None:
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
    assert _requests(aos) == [(None, None)] + [(b"wait=50", None)] * 3


async def test_the_page_costs_no_more_calls_than_the_gateway_makes_for_it(
    aos: ScriptedAos, chromium: Browser
) -> None:
    aos.on("PUT", "/v2/stacks/", Answer(202))
    aos.answer(Answer(headers=[_JSON], body=record("Running")))
    async with running(aos.url, wait__max_s=1, wait__interval_s=60) as gateway:
        watching = asyncio.create_task(_watched(aos, chromium, "Succeeded", f"http://{gateway.address}"))
        async with asyncio.timeout(_SOON_S):
            while gateway.app.metrics.waits["timed_out"] < 3:
                await asyncio.sleep(0.02)
        # A plain request, and the first of those that waited.
        assert len(_requests(aos)) == 2
        aos.answer(Answer(headers=[_JSON], body=record("Succeeded")))
        await fetch(gateway.address, f"/v2/stacks/{STACK_ID}", method="PUT", body=b"{}", token="t0ken")
        assert await watching == ["Running", "Succeeded"]
        assert len(_requests(aos)) == 3


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer(403), "unexpected status 403"),
        (Answer(404), "unexpected status 404"),
        (Answer(302, headers=[("Location", "/elsewhere")]), "unexpected redirect"),
    ],
)
async def test_the_page_says_what_ends_it(
    aos: ScriptedAos, chromium: Browser, answer: Answer, end: str
) -> None:
    aos.queue(answer)
    assert await _watched(aos, chromium, end) == []
    assert len(_requests(aos)) == 1
