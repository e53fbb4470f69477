"""Entries in Redis: one round trip a look-up, no hidden retries, no command cancelled half-way."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import InvalidResponse, ResponseError

from gateway.clock import Clock
from gateway.core.caching.entry import GENERATION_BYTES, seal, unseal
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.breaker import PROBE, Breaker
from gateway.store.lookup import LookupResult
from gateway.store.redis_commands import Invalidate, InvalidateReply, Write
from gateway.store.redis_condition import CHECK, Condition
from gateway.store.redis_connection import password_of
from gateway.store.redis_errors import PartlyRefused, StoreError, kind_of, worst, wrong_server
from gateway.store.redis_link import Link
from gateway.store.redis_lookups import LookupBatcher, LookupValues
from gateway.store.redis_settings import RedisSettings
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_CLOSE_S = 1.0
_CHECK_INTERVAL_S = 1.0
# As long as a large record: a slow connection still delivers short replies in time.
_PROBE = b"?" * 16_384

T = TypeVar("T")


class RedisStore:
    """Keeps entries in Redis.

    Args:
        settings: how to reach it.
        keys: builds the keys.
        secret: ``cache.secret`` as bytes.
        clock: wall time decides when entries end.
        metrics: counts failures and invalid entries.
        on_connection_opened: called before a new connection carries a command.
        on_wrong_server: called when the server is the wrong one and every connection was closed.
        on_recovered: see `Condition`.

    Attributes:
        settings: as last given.
        condition: state of Redis.
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
        on_wrong_server: Callable[[], None],
        on_recovered: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.condition = Condition(clock, password_of(settings.url), on_recovered)
        self._keys = keys
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._on_wrong_server = on_wrong_server
        # In different slots of a Cluster: only a single, writable server deletes both in one command.
        self._check_keys = tuple(keys.generation(name) for name in (b"", b"/"))
        self._tasks = TaskSet()
        self._lookups = LookupBatcher(settings.timeout_s, self._mget, self._tasks.start)
        self._link = Link(settings, self._tasks, on_connection_opened)

    @property
    def breaker(self) -> Breaker:
        """Whether operations are sent at all."""
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
        """Use another user, password or TLS context for connections opened from now on."""
        self.settings = settings
        self.condition.password = password_of(settings.url)
        self._link.connect_with(settings)

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Return the usable entry and the stack's generation.

        All look-ups of one turn of the event loop go in one ``MGET``.

        Raises:
            StoreError: Redis did not answer in time or not as it should, or the breaker is open.
        """
        future: asyncio.Future[LookupResult] = asyncio.get_running_loop().create_future()

        def on_result(result: LookupResult | StoreError) -> None:
            # The caller may have been cancelled.
            if future.done():
                return
            if isinstance(result, StoreError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.lookup_soon(key, on_result)
        return await future

    def lookup_soon(self, key: EntryKey, on_result: Callable[[LookupResult | StoreError], None]) -> None:
        """Look up like `lookup`, and call ``on_result`` once, after this has returned.

        Raises:
            StoreError: the breaker is open.
        """
        self._check_breaker()

        def on_values(values: LookupValues | StoreError) -> None:
            on_result(values if isinstance(values, StoreError) else self._result(key, values))

        self._lookups.add(key, on_values)

    async def mint(self, key: EntryKey) -> bytes | None:
        """Return the stack's generation, a new one if there was none.

        Returns:
            ``None`` when the key holds something else.

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

    async def write(self, writes: Sequence[Write]) -> None:
        """Send writes in order, in one round trip, within the timeout.

        Raises:
            StoreError: some or all may not have been made.
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
        # Sending nothing must not count as a success.
        if len(pipeline):
            await self._in_time(self._run("write", pipeline.execute))

    async def invalidate(self, commands: Sequence[Invalidate]) -> list[InvalidateReply]:
        """Delete generations and publish messages, in one round trip.

        ``DEL`` and ``PUBLISH`` still work when Redis is full; ``SET`` and ``INCR`` do not.

        Returns:
            For each, what Redis confirmed of it.

        Raises:
            StoreError: the outcome is unknown.
        """
        if not commands:
            return []

        async def work() -> list[object]:
            pipeline = self._link.client.pipeline(transaction=False)
            for command in commands:
                pipeline.delete(command.generation_key)
                if command.message is not None:
                    pipeline.publish(self._keys.channel, command.message)
            replies: list[object] = await pipeline.execute(raise_on_error=False)
            if errors := [reply for reply in replies if isinstance(reply, ResponseError)]:
                raise PartlyRefused(replies) from worst(errors)
            return replies

        try:
            replies = await self._in_time(self._run("invalidate", work))
        except StoreError as error:
            refused = error.__cause__
            if not isinstance(refused, PartlyRefused) or wrong_server(refused) is not None:
                raise
            replies = list(refused.replies)
        confirmed = iter([isinstance(reply, int) for reply in replies])
        return [
            InvalidateReply(next(confirmed), command.message is not None and next(confirmed))
            for command in commands
        ]

    async def monitor(self) -> None:
        """Check until cancelled, once a second, that the server accepts writes.

        A demoted master still answers look-ups.
        """
        while True:
            if self.breaker.is_closed:
                with contextlib.suppress(StoreError):
                    await self._guarded(CHECK, self._check)
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def probe_while_open(self) -> None:
        """Probe while the breaker is open, until cancelled."""

        async def probe() -> None:
            # Idle connections may be dead: otherwise each would cost a probe.
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
                # Connecting included, which is done once and may take longer.
                await self._guarded(PROBE, probe, limit_s=math.inf)

    async def _ping(self, message: bytes) -> None:
        client: Any = self._link.client
        if await client.execute_command("PING", message) != message:
            raise InvalidResponse

    async def _check(self) -> None:
        if not isinstance(await self._link.client.delete(*self._check_keys), int):
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
                # The replies are out of step with the commands; so are later ones on that connection.
                await self._link.disconnect_idle()
                raise InvalidResponse
            return cast("list[object]", values)

        return await self._guarded("lookup", work)

    def _result(self, key: EntryKey, values: LookupValues) -> LookupResult:
        sealed, generation = values.entry, _generation(values.generation)
        if not isinstance(sealed, bytes) or generation is None:
            return LookupResult(None, generation, is_absent=True)
        now_s = self._clock.wall_s()
        entry = unseal(key, generation, sealed, self._secret, now_s)
        if entry is None:
            self._metrics.entries_invalid += 1
            return LookupResult(None, generation, is_absent=True)
        is_fresh = entry.ttl_s(now_s) > 0
        return LookupResult(entry if is_fresh else None, generation, is_absent=not is_fresh)

    def _check_breaker(self) -> None:
        """Raise `StoreError` unless the breaker is closed."""
        if not self.breaker.is_closed:
            raise StoreError("open")

    def _run(self, operation: str, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        self._check_breaker()
        return self._tasks.start(self._guarded(operation, work), f"redis-{operation}", awaited=True)

    async def _guarded(
        self, operation: str, work: Callable[[], Awaitable[T]], *, limit_s: float | None = None
    ) -> T:
        """Run one operation, record its outcome, and translate its error into `StoreError`.

        Args:
            operation: its name in the metrics.
            work: sends the command.
            limit_s: taking longer counts as a failure; ``None`` means the timeout.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            result = await work()
        except Exception as error:  # the parser raises anything when fed with garbage
            failure = StoreError(kind_of(error))
            self._metrics.redis_failures[operation, failure.kind] += 1
            if self.condition.failed(operation, error):
                self._link.close_all()
                self._on_wrong_server()
            raise failure from error
        finally:
            self._metrics.redis_took(operation, loop.time() - began_s)
        if loop.time() - began_s > (self.settings.timeout_s if limit_s is None else limit_s):
            # Each read was in time, the whole was not: the callers have given up.
            self._metrics.redis_failures[operation, "timeout"] += 1
            self.condition.slow(operation)
        else:
            self.condition.succeeded(operation)
        return result

    async def _in_time(self, running: asyncio.Future[T]) -> T:
        """Wait at most ``timeout_s``, without cancelling: that would cost the connection."""
        done, _ = await asyncio.wait((running,), timeout=self.settings.timeout_s)
        if done:
            return running.result()
        raise StoreError("timeout")


def _generation(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and len(value) == GENERATION_BYTES else None


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
