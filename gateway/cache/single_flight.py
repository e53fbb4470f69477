"""Shared fetches: concurrent equal requests of one caller cost the upstream one call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from gateway.clock import Clock
from gateway.errors import DeadlinePassed
from gateway.tasks import TaskSet

T = TypeVar("T")
R = TypeVar("R")


class Flight(Generic[T]):
    """One fetch under way.

    Attributes:
        key: who asks for what.
        stack: case-folded stack id.
        started_s: monotonic time of its start.
        leader_waits: the request that began it is still there to take its result.
        is_late: its time was over before it ended.
    """

    def __init__(self, key: bytes, stack: bytes, started_s: float) -> None:
        self.key = key
        self.stack = stack
        self.started_s = started_s
        self.leader_waits = True
        self.is_late = False
        self.task: asyncio.Task[T] | None = None


class Flights(Generic[T]):
    """The fetches of one gateway that others may join.

    Args:
        timeout_s: how long each request waits, from its own arrival.
        join_max_age_s: nobody joins a flight older than this.
        clock: monotonic time.
        abandon: lets go of a result that its leader did not stay for.
    """

    def __init__(
        self, timeout_s: float, join_max_age_s: float, clock: Clock, abandon: Callable[[T], None]
    ) -> None:
        self._timeout_s = timeout_s
        self._join_max_age_s = join_max_age_s
        self._clock = clock
        self._abandon = abandon
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskSet()
        self._open: dict[bytes, Flight[T]] = {}
        self._by_stack: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._tasks)

    def joinable(self, key: bytes) -> Flight[T] | None:
        """Return the flight that an equal request may join now, or ``None``."""
        flight = self._open.get(key)
        if flight is None:
            return None
        if self._clock.monotonic_s() - flight.started_s > self._join_max_age_s:
            return None
        return flight

    async def join(self, flight: Flight[T]) -> T:
        """Wait for another request's fetch; leaving does not disturb it.

        Raises:
            GatewayError: what the fetch failed with, or `DeadlinePassed`.
        """
        return await self._wait(flight)

    async def lead(self, key: bytes, stack: bytes, fetch: Callable[[Flight[T]], Coroutine[Any, Any, T]]) -> T:
        """Begin a fetch that others may join, in place of any older one, and wait for it.

        Raises:
            GatewayError: what the fetch failed with, or `DeadlinePassed`.
        """
        flight: Flight[T] = Flight(key, stack, self._clock.monotonic_s())
        self._detach(key)
        self._open[key] = flight
        self._by_stack[stack].add(key)
        flight.task = self._tasks.start(self._fly(flight, fetch), "flight", awaited=True)
        has_result = False
        try:
            result = await self._wait(flight)
            has_result = True
            return result
        finally:
            if not has_result:
                flight.leader_waits = False
                _abandon_later(flight.task, self._abandon)

    async def alone(self, fetch: Awaitable[R]) -> R:
        """Wait for a fetch that nobody shares, as long as for a flight.

        Raises:
            GatewayError: what the fetch failed with, or `DeadlinePassed`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await fetch
        except TimeoutError as error:
            raise DeadlinePassed from error

    def detach_stack(self, stack: bytes) -> None:
        """Let nobody join the flights of a stack any more; they answer those who had joined."""
        for key in list(self._by_stack.get(stack, ())):
            self._detach(key)

    def detach_all(self) -> None:
        """Let nobody join any flight that is under way."""
        self._open.clear()
        self._by_stack.clear()

    async def close(self, timeout_s: float) -> None:
        """Let flights end within a time, then cancel the rest."""
        await self._tasks.settle(timeout_s)
        await self._tasks.cancel()

    async def _fly(self, flight: Flight[T], fetch: Callable[[Flight[T]], Awaitable[T]]) -> T:
        # What asyncio.timeout does, without asking for the loop and the task again.
        late = self._loop.call_later(self._timeout_s, _end, flight)
        try:
            return await fetch(flight)
        except asyncio.CancelledError as error:
            if flight.is_late:
                raise DeadlinePassed from error
            raise
        finally:
            late.cancel()
            if self._open.get(flight.key) is flight:
                self._detach(flight.key)

    async def _wait(self, flight: Flight[T]) -> T:
        assert flight.task is not None
        # No deadline of its own: the fetch has one, and began no later than this wait did.
        return await asyncio.shield(flight.task)

    def _detach(self, key: bytes) -> None:
        flight = self._open.pop(key, None)
        if flight is None:
            return
        keys = self._by_stack[flight.stack]
        keys.discard(key)
        if not keys:
            del self._by_stack[flight.stack]


def _end(flight: Flight[T]) -> None:
    if flight.task is not None:
        flight.is_late = True
        flight.task.cancel()


def _abandon_later(task: asyncio.Task[T], abandon: Callable[[T], None]) -> None:
    def done(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            abandon(task.result())

    task.add_done_callback(done)
