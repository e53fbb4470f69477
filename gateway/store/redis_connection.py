"""Connections to Redis without hidden waits or retries, closed at once."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


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
        """Abort the socket."""
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


def connection_arguments(url: str, timeout_s: float, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Return redis-py's arguments for one connection: short waits, no hidden retries.

    Args:
        url: checked ``redis://``, ``rediss://`` or ``unix://`` URL.
        timeout_s: of each wait.
        tls: for a ``rediss://`` URL; ``None`` takes the library's own.
    """
    parsed: dict[str, Any] = {**parse_url(url)}
    kind = _CLASSES[parsed.get("connection_class", Connection)]
    return {
        **parsed,
        **({"tls": tls} if kind is _TlsConnection else {}),
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


def password_of(url: str) -> str:
    """Return the password in a checked URL, "" without one."""
    password: object = parse_url(url).get("password")
    return password if isinstance(password, str) else ""
