"""One downstream connection: aiohttp's protocol with deadlines, bounds and our own error answers."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from gateway.config.model import ServerConfig
from gateway.core.http.chunked import ChunkedFraming
from gateway.core.http.errors import GatewayError, MessageError
from gateway.core.http.forwarded import TrustedProxies
from gateway.core.http.proxy_header import ProxyHeader
from gateway.core.http.request import MAX_FIELDS
from gateway.core.http.request_head import RequestHead
from gateway.downstream.admission import LINGER_S, Admission
from gateway.downstream.connection_origin import Origin, origin_of
from gateway.downstream.request_id import RequestIds
from gateway.downstream.response import PreparedResponse
from gateway.errors import problem
from gateway.runtime.progress import cut_later
from gateway.telemetry.access_log import AccessLog, Begun
from gateway.telemetry.metrics import Metrics

# No byte of a head may be NUL: the parser refuses it wherever it stands.
_POISON = b"\x00"
_MALFORMED = MessageError(400, "The request is not well-formed HTTP.")


class DownstreamConnection(RequestHandler):
    """A caller's connection.

    Attributes:
        origin: where it comes from.
        peer: the address of that without port; ``unknown`` when it has none.
        scheme: ``http`` or ``https``.
    """

    __slots__ = (
        "_backlog",
        "_body",
        "_body_left",
        "_chunks",
        "_config",
        "_head",
        "_head_timer",
        "_header",
        "_is_gone",
        "_is_last",
        "_metrics",
        "_peer",
        "_refusal",
        "_server",
        "_since_s",
        "_stop",
        "origin",
        "peer",
        "scheme",
    )

    def __init__(
        self, server: "DownstreamServer", *, header: ProxyHeader | None = None, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._header = header
        # Parsed requests cost many times their bytes: what comes behind the next one waits as it came.
        self._max_msg_queue_size, self._msg_queue_resume_size = 1, 0
        self._server = server
        self._config, self._metrics = server.config, server.metrics
        self._head_timer: asyncio.TimerHandle | None = None
        self._head = RequestHead(self._config.max_header_bytes)
        self._body: StreamReader | None = None
        self._body_left: int | None = 0
        self._chunks: ChunkedFraming | None = None
        self._backlog = b""
        # Nothing more is taken: the last request of the connection was refused or came in chunks.
        self._is_last = False
        self._refusal: GatewayError | None = None
        self._since_s = 0.0
        self._is_gone: asyncio.Future[None] = self._loop.create_future()
        self._stop: Callable[[], object] | None = None
        # The origin's address; None when it has none, and when it was not admitted.
        self._peer: str | None = None
        self.origin = Origin()
        self.peer = self.origin.peer
        self.scheme = b"http"

    @property
    def is_busy(self) -> bool:
        """A request is being read, answered or waiting to be."""
        # aiohttp's own flag is set a turn of the loop after it has taken a request from the queue.
        is_answering = self._request_count > 0 and (self._waiter is None or self._waiter.done())
        return is_answering or self._is_in_body or self.has_begun_another

    @property
    def has_begun_another(self) -> bool:
        """Bytes of a request behind the present one were read; it must not be lost."""
        return bool(self._messages or self._head.size or self._backlog)

    def takes_more(self) -> bool:
        """Tell whether what is written now goes out at once."""
        transport = self.transport
        return transport is not None and not (self._paused or transport.is_closing())

    @property
    def _is_in_body(self) -> bool:
        return self._body is not None and not self._body.is_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or refuse it when there are too many."""
        self.origin = origin_of(transport, self._header, self._server.trusted_proxies)
        self._peer, self.peer = self.origin.address, self.origin.peer
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = b"https"
        if not self._server.admission.admit(self._peer, len(self._server.connections)):
            self._metrics.connections_refused += 1
            self._peer = None
            self.transport = None
            self._force_close = True
            # uvloop's transports are none by inheritance.
            writing = cast("asyncio.WriteTransport", transport)
            self._server.admission.turn_away(writing, self._server.request_ids.fresh(), self.origin)
            return
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of a connection."""
        self._stop_head_timer()
        if not self._is_gone.done():
            self._is_gone.set_result(None)
        if self._stop is not None:
            self._stop()
        self._server.admission.release(self._peer)
        # Nothing is left to be cut, and asyncio's transports of TLS fail when they are asked.
        self.transport = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, one head or body at a time.

        aiohttp's parser drops the requests that it found in front of an error in the same bytes, and
        it doesn't tell how a request line was written.
        """
        if self._close or self._force_close:
            return
        if not data:
            # aiohttp wants its parser to go on with what that kept.
            self._feed(b"")
        data, self._backlog = self._backlog + data, b""
        start = 0
        while start < len(data) and not self._is_last:
            if self._reading_paused:
                self._backlog = data[start:]
                return
            if self._is_in_body:
                start = self._take_body(data, start)
            elif len(self._messages) < self._max_msg_queue_size:
                start = self._take_head(data, start)
            else:
                self._backlog = data[start:]
                self._pause_reading_for_buffer()
                return

    def _pause_reading_for_buffer(self) -> None:
        # aiohttp would do it for every request.
        if self._backlog:
            super()._pause_reading_for_buffer()

    def _take_body(self, data: bytes, start: int) -> int:
        """Feed what belongs to the present body and return where it ends."""
        end = len(data) if self._body_left is None else min(len(data), start + self._body_left)
        if self._body_left is not None:
            self._body_left -= end - start
        body, parsed = self._body, self._request_count
        if self._chunks is not None and body is not None and self._chunks.feed(data[start:end]) is None:
            body.set_exception(PayloadEncodingError("the chunks are malformed or too large"))
            body.feed_eof()
            self._is_last = True
            return end
        self._feed(data[start:end])
        if self._request_count != parsed and body is not None and not body.is_eof():
            # Only a defect leads the parser out of a body; aiohttp tells nobody who waits for the rest.
            body.set_exception(PayloadEncodingError("the body is malformed"))
            body.feed_eof()
        # What follows chunks is never taken for a request: it may begin with a trailer's rest.
        self._is_last = self._is_last or (self._body_left is None and not self._is_in_body)
        return end

    def _take_head(self, data: bytes, start: int) -> int:
        """Take what belongs to the present head, feed it once it is whole, and return where it ends."""
        if not self._head.size:
            self._since_s = time.monotonic()
            self._start_head_timer()
        try:
            end = self._head.take(data, start)
        except MessageError as error:
            self._refuse(error)
            return len(data)
        if self._head.is_whole:
            self._stop_head_timer()
            self._feed(self._head.data())
            self._begin_body()
        return end

    def _begin_body(self) -> None:
        """Turn from a complete head to what follows it."""
        message, self._body = self._messages[-1]
        # aiohttp queues what its parser refused as if it were a request.
        if not isinstance(message, RawRequestMessage):
            self._is_last = True
            return
        self._head.begin()
        self._chunks = ChunkedFraming(self._config.max_header_bytes) if message.chunked else None
        self._body_left = None if message.chunked else int(message.headers.get("Content-Length", "0"))

    def _feed(self, piece: bytes) -> None:
        super().data_received(piece)
        while self._upgraded and self._parser is not None:
            # No upgrade is ever accepted; left alone, aiohttp would parse the rest behind our back.
            self._parser.set_upgraded(False)
            self._upgraded = False
            tail, self._message_tail = self._message_tail, b""
            super().data_received(tail)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp's parser refused, or what failed in here, with a problem of our own."""
        if status >= 500:
            target = request.raw_path.encode("utf-8", "surrogateescape")
            return self.failure(exc, Begun(request.method.encode(), target))
        begun = Begun(*self._head.method_and_target(), self._head.size, self._since_s)
        return self._error(self._refusal or _MALFORMED, begun)

    def failure(self, exc: BaseException | None, begun: Begun) -> PreparedResponse:
        """Log what failed in here, and return the answer, which tells no details."""
        self.logger.error("request failed: %s", type(exc).__name__, exc_info=exc)
        return self._error(GatewayError(), begun)

    def _error(self, error: GatewayError, begun: Begun) -> PreparedResponse:
        """Return the last answer of this connection; count it, and have an access line written for it."""
        self._metrics.bad_requests[str(error.status)] += 1
        self._metrics.errors[error.code] += 1
        request_id, peer = self._server.request_ids.fresh(), self.origin.caller_address(())
        head, body = problem(error, request_id)
        return PreparedResponse(
            head,
            method="GET",
            body=body,
            http_11=True,
            keep_alive=False,
            write_timeout_s=self._config.body_timeout_s,
            linger=self.linger,
            sent=functools.partial(self._server.access_log.refused, error, request_id, peer, begun),
        )

    async def linger(self) -> None:
        """Take and drop what still comes for a moment, so that a refusal is not lost in a reset.

        Closing a socket with unread bytes resets the connection (RFC 9112 §9.6).
        """
        self._close = True
        if self.transport is not None and self.transport.can_write_eof():
            # A pipelined request has paused it: neither the rest nor the caller's end would be seen.
            self.transport.resume_reading()
            # The caller may be gone, and asyncio's loop not know it yet.
            with contextlib.suppress(OSError):
                self.transport.write_eof()
            await asyncio.wait((self._is_gone,), timeout=LINGER_S)
            cut_later(self.transport, self._config.body_timeout_s)

    def stop_with_caller(self, stop: Callable[[], object] | None) -> None:
        """Say what is called when the caller leaves; ``None`` lets a write go on to its end."""
        self._stop = stop

    def force_close(self) -> None:
        """Close the connection once the caller has taken what was written, for which he has a time."""
        cut_later(self.transport, self._config.body_timeout_s)
        super().force_close()

    def close_when_idle(self) -> None:
        """Close unless a byte of a request was read that is not answered yet."""
        if not self.is_busy:
            self.force_close()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio lets it say more
        """Give whoever ended only its own side a moment to be answered in.

        A caller who left looks the same; writing to it, or the end of the moment, tells.
        """
        is_whole = self._is_last or not (self._is_in_body or self._head.size)
        if self._close or not is_whole or not self.is_busy or self.ssl_context is not None:
            return None
        self._is_last = True
        if not self._is_gone.done():
            # Nothing more can come: there is nothing to linger for.
            self._is_gone.set_result(None)
        self._loop.call_later(LINGER_S, self.force_close)
        return True

    def _process_keepalive(self) -> None:
        # aiohttp takes a connection on which a head has begun for idle; that head has a deadline of its own.
        if self._head.size == 0:
            super()._process_keepalive()
        else:
            # aiohttp sets the next timer only when there is none.
            self._keepalive_handle = None

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self._loop.call_later(self._config.header_timeout_s, self._head_too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._head.size:
            self._refuse(MessageError(408, "The request head did not arrive in time."))
        else:
            self.force_close()

    def _refuse(self, error: GatewayError) -> None:
        """Answer a head with an error, behind the answers to earlier requests, and close."""
        self._stop_head_timer()
        self._refusal = error
        self._is_last = True
        self._feed(_POISON)


class DownstreamServer(web.Server):
    """Makes a `DownstreamConnection` of every accepted socket.

    Args:
        config: bounds, and whose ``X-Forwarded-For`` tells who asks.
        metrics: counts refused requests.
        request_ids: names requests that are refused before they were read.
        access_log: writes a line for each of those.
        connection: makes the connections; ``None`` makes plain ones.
    """

    def __init__(
        self,
        handler: Any,
        config: ServerConfig,
        *,
        metrics: Metrics,
        request_ids: RequestIds,
        access_log: AccessLog,
        connection: Callable[..., DownstreamConnection] | None = None,
    ) -> None:
        super().__init__(handler)
        self.metrics = metrics
        self.request_ids = request_ids
        self.access_log = access_log
        self._make_connection = connection or DownstreamConnection
        self.admission = Admission(config, access_log)
        self.change(config)

    def __call__(self, header: ProxyHeader | None = None) -> DownstreamConnection:
        """Return the protocol for a new connection, which began with this header."""
        config = self.config
        return self._make_connection(
            self,
            header=header,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=config.keepalive_timeout_s,
            access_log=None,
            auto_decompress=False,
            lingering_time=min(config.body_timeout_s, 5.0),
            max_line_size=config.max_header_bytes,
            max_field_size=config.max_header_bytes,
            max_headers=MAX_FIELDS,
        )

    def change(self, config: ServerConfig) -> None:
        """Use other bounds for connections that are opened from now on."""
        self.config = self.admission.config = config
        self.trusted_proxies = TrustedProxies.of(config.trusted_proxies)

    def close_idle(self) -> None:
        """Close idle connections now and busy ones after their answer."""
        for connection in self.connections:
            if isinstance(connection, DownstreamConnection):
                connection.close_when_idle()
