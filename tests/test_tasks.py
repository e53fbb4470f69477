"""Background tasks with an owner."""

import asyncio
import contextlib

import pytest

from gateway.tasks import TaskSet


async def loses_one_cancellation() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    await asyncio.sleep(60)


async def turns_one_cancellation_into_an_error() -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            raise OSError from None
    await asyncio.sleep(60)


@pytest.mark.parametrize("work", [loses_one_cancellation, turns_one_cancellation_into_an_error])
async def test_a_task_that_swallows_a_cancellation_ends_with_its_owner(
    monkeypatch: pytest.MonkeyPatch, work: object
) -> None:
    monkeypatch.setattr("gateway.tasks._CANCEL_S", 0.01)
    assert callable(work)
    tasks = TaskSet()
    task = tasks.start(work(), "stubborn")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.cancel()
    assert task.cancelled()
    assert len(tasks) == 0
