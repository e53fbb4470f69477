"""Connections to Redis: without hidden waits or retries, closed at once, in a bounded pool.

The one module that relies on inner names of redis-py; `check_library` compares them with what is installed.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from types import CodeType
from typing import Any, Protocol

import msgspec
import redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.config.errors import ConfigError
from gateway.config.redis_url import redis_place

# What is relied on: where redis-py's own code uses it.
_USES: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (ConnectionPool, "get_available_connection", ("_available_connections", "_in_use_connections")),
    (ConnectionPool, "release", ("_available_connections", "_in_use_connections")),
    (AbstractConnection, "disconnect", ("_writer",)),
    (AbstractConnection, "connect_check_health", ("_connect", "redis_connect_func")),
    (SSLConnection, "_connection_arguments", ("ssl_context",)),
    (RedisSSLContext, "get", ("context",)),
    (PubSub, "_execute", ("_reconnect",)),
)


class RedisSettings(msgspec.Struct, frozen=True):
    """How to reach Redis and how long to wait for it.

    Attributes:
        url: as configured; of a `Node`: of its server alone.
        timeout_s: of one operation, connecting included.
        generation_ttl_s: how long a generation outlives the last store under it.
        mint_ttl_s: how long a new generation lives without a store.
        tls: for a URL that begins with ``rediss``; ``None`` takes the library's own.
        sentinel_user: at the Sentinels; "" for the default one.
        sentinel_password: at the Sentinels; "" for none.
    """

    url: str
    timeout_s: float
    max_connections: int
    generation_ttl_s: float
    mint_ttl_s: float
    tls: ssl.SSLContext | None = None
    sentinel_user: str = ""
    sentinel_password: str = ""

    @property
    def password(self) -> str:
        place = redis_place(self.url)
        url = place.server_url(*place.hosts[0]) if place.hosts else self.url
        password: object = parse_url(url).get("password")
        return password if isinstance(password, str) else ""

    @property
    def server(self) -> str:
        """Host and port of the one server that ``url`` names, or the path of its socket."""
        parsed: dict[str, Any] = {**parse_url(self.url)}
        return str(parsed.get("path") or f"{parsed.get('host')}:{parsed.get('port', 6379)}")


class Locator(Protocol):
    """Says where a server is, for each connection anew.

    Attributes:
        named: where it was last, host and port.
    """

    named: tuple[str, int] | None

    async def address(self) -> tuple[str, int]:
        """Return host and port."""

    def forget(self) -> None:
        """Look for it anew next time: it could not be reached, or is the wrong one."""


def check_library() -> None:
    """Raise `ConfigError` unless redis-py is as expected."""
    for kind, method, names in _USES:
        used = set(_names(getattr(getattr(kind, method, None), "__code__", None)))
        for name in names:
            if name not in used:
                raise ConfigError(
                    f"redis-py {redis.__version__} does not use {name} in {kind.__name__}.{method}; "
                    "install the version that requirements.lock names"
                )


def _names(code: object) -> Iterator[str]:
    """Yield the names that some code and the functions in it use."""
    if isinstance(code, CodeType):
        yield from code.co_names
        for constant in code.co_consts:
            yield from _names(constant)


def in_use(pool: ConnectionPool) -> Collection[AbstractConnection]:
    """Return the connections that carry a command or are being opened for one."""
    return pool._in_use_connections


def idle(pool: ConnectionPool) -> Collection[AbstractConnection]:
    """Return the connections that carry no command."""
    return pool._available_connections


class Listener(PubSub):
    """Never reconnects by itself.

    The library reconnects and subscribes while connecting: with a server that accepts and resets, it recurses
    until the stack overflows, hundreds of connections later, and leaks the last of them.
    """

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        await conn.disconnect()


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
    def __init__(self, *, locator: Locator | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._locator = locator

    async def _connect(self) -> None:
        connect: Callable[[], Awaitable[None]] = super()._connect
        if self._locator is None:
            await connect()
            return
        self.host, self.port = await self._locator.address()
        try:
            await connect()
        except BaseException:
            self._locator.forget()
            raise


class _TlsConnection(_TcpConnection, SSLConnection):
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


def connection_arguments(
    settings: RedisSettings, timeout_s: float, locator: Locator | None = None
) -> dict[str, Any]:
    """Return redis-py's arguments for one connection whose waits take at most ``timeout_s`` each.

    Args:
        settings: of one server.
        locator: says where it is, if not ``settings.url``.
    """
    parsed: dict[str, Any] = {**parse_url(settings.url)}
    kind = _CLASSES[parsed.get("connection_class", Connection)]
    return {
        **parsed,
        **({"tls": settings.tls} if kind is _TlsConnection else {}),
        # The library rejects it for Unix sockets.
        **({} if kind is _UnixConnection else {"socket_keepalive": True, "locator": locator}),
        "connection_class": kind,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        # CLIENT SETINFO would cost each new connection a round trip.
        "driver_info": None,
    }


async def ask(arguments: Mapping[str, Any], timeout_s: float, *command: str) -> object:
    """Send one command over a connection of its own, and return its reply as it came.

    Args:
        arguments: `connection_arguments`.
        timeout_s: of all.

    Raises:
        Exception: of whatever kind; the parser raises anything when fed with garbage.
    """
    make, arguments = arguments["connection_class"], {**arguments}
    del arguments["connection_class"]
    connection: AbstractConnection = make(**arguments)
    connect: Callable[[], Awaitable[None]] = connection.connect
    try:
        async with asyncio.timeout(timeout_s):
            await connect()
            await connection.send_command(*command)
            return await connection.read_response()
    finally:
        await connection.disconnect()
