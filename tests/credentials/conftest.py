"""Fixtures of the tests of the gateway's own credentials."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from gateway.runtime.event_loop import loop_factory
from tests.end_to_end.kit import MovableTime, settled
from tests.testbed.aos import ScriptedAos
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.secrets import token

from .kit import by_file


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the event loop that the product runs on."""
    return {"product": loop_factory() or asyncio.new_event_loop}


@pytest.fixture
def now() -> MovableTime:
    return MovableTime()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with a token."""
    path = tmp_path / "token"
    path.write_bytes(token("robot, one", 4_000) + b"\n")
    return path


@pytest.fixture
async def gateway(aos: ScriptedAos, token_file: Path, lane: str) -> AsyncIterator[RunningGateway]:
    """A gateway with a token of its own, on each lane, in front of an AOS that has settled records."""
    aos.answer(settled())
    async with running(aos.url, **by_file(token_file)) as started:
        yield started
    assert started.app.upstream.slots.in_use == 0
