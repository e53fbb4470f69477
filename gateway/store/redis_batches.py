"""Batches what is sent to Redis: that of one turn of the event loop goes in one round trip."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gateway.tasks import TaskSet

# Items in one round trip; more would block Redis for other clients.
_BATCH = 64
# While a batch is under way, how long later items wait to go together.
_GATHER_S = 0.001

T = TypeVar("T")


@dataclass(eq=False, repr=False)
class Batcher(Generic[T]):
    """Collects items, and sends them together.

    A batch holds those of one turn of the event loop; while others are under way also those of the next
    millisecond, because a round trip costs more than what goes in it.

    Attributes:
        send: sends one batch and gives each of its items its outcome.
        name: of the tasks.
    """

    send: Callable[[Sequence[T]], Awaitable[None]]
    tasks: TaskSet
    name: str
    _waiting: list[T] = field(default_factory=list, init=False)
    _under_way: int = field(default=0, init=False)
    _next: asyncio.Handle | None = field(default=None, init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)

    def add(self, item: T) -> None:
        """Send an item with the next batch."""
        self._waiting.append(item)
        if self._next is None:
            loop = self._loop
            self._next = (
                loop.call_later(_GATHER_S, self._start) if self._under_way else loop.call_soon(self._start)
            )

    def _start(self) -> None:
        self.tasks.start(self._run(self._next_batch()), self.name)

    def _next_batch(self) -> Sequence[T]:
        if self._next is not None:
            self._next.cancel()
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._next = self._loop.call_soon(self._start) if self._waiting else None
        return batch

    async def _run(self, batch: Sequence[T]) -> None:
        """Send a batch; when it is answered, what waits by then; and so on."""
        self._under_way += 1
        try:
            while batch:
                await self.send(batch)
                if self._waiting:
                    # What has come meanwhile goes with it.
                    await asyncio.sleep(0)
                batch = self._next_batch()
        finally:
            self._under_way -= 1
