"""Batches look-ups in Redis: many in one round trip."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.core.caching.key import EntryKey
from gateway.store.lookup import FAILED, LookupResult
from gateway.store.redis_errors import StoreError
from gateway.tasks import TaskSet

# Look-ups in one MGET; a larger one would block Redis for other clients.
_BATCH = 64
# While a batch is under way, how long later look-ups wait to go together.
_GATHER_S = 0.001


# Called once.
OnResult = Callable[[LookupResult], None]
# By `EntryKey.local`: look-ups of the same entry are one.
_Batch = dict[bytes, tuple[EntryKey, list[OnResult]]]


@dataclass(eq=False, repr=False)
class LookupBatcher:
    """Collects look-ups and sends them together, those of the same entry as one.

    A batch holds those of one turn of the event loop; while others are under way also those of the next
    millisecond, because a command costs more than its keys.

    Attributes:
        timeout_s: how long each of them waits.
        mget: reads keys in order; raises `StoreError`.
        result_of: makes the result of the values at an entry's key and at its stack's generation key.
    """

    timeout_s: float
    mget: Callable[[list[bytes]], Awaitable[list[object]]]
    result_of: Callable[[EntryKey, object, object], LookupResult]
    tasks: TaskSet
    _waiting: _Batch = field(default_factory=dict, init=False)
    _under_way: int = field(default=0, init=False)
    _next: asyncio.Handle | None = field(default=None, init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop, init=False)

    def add(self, key: EntryKey, on_result: OnResult) -> None:
        """Look up one entry; ``on_result`` is called later, within the timeout."""
        if self._next is None:
            loop = self._loop
            self._next = (
                loop.call_later(_GATHER_S, self._send) if self._under_way else loop.call_soon(self._send)
            )
        waiting = self._waiting.get(key.local)
        if waiting is None:
            self._waiting[key.local] = key, [on_result]
        else:
            waiting[1].append(on_result)

    def _send(self) -> None:
        self.tasks.start(self._look_up(self._next_batch()), "redis-lookup")

    def _next_batch(self) -> _Batch:
        batch, self._waiting = self._waiting, {}
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if len(batch) > _BATCH:
            waiting = iter(batch.items())
            batch, self._waiting = dict(itertools.islice(waiting, _BATCH)), dict(waiting)
            self._next = self._loop.call_soon(self._send)
        return batch

    async def _look_up(self, batch: _Batch) -> None:
        """Send a batch; when it is answered, what waits by then; and so on."""
        self._under_way += 1
        try:
            while batch:
                self._deliver(batch, await self._read(batch))
                if self._waiting:
                    # What has come meanwhile goes with it.
                    await asyncio.sleep(0)
                batch = self._next_batch()
        finally:
            self._under_way -= 1

    async def _read(self, batch: _Batch) -> list[object] | None:
        # One deadline for all of one batch. The command itself is not cancelled.
        deadline = self._loop.call_later(self.timeout_s, self._deliver, batch, None)
        try:
            return await self.mget([name for key, _ in batch.values() for name in (key.name, key.generation)])
        except StoreError:
            return None
        finally:
            deadline.cancel()

    def _deliver(self, batch: _Batch, values: list[object] | None) -> None:
        waiting = list(batch.values())
        # What comes after the timeout is for nobody.
        batch.clear()
        for number, (key, on_results) in enumerate(waiting):
            result = FAILED
            try:
                if values is not None:
                    result = self.result_of(key, values[2 * number], values[2 * number + 1])
            except Exception as error:
                self._report(error)
            for on_result in on_results:
                try:
                    on_result(result)
                except Exception as error:
                    self._report(error)

    def _report(self, error: Exception) -> None:
        # A fault in one request keeps no other from its outcome.
        self._loop.call_exception_handler({"message": "after a look-up", "exception": error})
