"""Background tasks with an owner, which end with it."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

_log = logging.getLogger("gateway")

T = TypeVar("T")

_CANCEL_S = 1.0


async def raising(error: Exception) -> Any:
    """Raise an error where this is awaited."""
    raise error


async def at_most(timeout_s: float, work: Awaitable[object]) -> None:
    """Wait for some work; cancel it when it takes longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await work


class TaskSet:
    """Owns tasks that outlive the call that started them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        # Cached: before Python 3.12 `get_running_loop` costs a system call.
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str, *, awaited: bool = False) -> asyncio.Task[T]:
        """Start a task and keep a reference to it; log its failure unless its result is ``awaited``."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieve_failure if awaited else _log_failure)
        return task

    async def settle(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` for the tasks to end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def cancel(self) -> None:
        """Cancel the remaining tasks and wait for their end."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Again after a while: a library that fails at the same moment may swallow a cancellation.
            await asyncio.wait(self._tasks, timeout=_CANCEL_S)


async def first_of(one: Coroutine[Any, Any, object], other: Coroutine[Any, Any, object]) -> tuple[bool, bool]:
    """Run two coroutines until one ends or fails, cancel the other, and return which ended by themselves."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return not tasks[0].cancelled(), not tasks[1].cancelled()


def _retrieve_failure(task: asyncio.Task[Any]) -> None:
    # The caller may have been cancelled; asyncio would log an unretrieved exception.
    if not task.cancelled():
        task.exception()


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task %s failed: %s", task.get_name(), type(error).__name__, exc_info=error)
