"""The page over real sockets: what is served, to whom, and with which fields."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib import resources

import pytest
from aiohttp import web

from gateway.admin.app import build_admin
from gateway.admin.server import AdminConnection
from gateway.operations import Operations
from gateway.page.page import POLICY
from gateway.telemetry.snapshot import Snapshot, unlabelled
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution
from tests.end_to_end.kit import all_busy
from tests.testbed.answers import Answer
from tests.testbed.aos import ScriptedAos
from tests.testbed.client import fetch
from tests.testbed.gateway import RunningGateway, loaded, running
from tests.testbed.payloads import ACTION_ID, STACK_ID, TARGET, record

_PATHS = ("/", "/page.css", "/page.js", "/icon.svg", "/status")
_TOKEN = ("X-Auth-Token", "s3cret-token")


@asynccontextmanager
async def _serving(operations: Operations) -> AsyncIterator[str]:
    """Serve the admin application and yield its address."""
    app = build_admin(operations)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        assert runner.server is not None
        make = functools.partial(AdminConnection, runner.server, {})
        listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        listener.close()
    finally:
        await runner.cleanup()


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[tuple[RunningGateway, str]]:
    """A gateway and its admin address."""
    async with running(aos.url) as gateway, _serving(gateway.app) as admin:
        yield gateway, admin


class _Loads(HTMLParser):
    """Collects what a page loads, and what it would run or style by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag in ("script", "img", "link"):
            self.loads.append(names.get("src") or names.get("href") or "")
        if tag == "style" or (tag == "script" and "src" not in names):
            self.inline.append(tag)
        self.inline += [name for name in names if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("path", _PATHS)
async def test_each_path_has_its_type_and_security_fields(
    gateway: tuple[RunningGateway, str], path: str
) -> None:
    response = await fetch(gateway[1], path)
    assert response.status == 200
    types = {"/": b"text/html; charset=utf-8", "/status": b"application/json", "/icon.svg": b"image/svg+xml"}
    types |= {"/page.css": b"text/css; charset=utf-8", "/page.js": b"text/javascript; charset=utf-8"}
    assert response.get("Content-Type") == types[path]
    assert response.get("Cache-Control") == b"no-store"
    assert response.get("X-Content-Type-Options") == b"nosniff"
    assert response.get("Cross-Origin-Resource-Policy") == b"same-origin"
    policy = response.get("Content-Security-Policy") or b""
    assert policy.startswith(b"default-src 'none'")
    assert b"frame-ancestors 'none'" in policy
    assert (await fetch(gateway[1], path, method="POST", body=b"")).status == 405


def test_the_policy_lets_nothing_inline_or_foreign_in() -> None:
    assert "unsafe" not in POLICY
    assert "data:" not in POLICY
    sources = {source for part in POLICY.split("; ") for source in part.split()[1:]}
    assert sources == {"'none'", "'self'", "'script'"}


async def test_the_html_loads_its_own_files_alone_and_has_no_script_or_style_inside(
    gateway: tuple[RunningGateway, str],
) -> None:
    found = _Loads()
    found.feed((await fetch(gateway[1], "/")).body.decode())
    assert found.inline == []
    assert set(found.loads) == {"/page.css", "/page.js", "/icon.svg"}


def test_no_file_names_another_place_or_writes_html() -> None:
    for file in (resources.files("gateway.page") / "assets").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"(?:https?:)?//[a-z]|@import|url\(", text) == [], file.name
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) == []


