"""One Redis server: its connections, its state, and operations that end in time."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio as aioredis
from hiredis import pack_command
from redis.exceptions import InvalidResponse, ResponseError

from gateway.clock import Clock
from gateway.store.breaker import PROBE
from gateway.store.invalidations import Mark
from gateway.store.redis_batches import Batcher
from gateway.store.redis_commands import Command, CommandGroup, send_groups
from gateway.store.redis_condition import CHECK, Condition
from gateway.store.redis_connection import Locator, RedisPool, RedisSettings, connection_arguments
from gateway.store.redis_errors import (
    PartlyRefused,
    StoreError,
    is_answer,
    is_redirect,
    kind_of,
    worst,
    wrong_server,
)
from gateway.store.redis_lookups import Lookup, ResultOf, send_lookups
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_CHECK_INTERVAL_S = 1.0
_OPENING_S = 0.05
_PAIR = 2
# As long as a large record: a slow connection still delivers short replies in time.
_LONG_PING = b"?" * 16_384

# Its declared type is that of a command of one word.
_pack: Callable[..., bytes] = pack_command

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class NodeContext:
    """What the nodes of one link share.

    Attributes:
        prefix: of every key.
        check_names: keys that are deleted to see that a single server accepts writes.
        result_of: see `send_lookups`.
        on_connection_opened: called before a new connection carries a command.
        on_left: called when a server is the wrong one, and every connection was closed, or is not used any
            more.
        on_moved: called when the servers of the slots are others than before.
        on_recovered: see `Condition`.
    """

    clock: Clock
    metrics: Metrics
    tasks: TaskSet
    prefix: bytes
    check_names: Sequence[bytes]
    result_of: ResultOf
    on_connection_opened: Callable[[Mark], None]
    on_left: Callable[["Node"], None]
    on_moved: Callable[[], None]
    on_recovered: Callable[[], None]


class Node:
    """One server, with a pool that opens connections on demand, and keeps them.

    Args:
        name: in the log, of a node of a Cluster.
        on_failure: called when a node of a Cluster fails or redirects; ``None``: there is no Cluster.

    Attributes:
        check_names: keys that are deleted to see that the server accepts writes.
        mark: when connections to it were opened.
        client: sends commands; replaced with the server or the settings.
        condition: state of the server.
        lookups: look-ups in this server.
        settings: as last given.
        locator: says where it is; ``None``: ``settings.url`` does.
    """

    def __init__(
        self,
        settings: RedisSettings,
        context: NodeContext,
        locator: Locator | None = None,
        *,
        name: str = "",
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self.locator = locator
        self.check_names = context.check_names
        self.mark = Mark()
        self._on_failure = on_failure
        self.condition = Condition(
            context.clock,
            context.on_recovered,
            f"redis {name}".rstrip(),
            in_cluster=on_failure is not None,
        )
        send = functools.partial(send_lookups, settings.timeout_s, self._mget, context.result_of)
        self.lookups: Batcher[Lookup] = Batcher(send, context.tasks, "redis-lookup")
        self._batchers: dict[str, Batcher[CommandGroup]] = {}
        self._context = context
        self._pool = self._make_pool()
        self.client = _client(self._pool)

    @property
    def address(self) -> str:
        """Host and port, or the path of its socket; "" before a Sentinel has named one."""
        if self.locator is None:
            return self.settings.server
        return "" if self.locator.named is None else "{}:{}".format(*self.locator.named)

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        return self._pool.carrying

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""
        self.settings = settings
        # A pool reopens its connections with the arguments they were made with. Commands under way end
        # within the timeout.
        self._replace_client(after_s=settings.timeout_s)

    def retire(self) -> None:
        """End: the server is not used any more; commands under way end within the timeout."""
        self._close(self._pool, after_s=self.settings.timeout_s)
        self._context.on_left(self)

    def leave(self) -> None:
        """Close every connection; the next one resolves the address again."""
        self._replace_client(after_s=0.0)
        self._context.on_left(self)

    async def disconnect_idle(self) -> None:
        """Close connections that carry no command."""
        await self._pool.disconnect_idle()

    async def in_time(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run one operation, and wait at most for the timeout; `StoreError` if it fails or takes longer.

        Whoever leaves does not cancel it: that would cost the connection.
        """
        if not self.condition.breaker.is_closed:
            raise StoreError("open")
        running = self._context.tasks.start(
            self._guarded(operation, work), f"redis-{operation}", awaited=True
        )
        done, _ = await asyncio.wait((running,), timeout=self.settings.timeout_s)
        if done:
            return running.result()
        raise StoreError("timeout")

    async def run(self, operation: str, *commands: Command) -> list[object]:
        """Send a group of commands in order, with others of the same operation, and return their replies.

        Raises:
            StoreError: the outcome is unknown, or Redis refused one of them.
        """
        batcher = self._batchers.get(operation)
        if batcher is None:
            send = functools.partial(send_groups, functools.partial(self.send, operation))
            self._batchers[operation] = batcher = Batcher(send, self._context.tasks, "redis-batch")
        replies: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        batcher.add((commands, replies))
        return await replies

    async def send(self, operation: str, commands: Sequence[Command]) -> Sequence[object]:
        """Send commands in order in one round trip, and return replies and refusals.

        Raises:
            StoreError: the outcome is unknown.
        """

        async def work() -> list[object]:
            replies = await self._exchange(commands)
            if errors := [reply for reply in replies if isinstance(reply, ResponseError)]:
                raise PartlyRefused(replies) from worst(errors)
            return replies

        try:
            return await self.in_time(operation, work)
        except StoreError as error:
            refused = error.__cause__
            if not isinstance(refused, PartlyRefused):
                raise
            # Of a Cluster's node only the redirected slot is elsewhere.
            is_here = wrong_server(refused) is None or (self._on_failure is not None and is_redirect(refused))
            if not is_here:
                raise
            return refused.replies

    async def watch(self) -> None:
        """Check and probe the server until cancelled."""
        await asyncio.gather(self.monitor(), self.probe_while_open())

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
        await self.disconnect_idle()
        await self._ping(b"?")
        began_s = asyncio.get_running_loop().time()
        await self._ping(_LONG_PING)
        if asyncio.get_running_loop().time() - began_s > self.settings.timeout_s:
            raise TimeoutError
        await self._check()

    async def _ping(self, message: bytes) -> None:
        client: Any = self.client
        if await client.execute_command("PING", message) != message:
            raise InvalidResponse

    async def _check(self) -> None:
        if not isinstance(await self.client.delete(*self.check_names), int):
            raise InvalidResponse

    async def _mget(self, names: list[bytes]) -> list[object]:
        # In a Cluster one command reads what shares a slot, which is an entry and its generation.
        size = len(names) if self._on_failure is None else _PAIR
        commands = [(b"MGET", *names[at : at + size]) for at in range(0, len(names), size)]

        async def work() -> list[object]:
            replies = await self._exchange(commands, size)
            if errors := [reply for reply in replies if isinstance(reply, ResponseError)]:
                if len(errors) == len(replies) or not all(map(is_redirect, errors)):
                    raise worst(errors)
                # A slot has moved, the others have not.
                self._failed(errors[0])
            values: list[object] = []
            for reply in replies:
                values += reply if isinstance(reply, list) else [reply] * size
            return values

        return await self._guarded("lookup", work)

    async def _exchange(self, commands: Sequence[Command], values: int = 0) -> list[object]:
        """See `RedisConnection.exchange`."""
        pool = self._pool
        connection = await pool.get_connection()
        try:
            return await connection.exchange([_pack(command) for command in commands], values)
        finally:
            await pool.release(connection)

    def _failed(self, error: Exception) -> None:
        is_refusal = is_answer(error) and wrong_server(error) is None
        if self._on_failure is not None and not is_refusal:
            self._on_failure()

    async def _guarded(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run one operation, record its outcome under its name, and translate its error into `StoreError`."""
        now_s, metrics = self._context.clock.monotonic_s, self._context.metrics
        began_s = now_s()
        try:
            result = await work()
        except Exception as error:  # the parser raises anything when fed with garbage
            failure = StoreError(kind_of(error))
            metrics.redis_failures[operation, failure.kind] += 1
            self._failed(error)
            if self.condition.failed(operation, error, self.settings.password):
                if self.locator is not None:
                    self.locator.forget()
                self.leave()
            raise failure from error
        finally:
            metrics.redis_took(operation, now_s() - began_s)
        # A probe may take longer: it includes connecting, which is done once.
        if operation != PROBE and now_s() - began_s > self.settings.timeout_s:
            # Each read was in time, the whole was not: the callers have given up.
            metrics.redis_failures[operation, "timeout"] += 1
            self.condition.slow(operation)
        else:
            self.condition.succeeded(operation)
        return result

    def _make_pool(self) -> RedisPool:
        settings = self.settings
        return RedisPool(
            max_connections=settings.max_connections,
            timeout=settings.timeout_s,
            redis_connect_func=self._on_connect,
            **connection_arguments(settings, settings.timeout_s, self.locator),
        )

    def _replace_client(self, *, after_s: float) -> None:
        former, self._pool = self._pool, self._make_pool()
        self.client = _client(self._pool)
        self._close(former, after_s=after_s)

    def _close(self, former: RedisPool, *, after_s: float) -> None:
        async def close() -> None:
            try:
                await asyncio.sleep(after_s)
                await former.aclose()
                # One that is being opened now is not closed by that.
                while former.carrying:  # noqa: ASYNC110  # there is no event
                    await asyncio.sleep(_OPENING_S)
            finally:
                await former.aclose()

        self._context.tasks.start(close(), "redis-close")

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
        except BaseException as error:
            # The library closes it after its own errors only; half set up it must not carry a command.
            await connection.disconnect()
            if isinstance(error, ResponseError):
                # The connection is refused, not one command.
                raise aioredis.ConnectionError from error
            raise
        self._context.on_connection_opened(self.mark)


def _client(pool: RedisPool) -> aioredis.Redis:
    client = aioredis.Redis.from_pool(pool)
    # The library's own only returns whether it was PONG.
    client.set_response_callback("PING", lambda response, **_: response)
    return client
