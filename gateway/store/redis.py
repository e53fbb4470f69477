"""The tier in Redis: one round trip to look up, nothing retried in secret, no command cut half-way."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import InvalidResponse, ResponseError

from gateway.clock import Clock
from gateway.core.caching.entry import GENERATION_BYTES, Entry, seal, unseal
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.base import StoreError, StoreResult
from gateway.store.breaker import PROBE, Breaker
from gateway.store.redis_changes import Forget, Forgotten, Write
from gateway.store.redis_condition import CHECK, Condition
from gateway.store.redis_connection import password_of
from gateway.store.redis_errors import PartlyRefused, kind_of, worst, wrong_server
from gateway.store.redis_link import Link
from gateway.store.redis_lookups import LookupBatcher, Values
from gateway.store.redis_settings import RedisSettings
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_CLOSE_S = 1.0
_LOOK_S = 1.0
# As long as a large record: a Redis that drips lets a short answer come in time.
_PROBE = b"?" * 16_384

T = TypeVar("T")


class RedisStore:
    """Keeps entries in Redis.

    Args:
        settings: how to reach it.
        keys: builds the keys.
        secret: ``cache.secret`` as bytes.
        clock: wall time decides about ends.
        metrics: counts failures and refused bytes.
        on_connection_opened: called, without waiting, before a new connection carries a command.
        on_left: called when the server has shown that it is the wrong one; every connection is closed.
        on_well: see `Condition`.

    Attributes:
        condition: how Redis is.
    """

    def __init__(
        self,
        settings: RedisSettings,
        *,
        keys: KeySpace,
        secret: bytes,
        clock: Clock,
        metrics: Metrics,
        on_connection_opened: Callable[[], None],
        on_left: Callable[[], None],
        on_well: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.condition = Condition(clock, password_of(settings.url), on_well)
        self._keys = keys
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._left = on_left
        # Two that a Cluster keeps in different slots: only a single server that may be written to takes them.
        self._scratch = tuple(keys.generation(name) for name in (b"", b"/"))
        self._tasks = TaskSet()
        self._lookups = LookupBatcher(settings.timeout_s, self._mget, self._tasks.start)
        self._link = Link(settings, self._tasks, on_connection_opened)

    @property
    def breaker(self) -> Breaker:
        """Whether Redis is asked at all."""
        return self.condition.breaker

    @property
    def is_up(self) -> bool:
        """The last operation succeeded."""
        return self.condition.is_up

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        return self._link.connections

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections that are opened from now on."""
        self.settings = settings
        self.condition.password = password_of(settings.url)
        self._link.connect_with(settings)

    async def lookup(self, key: EntryKey) -> StoreResult:
        """Return the usable entry and the stack's generation.

        All look-ups of one turn of the loop go in one ``MGET``.

        Raises:
            StoreError: Redis did not answer in time or not as it should, or is left alone for a while.
        """
        found: asyncio.Future[StoreResult] = asyncio.get_running_loop().create_future()

        def told(result: StoreResult | StoreError) -> None:
            # Whoever asked may have left.
            if found.done():
                return
            if isinstance(result, StoreError):
                found.set_exception(result)
            else:
                found.set_result(result)

        self.lookup_soon(key, told)
        return await found

    def lookup_soon(self, key: EntryKey, told: Callable[[StoreResult | StoreError], None]) -> None:
        """Look up like `lookup`, and call ``told`` once with the result, never before this returns.

        Raises:
            StoreError: Redis is left alone for a while.
        """
        self._pass_breaker()

        def hear(values: Values | StoreError) -> None:
            told(values if isinstance(values, StoreError) else self._found(key, values))

        self._lookups.ask(key, hear)

    async def mint(self, key: EntryKey) -> bytes | None:
        """Give a stack a generation if it has none, and return the one it has then.

        Returns:
            ``None`` when something else stands at the key.

        Raises:
            StoreError: Redis did not answer in time or not as it should.
        """

        async def work() -> bytes | None:
            fresh = secrets.token_bytes(GENERATION_BYTES)
            pipeline = self._link.client.pipeline(transaction=False)
            pipeline.set(key.generation, fresh, nx=True, px=_milliseconds(self.settings.mint_ttl_s))
            pipeline.get(key.generation)
            _, generation = await pipeline.execute()
            return _generation(generation)

        return await self._in_time(self._run("mint", work))

    async def store(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Keep one entry; see `write`."""
        await self.write([Write(key, entry, generation)])

    async def drop(self, key: EntryKey) -> None:
        """Remove one entry; see `write`."""
        await self.write([Write(key, None, b"")])

    async def forget(self, stack: bytes) -> None:
        """Remove a stack's generation, and tell nobody.

        Raises:
            StoreError: Redis did not confirm it.
        """
        [forgotten] = await self.forget_all([Forget(self._keys.generation(stack), None)])
        if not forgotten.is_deleted:
            raise StoreError("answer")

    async def write(self, writes: Sequence[Write]) -> None:
        """Send changes in order, in one round trip, within the timeout.

        Raises:
            StoreError: some or all of them may not have been made.
        """

        wall_s, monotonic_s = self._clock.wall_s(), self._clock.monotonic_s()
        pipeline = self._link.client.pipeline(transaction=False)
        for write in writes:
            if write.entry is None:
                pipeline.delete(write.key.name)
            elif (left_s := write.entry.ttl_s(write.entry.now_s(wall_s, monotonic_s))) > 0:
                sealed = seal(write.key, write.generation, write.entry, self._secret)
                pipeline.set(write.key.name, sealed, px=_milliseconds(left_s))
                pipeline.pexpire(write.key.generation, _milliseconds(self.settings.generation_ttl_s))
        # What asks nothing of Redis must not count as its answer.
        if len(pipeline):
            await self._in_time(self._run("write", pipeline.execute))

    async def forget_all(self, forgets: Sequence[Forget]) -> list[Forgotten]:
        """Remove generations, then publish the notes, in one round trip.

        ``DEL`` and ``PUBLISH`` still work when Redis is full; ``SET`` and ``INCR`` do not.

        Returns:
            For each, what of it Redis confirmed.

        Raises:
            StoreError: nothing is known to be confirmed.
        """

        if not forgets:
            return []

        async def work() -> list[object]:
            pipeline = self._link.client.pipeline(transaction=False)
            for forget in forgets:
                pipeline.delete(forget.generation_key)
                if forget.note is not None:
                    pipeline.publish(self._keys.channel, forget.note)
            replies: list[object] = await pipeline.execute(raise_on_error=False)
            if refusals := [reply for reply in replies if isinstance(reply, ResponseError)]:
                raise PartlyRefused(replies) from worst(refusals)
            return replies

        try:
            replies = await self._in_time(self._run("forget", work))
        except StoreError as error:
            refused = error.__cause__
            if not isinstance(refused, PartlyRefused) or wrong_server(refused) is not None:
                raise
            replies = list(refused.replies)
        confirmed = iter([isinstance(reply, int) for reply in replies])
        return [Forgotten(next(confirmed), forget.note is not None and next(confirmed)) for forget in forgets]

    async def monitor(self) -> None:
        """Ask again and again whether this is a server that can be used; runs on.

        One that is no master any more answers look-ups as before.
        """
        while True:
            if self.breaker.is_closed:
                with contextlib.suppress(StoreError):
                    await self._guarded(CHECK, self._check)
            await asyncio.sleep(_LOOK_S)

    async def probe_while_open(self) -> None:
        """Ask again and again, while Redis is given up, whether it is well; runs until cancelled."""

        async def probe() -> None:
            # What is idle in the pool may lead to a server that is gone, one dead connection a probe.
            await self._link.disconnect_idle()
            await self._ping(b"?")
            began_s = asyncio.get_running_loop().time()
            await self._ping(_PROBE)
            if asyncio.get_running_loop().time() - began_s > self.settings.timeout_s:
                raise TimeoutError
            await self._check()

        while True:
            await asyncio.sleep(await self.breaker.wait_open())
            self.breaker.begin_probe()
            with contextlib.suppress(StoreError):
                # Connecting may take its time here; it is done once.
                await self._guarded(PROBE, probe, limit_s=math.inf)

    async def _ping(self, word: bytes) -> None:
        client: Any = self._link.client
        if await client.execute_command("PING", word) != word:
            raise InvalidResponse

    async def _check(self) -> None:
        if not isinstance(await self._link.client.delete(*self._scratch), int):
            raise InvalidResponse

    async def close(self) -> None:
        """Let commands under way end, then close the connections."""
        await self._tasks.settle(_CLOSE_S)
        await self._tasks.cancel()
        await self._link.close()

    async def _mget(self, names: list[bytes]) -> list[object]:
        async def work() -> list[object]:
            values = await self._link.client.mget(names)
            if not isinstance(values, list) or len(values) != len(names):
                # An answer to something else: what follows on that connection is no better.
                await self._link.disconnect_idle()
                raise InvalidResponse
            return cast("list[object]", values)

        return await self._guarded("lookup", work)

    def _found(self, key: EntryKey, values: Values) -> StoreResult:
        sealed, generation = values.entry, _generation(values.generation)
        if not isinstance(sealed, bytes) or generation is None:
            return StoreResult(None, generation)
        now_s = self._clock.wall_s()
        entry = unseal(key, generation, sealed, self._secret, now_s)
        if entry is None:
            self._metrics.entries_invalid += 1
            return StoreResult(None, generation)
        return StoreResult(entry if entry.ttl_s(now_s) > 0 else None, generation)

    def _pass_breaker(self) -> None:
        """Let an operation through, or fail it at once while Redis is given up."""
        if not self.breaker.is_closed:
            raise StoreError("open")

    def _run(self, operation: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        self._pass_breaker()
        return self._tasks.start(self._guarded(operation, work), f"redis-{operation}", awaited=True)

    async def _guarded(
        self, operation: str, work: Callable[[], Awaitable[T]], *, limit_s: float | None = None
    ) -> T:
        """Run one operation, and name its failure once for everybody.

        Args:
            operation: its name in the metrics.
            work: does it.
            limit_s: longer is as bad as not at all; ``None`` stands for the timeout.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            result = await work()
        except Exception as error:  # a parser that is fed with garbage raises whatever it meets
            failure = StoreError(kind_of(error))
            self._metrics.redis_failures[operation, failure.kind] += 1
            if self.condition.failed(operation, error):
                self._link.leave()
                self._left()
            raise failure from error
        finally:
            self._metrics.redis_took(operation, loop.time() - began_s)
        if loop.time() - began_s > (self.settings.timeout_s if limit_s is None else limit_s):
            # Each part came in time, the whole too late for those who asked.
            self._metrics.redis_failures[operation, "timeout"] += 1
            self.condition.slow(operation)
        else:
            self.condition.succeeded(operation)
        return result

    async def _in_time(self, running: asyncio.Future[T]) -> T:
        """Wait for an operation at most ``timeout_s``; it goes on to its own end.

        A command that is cancelled half-way costs its connection.
        """
        done, _ = await asyncio.wait((running,), timeout=self.settings.timeout_s)
        if done:
            return running.result()
        raise StoreError("timeout")


def _generation(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and len(value) == GENERATION_BYTES else None


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
