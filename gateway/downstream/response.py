"""A response that writes prepared bytes: exact field lines, and half the cost of aiohttp's own."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import BodyFraming, wire_head
from gateway.core.http.messages import Head
from gateway.runtime.progress import drained, unsent_bytes
from gateway.upstream.exchange import Exchange

LARGE_BYTES = 65_536
"""A body beyond this is written uncopied, in pieces of this size."""


class PreparedResponse(web.StreamResponse):
    """An answer ready to be written.

    Args:
        body: the whole body; ``None`` when it is streamed from ``exchange``.
        http_11: the caller speaks HTTP/1.1.
        keep_alive: the connection may carry another request.
        write_timeout_s: how long the caller may take nothing.
        exchange: source of a streamed body; closed here.
        prefix: what was read of it already.
        sent: called with the number of bytes that went out, when all was written or that has failed.
        linger: waits, after the connection's last answer, for the caller to leave; ``None`` does not.
    """

    def __init__(
        self,
        head: Head,
        *,
        method: str,
        body: bytes | None,
        http_11: bool,
        keep_alive: bool,
        write_timeout_s: float,
        exchange: Exchange | None = None,
        prefix: bytes = b"",
        linger: Callable[[], Awaitable[None]] | None = None,
        sent: Callable[[int], None] | None = None,
    ) -> None:
        # Not calling aiohttp's own initialiser is the point: it builds header maps nobody reads here.
        length = len(body) if body is not None else None
        self._head, self._framing, self._keep_alive = wire_head(
            head, method=method, body_bytes=length, http_11=http_11, keep_alive=keep_alive
        )
        self._body_bytes = body
        self._exchange = exchange
        self._prefix = prefix
        self._linger = linger
        self.sent = sent
        self._write_timeout_s = write_timeout_s
        self._protocol: web.RequestHandler
        self.sent_bytes = 0

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Remember where to write; nothing is written before `write_eof`."""
        self._protocol = request.protocol
        return None

    async def write_on(self, protocol: web.RequestHandler) -> None:
        """Write head and body on a connection; see `write_eof`."""
        self._protocol = protocol
        await self.write_eof()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write head and body.

        Raises:
            ConnectionError: the caller left, stalled, or had to be cut off because the upstream or his own
                request broke off.
        """
        del data
        try:
            if self._exchange is None:
                await self._write_whole((self._body_bytes or b"") if self._has_body else b"")
            else:
                await self._stream(self._exchange)
        except (GatewayError, TimeoutError) as error:
            self._cut()
            raise ConnectionResetError("response broke off") from error
        finally:
            if self._exchange is not None:
                self._exchange.close()
            if self.sent is not None:
                self.sent(self.sent_bytes)
        if self._linger is not None and not self._keep_alive:
            await self._linger()

    @property
    def _has_body(self) -> bool:
        return self._framing is not BodyFraming.NONE

    async def _write_whole(self, body: bytes) -> None:
        if len(body) <= LARGE_BYTES:
            await self._write(self._head + body)
            return
        # Joined, every caller who reads slowly would hold a copy of the body of his own.
        await self._write(self._head)
        await self._write(body)

    async def _stream(self, exchange: Exchange) -> None:
        # What is there of a small body goes out with the head.
        first = self._prefix
        if not first and exchange.reader.waiting_bytes <= LARGE_BYTES:
            first = exchange.take()
        await self._write_whole(self._framed(first) if first else b"")
        if not self._has_body:
            return
        while not await exchange.pass_on(lambda piece: self._send(self._framed(piece))):
            await self._drained()
        if self._framing is BodyFraming.CHUNKED:
            await self._write(b"0\r\n\r\n")
        elif self._framing is BodyFraming.CLOSE and self._protocol.ssl_context is None:
            # Left in the transport, the rest would be lost with a caller who stalls, and the end look whole.
            transport = self._protocol.transport
            if transport is not None and not transport.is_closing():
                transport.set_write_buffer_limits(0)
            if self._protocol.writing_paused:
                await self._drained()

    def _framed(self, piece: bytes) -> bytes:
        if self._framing is BodyFraming.CHUNKED:
            return b"%x\r\n%s\r\n" % (len(piece), piece)
        return piece

    async def _write(self, data: bytes) -> None:
        # TLS, for one, would copy all of it at once.
        view = memoryview(data) if len(data) > LARGE_BYTES else data
        for start in range(0, len(data), LARGE_BYTES):
            if not self._send(view[start : start + LARGE_BYTES]):
                await self._drained()

    def _send(self, data: bytes | memoryview) -> bool:
        """Write a piece unless the caller left, and tell whether he takes more at once."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(data)
        self.sent_bytes += len(data)
        return not self._protocol.writing_paused

    async def _drained(self) -> None:
        """Wait until the caller takes more."""
        protocol, exchange = self._protocol, self._exchange
        if protocol.transport is None or protocol.transport.is_closing():
            raise ConnectionResetError("caller left")
        with contextlib.nullcontext() if exchange is None else exchange.waiting_for_caller(self._cut):
            await drained(protocol, self._write_timeout_s, protocol._drain_helper)

    def _cut(self) -> None:
        # An abort, so that the caller can't take the part for the whole.
        transport = self._protocol.transport
        if transport is not None:
            self.sent_bytes -= unsent_bytes(transport)
            if self._framing is BodyFraming.CLOSE:
                # Only a reset differs from the end of a body that the connection's end delimits.
                _reset_on_close(transport)
            transport.abort()


def _reset_on_close(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Through a duplicate: uvloop's socket object has no setsockopt.
    with socket.socket(fileno=os.dup(sock.fileno())) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
