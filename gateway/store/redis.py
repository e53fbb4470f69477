"""The tier in Redis: one round trip to look up, nothing retried in secret, no command cut half-way."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import InvalidResponse, ResponseError

from gateway.clock import Clock
from gateway.core.entry import GENERATION_BYTES, Entry, seal, unseal
from gateway.core.key import EntryKey, KeySpace
from gateway.metrics import Metrics
from gateway.store.base import Found, StoreError
from gateway.store.breaker import PROBE, Breaker
from gateway.store.redis_connection import connection_arguments
from gateway.store.redis_lookups import Lookups, Values
from gateway.tasks import TaskSet

_CLOSE_S = 1.0
_LOOK_S = 1.0
# As long as a large record: a Redis that drips lets a short answer come in time.
_PROBE = b"?" * 16_384

T = TypeVar("T")


class Write(msgspec.Struct, frozen=True, gc=False):
    """One change to send: an entry to keep under a generation, or (``entry`` is ``None``) to remove."""

    key: EntryKey
    entry: Entry | None
    generation: bytes


class Forget(msgspec.Struct, frozen=True, gc=False):
    """One stack to forget: its generation key, and the note to publish (``None``: publish nothing)."""

    generation_key: bytes
    note: bytes | None


class RedisSettings(msgspec.Struct, frozen=True):
    """How to reach Redis and how long to wait for it.

    Attributes:
        url: checked ``redis://``, ``rediss://`` or ``unix://`` URL.
        timeout_s: of one operation, connecting included.
        max_connections: bound of connections for commands.
        generation_ttl_s: how long a generation outlives the last store under it.
        mint_ttl_s: how long a new generation lives without a store.
        tls: for a ``rediss://`` URL.
    """

    url: str
    timeout_s: float
    max_connections: int
    generation_ttl_s: float
    mint_ttl_s: float
    tls: ssl.SSLContext | None = None


class RedisStore:
    """Keeps entries in Redis.

    Args:
        settings: how to reach it.
        keys: builds the keys.
        secret: ``cache.secret`` as bytes.
        clock: wall time decides about ends.
        metrics: counts failures and refused bytes.
        on_connection_opened: called, without waiting, before a new connection carries a command.
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
    ) -> None:
        self.settings = settings
        self.breaker = Breaker()
        self.is_up = False
        self._keys = keys
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._opened = on_connection_opened
        self._tasks = TaskSet()
        self._lookups = Lookups(settings.timeout_s, self._mget, self._tasks.start)
        self._client = self._make_client()

    def _make_client(self) -> aioredis.Redis:
        settings = self.settings
        pool = aioredis.BlockingConnectionPool(
            max_connections=settings.max_connections,
            timeout=settings.timeout_s,
            redis_connect_func=self._on_connect,
            **connection_arguments(settings.url, settings.timeout_s, settings.tls),
        )
        return aioredis.Redis.from_pool(pool)

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        # The pool has no public way to tell.
        return len(self._client.connection_pool._in_use_connections)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections that are opened from now on."""
        former, self.settings = self._client, settings
        # A pool opens the connections it knows with what they were made with, however often.
        self._client = self._make_client()
        self._tasks.start(self._retire(former), "redis-retire")

    async def _retire(self, client: aioredis.Redis) -> None:
        # What it still has under way ends or fails by then.
        await asyncio.sleep(self.settings.timeout_s)
        await client.aclose()
        await client.connection_pool.disconnect()

    async def lookup(self, key: EntryKey) -> Found:
        """Return the usable entry and the stack's generation.

        All look-ups of one turn of the loop go in one ``MGET``.

        Raises:
            StoreError: Redis did not answer in time or not as it should, or is left alone for a while.
        """
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()

        def told(result: Found | StoreError) -> None:
            # Whoever asked may have left.
            if found.done():
                return
            if isinstance(result, StoreError):
                found.set_exception(result)
            else:
                found.set_result(result)

        self.lookup_soon(key, told)
        return await found

    def lookup_soon(self, key: EntryKey, told: Callable[[Found | StoreError], None]) -> None:
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
            pipeline = self._client.pipeline(transaction=False)
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
        if not all(await self.forget_all([Forget(self._keys.generation(stack), None)])):
            raise StoreError("answer")

    async def write(self, writes: Sequence[Write]) -> None:
        """Send changes in order, in one round trip, within the timeout.

        Raises:
            StoreError: some or all of them may not have been made.
        """

        wall_s, monotonic_s = self._clock.wall_s(), self._clock.monotonic_s()
        pipeline = self._client.pipeline(transaction=False)
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

    async def forget_all(self, forgets: Sequence[Forget]) -> list[bool]:
        """Remove generations, then publish the notes, in one round trip.

        ``DEL`` and ``PUBLISH`` still work when Redis is full; ``SET`` and ``INCR`` do not.

        Returns:
            For each, whether Redis confirmed all of it.

        Raises:
            StoreError: nothing is known to be confirmed.
        """

        if not forgets:
            return []

        async def work() -> list[bool]:
            pipeline = self._client.pipeline(transaction=False)
            for forget in forgets:
                pipeline.delete(forget.generation_key)
                if forget.note is not None:
                    pipeline.publish(self._keys.channel, forget.note)
            replies = iter(await pipeline.execute(raise_on_error=False))
            return [
                all(isinstance(next(replies), int) for _ in range(1 if forget.note is None else 2))
                for forget in forgets
            ]

        return await self._in_time(self._run("forget", work))

    async def look_after(self) -> None:
        """Ask whether Redis is well whenever nothing has shown it: at the start, after a failure; runs on."""
        while True:
            if not self.is_up and self.breaker.is_closed:
                with contextlib.suppress(StoreError):
                    await self._guarded("ping", self._client.ping)
            await asyncio.sleep(_LOOK_S)

    async def probe_while_open(self) -> None:
        """Ask again and again, while Redis is given up, whether it is well; runs until cancelled."""

        async def ping() -> None:
            # What is idle in the pool may lead to a server that is gone, one dead connection a probe.
            await self._disconnect_idle()
            if not await self._client.ping():
                raise InvalidResponse
            began_s = asyncio.get_running_loop().time()
            if await self._client.echo(_PROBE) != _PROBE:
                raise InvalidResponse
            if asyncio.get_running_loop().time() - began_s > self.settings.timeout_s:
                raise TimeoutError

        while True:
            await asyncio.sleep(await self.breaker.wait_open())
            self.breaker.begin_probe()
            with contextlib.suppress(StoreError):
                # Connecting may take its time here; it is done once.
                await self._guarded(PROBE, ping, limit_s=math.inf)

    async def close(self) -> None:
        """Let commands under way end, then close the connections."""
        await self._tasks.settle(_CLOSE_S)
        await self._tasks.cancel()
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    async def _mget(self, names: list[bytes]) -> list[object]:
        async def work() -> list[object]:
            values = await self._client.mget(names)
            if not isinstance(values, list) or len(values) != len(names):
                # An answer to something else: what follows on that connection is no better.
                await self._disconnect_idle()
                raise InvalidResponse
            return cast("list[object]", values)

        return await self._guarded("lookup", work)

    def _found(self, key: EntryKey, values: Values) -> Found:
        sealed, generation = values.entry, _generation(values.generation)
        if not isinstance(sealed, bytes) or generation is None:
            return Found(None, generation)
        now_s = self._clock.wall_s()
        entry = unseal(key, generation, sealed, self._secret, now_s)
        if entry is None:
            self._metrics.entries_refused += 1
            return Found(None, generation)
        return Found(entry if entry.ttl_s(now_s) > 0 else None, generation)

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
            failure = StoreError(_kind(error))
            if failure.kind == "answer" and isinstance(error, ResponseError):
                # A server that refuses a command still answers the others.
                self.breaker.succeeded(operation)
            else:
                self.is_up = False
                self.breaker.failed(operation)
            self._metrics.redis_failures[operation, failure.kind] += 1
            raise failure from error
        finally:
            self._metrics.redis_took(operation, loop.time() - began_s)
        if loop.time() - began_s > (self.settings.timeout_s if limit_s is None else limit_s):
            # Each part came in time, the whole too late for those who asked.
            self._metrics.redis_failures[operation, "timeout"] += 1
            self.breaker.failed(operation)
        else:
            self.is_up = True
            self.breaker.succeeded(operation)
        return result

    async def _in_time(self, running: asyncio.Future[T]) -> T:
        """Wait for an operation at most ``timeout_s``; it goes on to its own end.

        A command that is cancelled half-way costs its connection.
        """
        done, _ = await asyncio.wait((running,), timeout=self.settings.timeout_s)
        if done:
            return running.result()
        raise StoreError("timeout")

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
        except BaseException:
            # The library ends it after its own errors only; half set up it must not carry a command.
            await connection.disconnect()
            raise
        self._opened()

    async def _disconnect_idle(self) -> None:
        # Not the pool's own way, which waits: what is idle now may be in use by then.
        for connection in list(self._client.connection_pool._available_connections):
            await connection.disconnect()


def _generation(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and len(value) == GENERATION_BYTES else None


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _kind(error: BaseException) -> str:
    match error:
        case TimeoutError() | aioredis.TimeoutError():
            return "timeout"
        case aioredis.ConnectionError() | OSError():
            return "connection"
        case _:
            return "answer"
