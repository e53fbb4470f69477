"""Fixtures of the tests against hostile peers."""

from collections.abc import AsyncIterator

import pytest

from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.gateway import RunningGateway, running


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[RunningGateway]:
    """A gateway in front of a scripted AOS that answers everything; it must let go of every exchange."""
    aos.answer(Answer(body=b"from upstream"))
    async with running(aos.url, server__body_timeout_s=3, server__header_timeout_s=3) as started:
        yield started
    assert started.app.upstream.slots.in_use == 0
