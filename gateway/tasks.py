"""Background tasks with an owner: each is held until it ends, and all end with the owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_log = logging.getLogger("gateway")

S = TypeVar("S")
T = TypeVar("T")


def guarded(work: Callable[[S], T | Coroutine[Any, Any, T]], argument: S) -> T | Coroutine[Any, Any, T]:
    """Return what a callback gives; what it raises is raised where that is awaited."""
    try:
        return work(argument)
    except Exception as error:
        return raising(error)


async def raising(error: Exception) -> Any:
    """Raise an error where this is awaited."""
    raise error


class TaskSet:
    """Owns tasks that outlive the call that started them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        # Asked for once: before Python 3.12 it costs a system call each time.
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str, *, awaited: bool = False) -> asyncio.Task[T]:
        """Start work and hold it.

        Args:
            work: what to run.
            name: what it is called in the log.
            awaited: somebody looks at the result; otherwise a failure is logged here.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        task = loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_look_at_failure if awaited else _log_failure)
        return task

    async def settle(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` for the tasks to end by themselves."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def cancel(self) -> None:
        """Cancel what is left and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _look_at_failure(task: asyncio.Task[Any]) -> None:
    # Whoever waited may have left by now; asyncio must not complain about that.
    if not task.cancelled():
        task.exception()


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task %s failed: %s", task.get_name(), type(error).__name__, exc_info=error)
