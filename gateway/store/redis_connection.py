"""Connections to Redis: without hidden waits or retries, closed at once, in a bounded pool.

The one module that relies on inner names of redis-py; `check_library` compares them with what is installed.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, Protocol

import msgspec
import redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    ConnectionPool,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError

from gateway.config.errors import ConfigError
from gateway.config.redis_url import redis_place

# What is relied on: where redis-py's own code uses it.
_USES: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (ConnectionPool, "get_available_connection", ("_available_connections", "_in_use_connections")),
    (ConnectionPool, "release", ("_available_connections", "_in_use_connections")),
    (AbstractConnection, "_send_packed_command", ("_writer",)),
    (AbstractConnection, "_read_response_from_parser", ("_parser", "read_response")),
    (AbstractConnection, "disconnect", ("_writer",)),
    (AbstractConnection, "connect_check_health", ("_connect", "redis_connect_func")),
    (SSLConnection, "_connection_arguments", ("ssl_context",)),
    (RedisSSLContext, "get", ("context",)),
    (PubSub, "_execute", ("_reconnect",)),
)

Address = tuple[str, int]

_LAST_PORT = 65_535
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,255}")


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
        keeps_verified: keep what was read last, to verify the same bytes once.
    """

    url: str
    timeout_s: float
    max_connections: int
    generation_ttl_s: float
    mint_ttl_s: float
    tls: ssl.SSLContext | None = None
    sentinel_user: str = ""
    sentinel_password: str = ""
    keeps_verified: bool = False

    def __repr__(self) -> str:
        return "RedisSettings(***)"

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

    named: Address | None

    async def address(self) -> Address:
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


class Listener(PubSub):
    """Never reconnects by itself.

    The library reconnects and subscribes while connecting: with a server that accepts and resets, it recurses
    until the stack overflows, hundreds of connections later, and leaks the last of them.
    """

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        await conn.disconnect()


class RedisConnection(AbstractConnection):
    """Closes without waiting, and carries several commands at the price of one.

    The library waits until everything written has been sent. With a Redis that reads nothing that never
    happens, and socket and buffers leak. Meanwhile the pool may hand out the connection again, which then
    leaks reopened.
    """

    _writer: asyncio.StreamWriter | None
    _parser: Any

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

    async def exchange(self, commands: Sequence[bytes], values: int = 0) -> list[object]:
        """Send packed commands in one round trip, and return the replies, refusals among them.

        One timer bounds all of it: the library sets two for every command, and before Python 3.12 makes a
        task for the first. Whatever fails closes the connection, or its replies would be those to the next
        command.

        Args:
            commands: for a connection that is connected.
            values: how many are in each reply; 0: that varies.
        """
        replies: list[object] = []
        try:
            async with asyncio.timeout(self.socket_timeout):
                if self._writer is None:
                    raise ConnectionError
                self._writer.writelines(commands)
                for _ in commands:
                    reply = await self._parser.read_response()
                    is_whole = isinstance(reply, list) and len(reply) == values
                    if values and not is_whole and not isinstance(reply, ResponseError):
                        raise InvalidResponse
                    replies.append(reply)
        except BaseException:
            await self.disconnect()
            raise
        return replies


class _TcpConnection(RedisConnection, Connection):
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


class _UnixConnection(RedisConnection, UnixDomainSocketConnection):
    pass


_CLASSES: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _TcpConnection,
    SSLConnection: _TlsConnection,
    UnixDomainSocketConnection: _UnixConnection,
}


def server_address(host: str, port: int) -> Address:
    """Return an address that a server has told, if it is one.

    Raises:
        redis.exceptions.InvalidResponse: it is none.
    """
    if not (_HOST.fullmatch(host) and 0 < port <= _LAST_PORT):
        raise InvalidResponse
    return host, port


class RedisPool(BlockingConnectionPool):
    """A bounded pool that costs next to nothing as long as nobody waits for a connection.

    The library's own takes locks and counts for its telemetry, which is dearer than a command.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._waiting = 0

    @property
    def carrying(self) -> int:
        """How many connections carry a command."""
        return len(self._in_use_connections)

    async def get_connection(self, *_: object, **__: object) -> RedisConnection:
        """Return a connection without unread replies; nobody else has it until it is released."""
        if self._waiting or not self.can_get_connection():
            wait: Callable[[], Awaitable[RedisConnection]] = super().get_connection
            self._waiting += 1
            try:
                return await wait()
            finally:
                self._waiting -= 1
        take: Callable[[], RedisConnection] = self.get_available_connection
        connection = take()
        try:
            if not connection.is_connected or await connection.can_read():
                await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        """Let others have a connection."""
        if self._waiting:
            await super().release(connection)
        else:
            self._in_use_connections.remove(connection)
            self._available_connections.append(connection)

    async def disconnect_idle(self) -> None:
        """Close connections that carry no command."""
        # Not with the library's own method: it waits, and what is idle now may be in use by then.
        for connection in list(self._available_connections):
            await connection.disconnect()


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