async def test_status_has_requests_executions_and_the_whole_state(
    gateway: tuple[RunningGateway, str], aos: ScriptedAos
) -> None:
    running_gateway, admin = gateway
    aos.answer(Answer(body=record("Running", status__progress=40)))
    before = (await fetch(admin, "/status")).json()
    assert (before["level"], before["headline"], before["executions"]) == ("ok", "All is well.", [])
    for _ in range(3):
        await fetch(running_gateway.address, TARGET, headers=[_TOKEN])
    # Requests at nearly the same time share a sample.
    async with asyncio.timeout(5):
        while not (found := (await fetch(admin, "/status")).json())["minute"]["requests"]:
            await asyncio.sleep(0.05)
    (seen,) = found["executions"]
    assert (seen["stack_id"], seen["action_id"]) == (STACK_ID, ACTION_ID)
    assert (seen["phase"], seen["progress"], seen["fetches"]) == ("Running", 40, 3)
    assert (found["minute"]["requests"], found["minute"]["upstream_requests"]) == (3, 3)
    assert [reason["reason"] for reason in found["reasons"]] == ["phase"]
    assert found["parts"]["redis"]["state"] == "off"
    assert "s3cret-token" not in str(found)


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast path", "parser"])
async def test_executions_that_are_mostly_hits_are_among_the_busiest(
    aos: ScriptedAos, *, fast_lane: bool
) -> None:
    aos.answer(Answer(body=record("Succeeded", status__progress=100)))
    async with running(aos.url, server__fast_lane=fast_lane) as gateway, _serving(gateway.app) as admin:
        for _ in range(30):
            await fetch(gateway.address, TARGET, headers=[_TOKEN])
        # Reading the list samples the next hit, which stands for all before it.
        await fetch(admin, "/status")
        await fetch(gateway.address, TARGET, headers=[_TOKEN])
        (seen,) = (await fetch(admin, "/status")).json()["executions"]
    assert len(aos.received) == 1
    assert 0 <= seen.pop("age_s") <= 30
    assert 0 < seen.pop("rate") <= 31
    assert seen == {
        "stack_id": STACK_ID,
        "action_id": ACTION_ID,
        "phase": "Succeeded",
        "progress": 100,
        "fetches": 1,
        "hits": 30,
    }


async def test_callers_that_share_a_fetch_are_counted_too(
    gateway: tuple[RunningGateway, str], aos: ScriptedAos
) -> None:
    running_gateway, admin = gateway
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=record("Running", status__progress=40))))
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(fetch(running_gateway.address, TARGET, headers=[_TOKEN]))
        await all_busy(running_gateway, 3)
        gate.open()
    (seen,) = (await fetch(admin, "/status")).json()["executions"]
    assert len(aos.received) == 1
    assert (seen["fetches"], seen["hits"], seen["phase"]) == (1, 2, "Running")


class _Workers:
    """Three workers, one of them not ready."""

    refreshes = 0
    config = loaded("http://aos.invalid", server__workers=2)

    def ready(self) -> bool:
        return True

    def health(self) -> dict[str, object]:
        return {"workers": [{"worker": number, "pid": 10, "ready": number != 1} for number in range(3)]}

    def metrics_snapshot(self) -> Snapshot:
        return unlabelled({"connections": 5.0})

    def executions(self) -> list[TopExecution]:
        return []

    def throttled(self) -> list[ThrottledCaller]:
        return []

    async def refresh(self) -> None:
        self.refreshes += 1

    async def purge(self, stack_id: str) -> bool:
        raise AssertionError(stack_id)


async def test_the_state_of_workers_is_refreshed_before_it_is_shown() -> None:
    workers = _Workers()
    async with _serving(workers) as admin:
        found = (await fetch(admin, "/status")).json()
    assert workers.refreshes >= 1
    assert found["workers"] == 3
    assert (found["level"], found["headline"]) == (
        "warn",
        "1 of 3 workers is not ready; the others answer.",
    )


async def test_a_worker_that_has_ended_is_missing_until_there_is_another() -> None:
    class _OneGone(_Workers):
        config = loaded("http://aos.invalid", server__workers=3)

        def health(self) -> dict[str, object]:
            return {"workers": [{"worker": number, "pid": 10, "ready": True} for number in range(2)]}

    async with _serving(_OneGone()) as admin:
        found = (await fetch(admin, "/status")).json()
    assert (found["workers"], found["parts"]["gateway"]["state"]) == (3, "partly")
