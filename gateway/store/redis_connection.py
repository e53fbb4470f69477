"""Connections to Redis: without hidden waits or retries, closed at once, in a bounded pool."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
import redis.asyncio as aioredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from gateway.tasks import TaskSet


class RedisSettings(msgspec.Struct, frozen=True):
    """How to reach Redis and how long to wait for it.

    Attributes:
        url: checked ``redis://``, ``rediss://`` or ``unix://`` URL.
        timeout_s: of one operation, connecting included.
        generation_ttl_s: how long a generation outlives the last store under it.
        mint_ttl_s: how long a new generation lives without a store.
        tls: for a ``rediss://`` URL; ``None`` takes the library's own.
    """

    url: str
    timeout_s: float
    max_connections: int
    generation_ttl_s: float
    mint_ttl_s: float
    tls: ssl.SSLContext | None = None

    @property
    def password(self) -> str:
        password: object = parse_url(self.url).get("password")
        return password if isinstance(password, str) else ""


class _EndsAtOnce(AbstractConnection):
    """Closes without waiting.

    The library waits until everything written has been sent. With a Redis that reads nothing that never
    happens, and socket and buffers leak. Meanwhile the pool may hand out the connection again, which then
    leaks reopened.
    """

    _writer: asyncio.StreamWriter | None

    async def disconnect(
        self,
        nowait: bool = True,
        error: Exception | None = None,
        failure_count: int | None = None,
        health_check_failed: bool = False,
    ) -> None:
        del nowait
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(True, error, failure_count, health_check_failed)


class _TcpConnection(_EndsAtOnce, Connection):
    pass


class _TlsConnection(_EndsAtOnce, SSLConnection):
    """Shares one TLS context: the library loads the certificates for each connection, which takes 20 ms."""

    def __init__(self, *, tls: ssl.SSLContext | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ssl_context.context = tls


class _UnixConnection(_EndsAtOnce, UnixDomainSocketConnection):
    pass


_CLASSES: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
}


def connection_arguments(settings: RedisSettings, timeout_s: float) -> dict[str, Any]:
    """Return redis-py's arguments for one connection whose waits take at most ``timeout_s`` each."""
    parsed: dict[str, Any] = {**parse_url(settings.url)}
    kind = _CLASSES[parsed.get("connection_class", Connection)]
    return {
        **parsed,
        **({"tls": settings.tls} if kind is _TlsConnection else {}),
        # The library rejects it for Unix sockets.
        **({} if kind is _UnixConnection else {"socket_keepalive": True}),
        "connection_class": kind,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        # CLIENT SETINFO would cost each new connection a round trip.
        "driver_info": None,
    }


class Link:
    """The pool: opens connections on demand, and keeps them.

    Calls ``on_opened`` before a new connection carries a command. The client is replaced with the server or
    the settings.
    """

    def __init__(self, settings: RedisSettings, tasks: TaskSet, on_opened: Callable[[], None]) -> None:
        self.settings = settings
        self._tasks = tasks
        self._on_opened = on_opened
        self.client = self._make_client()

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        # The pool has no public attribute for it.
        return len(self.client.connection_pool._in_use_connections)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""
        self.settings = settings
        # A pool reopens its connections with the arguments they were made with. Commands under way end
        # within the timeout.
        self._replace_client(after_s=settings.timeout_s)

    def close_all(self) -> None:
        """Close every connection; the next one resolves the address again."""
        self._replace_client(after_s=0.0)

    async def disconnect_idle(self) -> None:
        """Close connections that carry no command."""
        # Not with the pool's own method: it waits, and what is idle now may be in use by then.
        for connection in list(self.client.connection_pool._available_connections):
            await connection.disconnect()

    def _make_client(self) -> aioredis.Redis:
        settings = self.settings
        pool = aioredis.BlockingConnectionPool(
            max_connections=settings.max_connections,
            timeout=settings.timeout_s,
            redis_connect_func=self._on_connect,
            **connection_arguments(settings, settings.timeout_s),
        )
        client = aioredis.Redis.from_pool(pool)
        # The library's own only returns whether it was PONG.
        client.set_response_callback("PING", lambda response, **_: response)
        return client

    def _replace_client(self, *, after_s: float) -> None:
        former, self.client = self.client, self._make_client()

        async def close() -> None:
            await asyncio.sleep(after_s)
            await former.aclose()

        self._tasks.start(close(), "redis-close")

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
        self._on_opened()
