"""One downstream connection: aiohttp's protocol with deadlines, bounds and our own error answers."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gateway.core.reply import wire_head
from gateway.errors import BadRequest, GatewayError, problem
from gateway.metrics import Metrics
from gateway.reply import Reply
from gateway.tasks import TaskSet

_LINGER_S = 1.0


class ConnectionSettings(msgspec.Struct, frozen=True):
    """Bounds of a downstream connection; times in seconds.

    Attributes:
        header_timeout_s: from the first byte of a head, or the opening of the connection, to its end.
        body_timeout_s: how long a caller may take nothing of an answer.
        keepalive_timeout_s: how long an idle connection stays open.
        max_header_bytes: bound of a whole head.
        max_connections: bound of open connections.
    """

    header_timeout_s: float
    body_timeout_s: float
    keepalive_timeout_s: float
    max_header_bytes: int
    max_connections: int


class DownstreamConnection(RequestHandler):
    """A caller's connection."""

    __slots__ = (
        "_body",
        "_head_bytes",
        "_head_timer",
        "_in_line",
        "_is_gone",
        "_metrics",
        "_server",
        "_settings",
    )

    def __init__(self, server: DownstreamServer, **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server
        self._settings = server.settings
        self._metrics = server.metrics
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_line = True
        self._body: StreamReader | None = None
        self._is_gone: asyncio.Future[None] = self._loop.create_future()

    @property
    def is_busy(self) -> bool:
        """A request is being read, answered or waiting to be."""
        in_body = self._body is not None and not self._body.is_eof()
        return self._request_in_progress or bool(self._messages) or self._head_bytes > 0 or in_body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or refuse it when there are too many."""
        if len(self._server.connections) >= self._settings.max_connections:
            assert isinstance(transport, asyncio.WriteTransport)
            error = BadRequest(503, "The gateway has too many connections.")
            error.retry_after_s = 1
            self.transport = None
            self._force_close = True
            transport.write(self._problem_bytes(error))
            transport.close()
            return
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of a connection."""
        self._stop_head_timer()
        if not self._is_gone.done():
            self._is_gone.set_result(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, counting those of a head that is not complete yet."""
        if self._close or self._force_close:
            return
        in_body = self._body is not None and not self._body.is_eof()
        parsed = self._request_count
        if self._head_bytes == 0:
            self._in_line = True
        if self._in_line and 0 <= data.find(b"\n") <= self._settings.max_header_bytes - self._head_bytes:
            self._in_line = False
        super().data_received(data)
        if self._request_count != parsed:
            self._stop_head_timer()
            self._head_bytes = 0
            self._body = self._messages[-1][1] if self._messages else None
        elif not in_body and data:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._start_head_timer()
            if self._head_bytes > self._settings.max_header_bytes:
                self._refuse(self._too_large())

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp's parser refused, or what failed in here, with a problem of our own."""
        del message
        error = self._too_large() if isinstance(exc, LineTooLong) else _error_of(status)
        if status >= 500:
            # Nobody but us can be at fault; the details are for the log alone.
            self.logger.error("request failed: %s", type(exc).__name__, exc_info=exc)
        self._metrics.bad_requests[str(error.status)] += 1
        head, body = problem(error, _request_id())
        return Reply(
            head,
            method="GET",
            body=body,
            http_11=True,
            keep_alive=False,
            write_timeout_s=self._settings.body_timeout_s,
            linger=self.linger,
        )

    async def linger(self) -> None:
        """Take and drop what still comes for a moment, so that a refusal is not lost in a reset.

        Closing a socket with unread bytes resets the connection (RFC 9112 §9.6).
        """
        self._close = True
        if self.transport is not None and self.transport.can_write_eof():
            self.transport.write_eof()
        await asyncio.wait((self._is_gone,), timeout=_LINGER_S)

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is under way."""
        if self.is_busy:
            self._close = True
        else:
            self.force_close()

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self._loop.call_later(self._settings.header_timeout_s, self._head_too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(BadRequest(408, "The request head did not arrive in time."))
        else:
            self.force_close()

    def _refuse(self, error: GatewayError) -> None:
        """Answer at once and close, unless an earlier request is still being answered."""
        self._metrics.bad_requests[str(error.status)] += 1
        if self.transport is None or self._request_in_progress or self._messages:
            self.force_close()
            return
        self.transport.write(self._problem_bytes(error))
        self._server.tasks.start(self._linger_and_close(), "linger")

    async def _linger_and_close(self) -> None:
        await self.linger()
        self.force_close()

    def _too_large(self) -> BadRequest:
        if self._in_line:
            return BadRequest(414, "The request target is too long.")
        return BadRequest(431, "The request head is too large.")

    def _problem_bytes(self, error: GatewayError) -> bytes:
        head, body = problem(error, _request_id())
        wire = wire_head(head, method="GET", body_bytes=len(body), http_11=True, keep_alive=False)
        return wire.data + body


class DownstreamServer(web.Server):
    """Makes a `DownstreamConnection` of every accepted socket.

    Args:
        handler: answers requests.
        settings: bounds.
        metrics: counts refused requests.
    """

    def __init__(self, handler: Any, settings: ConnectionSettings, metrics: Metrics) -> None:
        super().__init__(handler)
        self.settings = settings
        self.metrics = metrics
        self.tasks = TaskSet()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close every connection."""
        await self.tasks.cancel()
        await super().shutdown(timeout)

    def __call__(self) -> DownstreamConnection:
        """Return the protocol for a new connection."""
        settings = self.settings
        return DownstreamConnection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=settings.keepalive_timeout_s,
            access_log=None,
            auto_decompress=False,
            lingering_time=min(settings.body_timeout_s, 5.0),
            max_line_size=settings.max_header_bytes,
            max_field_size=settings.max_header_bytes,
            # The handler counts them: aiohttp's refusal would not say what is wrong.
            max_headers=settings.max_header_bytes,
        )

    def close_idle(self) -> None:
        """Close idle connections now and busy ones after their answer."""
        for connection in self.connections:
            if isinstance(connection, DownstreamConnection):
                connection.close_when_idle()


def _error_of(status: int) -> GatewayError:
    return GatewayError() if status >= 500 else BadRequest(400, "The request is not well-formed HTTP.")


def _request_id() -> bytes:
    return secrets.token_hex(16).encode("ascii")
