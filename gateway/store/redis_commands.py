"""Batches commands: those of one turn of the event loop reach a server in one round trip."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.store.redis_errors import StoreError
from gateway.tasks import TaskSet

Command = tuple[bytes | str | int, ...]
_Group = tuple[Sequence[Command], asyncio.Future[list[object]]]

# Groups in one round trip; more would block Redis for other clients.
_BATCH = 64
# While a batch is under way, how long later groups wait to go together.
_GATHER_S = 0.001


@dataclass(eq=False, repr=False)
class CommandBatcher:
    """Collects groups of commands of one operation: each of its own would need a connection and a task.

    Attributes:
        send: sends commands in one round trip and returns the replies, errors among them; raises
            `StoreError`.
    """

    send: Callable[[Sequence[Command]], Awaitable[Sequence[object]]]
    tasks: TaskSet
    _waiting: list[_Group] = field(default_factory=list, init=False)
    _under_way: int = field(default=0, init=False)
    _next: asyncio.Handle | None = field(default=None, init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)

    async def run(self, *commands: Command) -> list[object]:
        """Send a group of commands in order, and return their replies.

        Raises:
            StoreError: the outcome is unknown, or Redis refused one of them.
        """
        replies: asyncio.Future[list[object]] = self._loop.create_future()
        self._waiting.append((commands, replies))
        if self._next is None:
            self._next = (
                self._loop.call_later(_GATHER_S, self._send)
                if self._under_way
                else self._loop.call_soon(self._send)
            )
        return await replies

    def _send(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        waiting, self._waiting = self._waiting, []
        for begin in range(0, len(waiting), _BATCH):
            self.tasks.start(self._send_batch(waiting[begin : begin + _BATCH]), "redis-batch")

    async def _send_batch(self, groups: Sequence[_Group]) -> None:
        self._under_way += 1
        failure: StoreError | None = StoreError("connection")
        replies: list[object] = []
        try:
            replies = list(await self.send([command for commands, _ in groups for command in commands]))
            failure = None
        except StoreError as error:
            failure = error
        finally:
            self._under_way -= 1
            if self._waiting:
                self._send()
            for commands, future in groups:
                own, replies = replies[: len(commands)], replies[len(commands) :]
                refused = failure or next((one for one in own if isinstance(one, Exception)), None)
                if future.done():
                    # Who waited has left.
                    continue
                if refused is None:
                    future.set_result(own)
                else:
                    future.set_exception(StoreError(failure.kind if failure else "answer"))
