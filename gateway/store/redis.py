"""Entries in Redis: one round trip a look-up, no hidden retries, no command cancelled half-way."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from redis.exceptions import InvalidResponse, ResponseError

from gateway.clock import Clock
from gateway.core.caching.entry import GENERATION_BYTES, seal, unseal
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.breaker import PROBE
from gateway.store.lookup import FAILED, LookupResult
from gateway.store.redis_condition import CHECK, Condition
from gateway.store.redis_connection import Link, RedisSettings
from gateway.store.redis_errors import PartlyRefused, StoreError, kind_of, worst, wrong_server
from gateway.store.redis_lookups import LookupBatcher, OnResult
from gateway.store.write_queue import Write
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_CLOSE_S = 1.0
_CHECK_INTERVAL_S = 1.0
# As long as a large record: a slow connection still delivers short replies in time.
_LONG_PING = b"?" * 16_384

T = TypeVar("T")


class RedisStore:
    """Keeps entries in Redis.

    Args:
        on_connection_opened: called before a new connection carries a command.
        on_wrong_server: called when the server is the wrong one and every connection was closed.
        on_recovered: see `Condition`.

    Attributes:
        condition: state of Redis.
        link: the connections.
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
        self.condition = Condition(clock, on_recovered)
        self._keys = keys
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._on_wrong_server = on_wrong_server
        # In different slots of a Cluster: only a single, writable server deletes both in one command.
        self._check_keys = tuple(keys.generation(name) for name in (b"", b"/"))
        self._tasks = TaskSet()
        self._lookups = LookupBatcher(settings.timeout_s, self._mget, self.result, self._tasks)
        self.link = Link(settings, self._tasks, on_connection_opened)

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Return the usable entry and the stack's generation, or `FAILED`, within the timeout.

        All look-ups of one turn of the event loop go in one ``MGET``.
        """
        future: asyncio.Future[LookupResult] = asyncio.get_running_loop().create_future()

        def on_result(result: LookupResult) -> None:
            # The caller may have been cancelled.
            if not future.done():
                future.set_result(result)

        return await future if self.lookup_soon(key, on_result) else FAILED

    def lookup_soon(self, key: EntryKey, on_result: OnResult) -> bool:
        """Look up like `lookup`, and call ``on_result`` once, later; ``False`` when the breaker is open."""
        if not self.condition.breaker.is_closed:
            return False
        self._lookups.add(key, on_result)
        return True

    async def mint(self, key: EntryKey) -> bytes | None:
        """Return the stack's generation, a new one if there was none; ``None`` if Redis gave none."""

        async def work() -> bytes | None:
            fresh = secrets.token_bytes(GENERATION_BYTES)
            pipeline = self.link.client.pipeline(transaction=False)
            pipeline.set(key.generation, fresh, nx=True, px=milliseconds(self.link.settings.mint_ttl_s))
            pipeline.get(key.generation)
            _, generation = await pipeline.execute()
            return _generation(generation)

        with contextlib.suppress(StoreError):
            return await self._in_time("mint", work)
        return None

    async def write(self, writes: Sequence[Write]) -> None:
        """Send writes in order, in one round trip, in time; after a `StoreError` some may be missing."""
        wall_s, monotonic_s = self._clock.wall_s(), self._clock.monotonic_s()
        pipeline = self.link.client.pipeline(transaction=False)
        for write in writes:
            key, generation, entry = write.fill_token.key, write.fill_token.generation, write.entry
            if entry is None:
                pipeline.delete(key.name)
            elif generation is not None and (left_s := entry.ttl_s(entry.now_s(wall_s, monotonic_s))) > 0:
                pipeline.set(key.name, seal(key, generation, entry, self._secret), px=milliseconds(left_s))
                pipeline.pexpire(key.generation, milliseconds(self.link.settings.generation_ttl_s))
        # Sending nothing must not count as a success.
        if len(pipeline):
            await self._in_time("write", pipeline.execute)

    async def get(self, name: bytes) -> bytes | None:
        """Return a value of no entry; ``None`` when there is none.

        Raises:
            StoreError: the outcome is unknown.
        """
        value = await self._in_time("lookup", lambda: self.link.client.get(name))
        return value if isinstance(value, bytes) else None

    async def put(self, name: bytes, value: bytes, life_s: float) -> None:
        """Store a value of no entry for some seconds.

        Raises:
            StoreError: the outcome is unknown.
        """
        await self._in_time("write", lambda: self.link.client.set(name, value, px=milliseconds(life_s)))

    async def run(self, operation: str, *commands: tuple[bytes | str | int, ...]) -> list[object]:
        """Send commands about keys of one hash tag in one round trip, and return their replies.

        Raises:
            StoreError: the outcome is unknown, or Redis refused one.
        """

        async def work() -> list[object]:
            pipeline = self.link.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[object] = await pipeline.execute()
            return replies

        return await self._in_time(operation, work)

    async def invalidate(self, messages: Sequence[tuple[bytes, bytes | None]]) -> list[tuple[bool, bool]]:
        """Delete generations and publish messages, in one round trip.

        ``DEL`` and ``PUBLISH`` still work when Redis is full; ``SET`` and ``INCR`` do not.

        Args:
            messages: case-folded stack ids, each with the message to publish; ``None`` publishes nothing.

        Returns:
            For each, what Redis confirmed: that the generation is deleted, that the message is published.

        Raises:
            StoreError: the outcome is unknown.
        """
        if not messages:
            return []

        async def work() -> list[object]:
            pipeline = self.link.client.pipeline(transaction=False)
            for stack, message in messages:
                pipeline.delete(self._keys.generation(stack))
                if message is not None:
                    pipeline.publish(self._keys.channel, message)
            replies: list[object] = await pipeline.execute(raise_on_error=False)
            if errors := [reply for reply in replies if isinstance(reply, ResponseError)]:
                raise PartlyRefused(replies) from worst(errors)
            return replies

        try:
            replies = await self._in_time("invalidate", work)
        except StoreError as error:
            refused = error.__cause__
            if not isinstance(refused, PartlyRefused) or wrong_server(refused) is not None:
                raise
            replies = list(refused.replies)
        confirmed = iter([isinstance(reply, int) for reply in replies])
        return [(next(confirmed), message is not None and next(confirmed)) for _, message in messages]

    async def monitor(self) -> None:
        """Check until cancelled, once a second, that the server accepts writes.

        A demoted master still answers look-ups.
        """
        while True:
            if self.condition.breaker.is_closed:
                with contextlib.suppress(StoreError):
                    await self._guarded(CHECK, self._check)
            await asyncio.sleep(_CHECK_INTERVAL_S)

    async def probe_while_open(self) -> None:
        """Probe while the breaker is open, until cancelled."""
        breaker = self.condition.breaker
        while True:
            await asyncio.sleep(await breaker.wait_open())
            breaker.begin_probe()
            with contextlib.suppress(StoreError):
                await self._guarded(PROBE, self._probe)

    async def _probe(self) -> None:
        # Idle connections may be dead: otherwise each would cost a probe.
        await self.link.disconnect_idle()
        await self._ping(b"?")
        began_s = asyncio.get_running_loop().time()
        await self._ping(_LONG_PING)
        if asyncio.get_running_loop().time() - began_s > self.link.settings.timeout_s:
            raise TimeoutError
        await self._check()

    async def _ping(self, message: bytes) -> None:
        client: Any = self.link.client
        if await client.execute_command("PING", message) != message:
            raise InvalidResponse

    async def _check(self) -> None:
        if not isinstance(await self.link.client.delete(*self._check_keys), int):
            raise InvalidResponse

    async def close(self) -> None:
        """Let commands under way end, then close the connections."""
        await self._tasks.settle(_CLOSE_S)
        await self._tasks.cancel()
        await self.link.client.aclose()

    async def _mget(self, names: list[bytes]) -> list[object]:
        async def work() -> list[object]:
            values = await self.link.client.mget(names)
            if not isinstance(values, list) or len(values) != len(names):
                # The replies are out of step with the commands; so are later ones on that connection.
                await self.link.disconnect_idle()
                raise InvalidResponse
            return cast("list[object]", values)

        return await self._guarded("lookup", work)

    def result(self, key: EntryKey, sealed: object, generation: object) -> LookupResult:
        """Return what the values at an entry's key and at its stack's generation key mean."""
        generation, entry = _generation(generation), None
        if isinstance(sealed, bytes) and generation is not None:
            now_s = self._clock.wall_s()
            entry = unseal(key, generation, sealed, self._secret, now_s)
            if entry is None:
                self._metrics.entries_invalid += 1
            elif entry.ttl_s(now_s) <= 0:
                entry = None
        return LookupResult(entry, generation, is_absent=entry is None)

    async def _in_time(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run one operation, and wait at most for the timeout; `StoreError` if it fails or takes longer.

        Whoever leaves does not cancel it: that would cost the connection.
        """
        if not self.condition.breaker.is_closed:
            raise StoreError("open")
        running = self._tasks.start(self._guarded(operation, work), f"redis-{operation}", awaited=True)
        done, _ = await asyncio.wait((running,), timeout=self.link.settings.timeout_s)
        if done:
            return running.result()
        raise StoreError("timeout")

    async def _guarded(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run one operation, record its outcome under its name, and translate its error into `StoreError`."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            result = await work()
        except Exception as error:  # the parser raises anything when fed with garbage
            failure = StoreError(kind_of(error))
            self._metrics.redis_failures[operation, failure.kind] += 1
            if self.condition.failed(operation, error, self.link.settings.password):
                self.link.close_all()
                self._on_wrong_server()
            raise failure from error
        finally:
            self._metrics.redis_took(operation, loop.time() - began_s)
        # A probe may take longer: it includes connecting, which is done once.
        if operation != PROBE and loop.time() - began_s > self.link.settings.timeout_s:
            # Each read was in time, the whole was not: the callers have given up.
            self._metrics.redis_failures[operation, "timeout"] += 1
            self.condition.slow(operation)
        else:
            self.condition.succeeded(operation)
        return result


def _generation(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and len(value) == GENERATION_BYTES else None


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis takes it."""
    return max(1, int(seconds * 1000))
