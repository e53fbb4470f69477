"""Fixtures of the tests over sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from gateway.runtime.event_loop import loop_factory
from tests.testbed.aos import ScriptedAos
from tests.testbed.gateway import RunningGateway, running


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the event loop that the product runs on."""
    return {"product": loop_factory() or asyncio.new_event_loop}


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[RunningGateway]:
    """A gateway with default settings in front of the scripted AOS; it must let go of every exchange."""
    async with running(aos.url) as started:
        yield started
    assert started.app.upstream.slots.in_use == 0
