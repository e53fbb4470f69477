"""Fixtures of the store tests."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.store.kit import Replica, replica

Replicas = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    """Starts tiers as `replica` makes them, by default subscribed; all are closed."""
    started: list[Replica] = []

    async def start(url: str | None, prefix: str, *, subscribed: bool = True, **settings: object) -> Replica:
        one = replica(url, prefix, **settings)  # type: ignore[arg-type]
        started.append(one)
        await one.tiers.start(0)
        if url is not None and subscribed:
            await one.subscribed()
        return one

    yield start
    for one in started:
        await one.tiers.close(0.2)
