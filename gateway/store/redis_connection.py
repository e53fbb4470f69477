"""Connections to Redis that wait for nothing in secret and end at once."""

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
    """Ends without a wait.

    The library closes a connection politely: it waits until what was written has gone out, which a Redis
    that reads nothing never lets happen, so socket and buffers stay. And while it waits, the pool may hand
    out the connection, which is opened anew and then forgotten open by the one who waited.
    """

    _writer: asyncio.StreamWriter | None

    async def disconnect(
        self,
        nowait: bool = True,
        error: Exception | None = None,
        failure_count: int | None = None,
        health_check_failed: bool = False,
    ) -> None:
        """Let go of the socket; nothing is awaited on the way."""
        del nowait
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(True, error, failure_count, health_check_failed)


class _TcpConnection(_EndsAtOnce, Connection):
    pass


class _TlsConnection(_EndsAtOnce, SSLConnection):
    """Uses one context for all: the library reads the certificates anew for each, which takes 20 ms."""

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
        # The library takes this for a mistake where there is no TCP.
        **({} if kind is _UnixConnection else {"socket_keepalive": True}),
        "connection_class": kind,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        # Telling Redis the library's name would cost every new connection a round trip.
        "driver_info": None,
    }


def password_of(url: str) -> str:
    """Return the password in a checked URL, "" without one."""
    password: object = parse_url(url).get("password")
    return password if isinstance(password, str) else ""
