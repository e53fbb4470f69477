"""A running twin and somebody who calls it."""

from collections.abc import AsyncIterator

import pytest

from gateway.config.address import TcpAddress
from gateway.twin.profiles import DEMO
from gateway.twin.server import Twin

from .caller import Caller

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)


@pytest.fixture
async def twin() -> AsyncIterator[Twin]:
    """A twin of the profile "demo" whose time moves by jumps alone."""
    twin = Twin(DEMO, seed=7)
    twin.world.clock.freeze()
    await twin.start(LOOPBACK, LOOPBACK)
    yield twin
    await twin.close()


@pytest.fixture
async def caller(twin: Twin) -> AsyncIterator[Caller]:
    """Somebody who calls that twin."""
    async with Caller(twin) as caller:
        yield caller
