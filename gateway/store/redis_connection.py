"""Connections to Redis: without hidden waits or retries, closed at once, in a bounded pool."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import msgspec
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


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
