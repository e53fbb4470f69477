"""One pooled connection to the upstream, watched for bytes that nobody asked for.

A late byte on an idle connection would otherwise become the next request's answer.
"""

from __future__ import annotations

import asyncio
import re
import select
from typing import Any

from aiohttp.client_exceptions import ClientPayloadError, SocketTimeoutError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from gateway.clock import Clock
from gateway.core.http.chunked import ChunkedFraming
from gateway.core.http.fields import is_sound_head
from gateway.core.http.framing import BodyFraming

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 65_536
_MAX_INTERIM = 16
_STATUS = slice(9, 12)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_VERSION = b"HTTP/1."
_SWITCHING_PROTOCOLS = b"101"


class UpstreamConnection(ResponseHandler):
    """aiohttp's client protocol, counting what arrives and reading heads and chunk framing for itself.

    aiohttp's parser is lenient with responses, has no deadline for a head, does not bound a whole one
    and takes a Content-Length in an interim response for that of a body: it sees final responses only.

    Attributes:
        opened_s: monotonic time of creation.
        exchanges: requests sent so far.
        received: bytes of the present exchange.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        super().__init__(loop)
        self.opened_s = clock.monotonic_s()
        self.exchanges = 0
        self.received = 0
        self._is_idle = True
        # Bytes up to the end of the final head; None until it has come.
        self._head_bytes: int | None = None
        self._head = bytearray()
        self._passed_bytes = 0
        self._interim = 0
        self._is_timed = False
        self._head_timeout_s = 0.0
        self._head_timer: asyncio.TimerHandle | None = None
        self._chunks: ChunkedFraming | None = None
        self._poll: select.poll | None = None

    def begin(self, head_timeout_s: float) -> None:
        """Start an exchange.

        Args:
            head_timeout_s: from the first byte of a head to its end.
        """
        self.exchanges += 1
        self.received = 0
        self._is_idle = False
        self._head_bytes = None
        self._head.clear()
        self._passed_bytes = 0
        self._interim = 0
        self._is_timed = False
        self._head_timeout_s = head_timeout_s
        self._chunks = None

    def is_quiet(self) -> bool:
        """Tell whether nothing has arrived on an idle connection, not even an end of file."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def ended_cleanly(self, framing: BodyFraming, length: int | None) -> bool:
        """Tell whether exactly one response has arrived, so that the connection can be used again.

        Args:
            framing: how the response told its end.
            length: its Content-Length, where that is how.
        """
        if self.should_close or self._head_bytes is None:
            return False
        match framing:
            case BodyFraming.NONE:
                return self.received == self._head_bytes
            case BodyFraming.LENGTH:
                return length is not None and self.received == self._head_bytes + length
            case BodyFraming.CHUNKED:
                # Bytes behind it have marked the connection already.
                return self._chunks is not None and self._chunks.is_complete
            case BodyFraming.CLOSE:
                return False

    def has_sound_head(self) -> bool:
        """Tell whether the head that aiohttp read ended where heads end."""
        return self._head_bytes is not None

    def has_more_than_head(self) -> bool:
        """Tell whether bytes have come behind a head that nothing may follow."""
        return self._head_bytes is None or self.received > self._head_bytes

    def end(self) -> None:
        """Mark the connection idle again."""
        self._is_idle = True

    def start_timeout(self) -> None:
        """Start aiohttp's read timer anew."""
        self._is_timed = True
        super().start_timeout()

    def stop_timeout(self) -> None:
        """Stop aiohttp's read timer: the body has come whole."""
        self._drop_timeout()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of a connection; a body that nothing but its end would have ended is cut by a reset."""
        self._stop_head_timer()
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(ClientPayloadError("connection reset"))
        super().connection_lost(exc)

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        """Fail the exchange; whoever reads its body must hear of bad chunks too."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if isinstance(exc, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(ClientPayloadError("malformed body"))
            # A reader that the end of a chunk has just woken looks for data or the end only.
            payload.feed_eof()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the upstream; on an idle connection they close it."""
        if self._is_idle:
            self.force_close()
            if self.transport is not None:
                self.transport.abort()
            return
        self.received += len(data)
        if self._head_bytes is None:
            passed = self._read_heads(data)
            if passed is None:
                self._refuse("malformed head")
                return
            if not passed:
                if self._is_timed:
                    self.start_timeout()
                return
            data = passed
        if self._chunks is not None and self._head_bytes is not None:
            began = max(0, len(data) - (self.received - self._head_bytes))
            taken = self._chunks.feed(data[began:])
            if taken is None:
                self._refuse("malformed chunks")
                return
            if began + taken < len(data):
                # Nobody asked for what follows, so nobody may use the connection again.
                self.force_close()
                data = data[: began + taken]
        super().data_received(data)

    def _refuse(self, what: str) -> None:
        self._stop_head_timer()
        self.set_exception(HttpProcessingError(message=what))
        self.force_close()

    def _read_heads(self, data: bytes) -> bytes | None:
        """Read heads up to the final one.

        Returns:
            What belongs to the final response, as far as it has not been returned before; ``None``
            when a head is unsound, too large or one too many.
        """
        searched = max(0, len(self._head) - len(_HEAD_END) + 1)
        is_held_back = self._passed_bytes < len(self._head)
        self._head += data
        while (found := self._head.find(_HEAD_END, searched)) >= 0:
            end = found + len(_HEAD_END)
            head = bytes(self._head[:end])
            if end > _MAX_HEAD_BYTES or not is_sound_head(head):
                return None
            self._stop_head_timer()
            if not head[_STATUS].startswith(b"1"):
                self._head_bytes = self.received - len(self._head) + end
                if _CHUNKED.search(head) is not None:
                    self._chunks = ChunkedFraming()
                passed = bytes(self._head[self._passed_bytes :]) if is_held_back else data
                self._head.clear()
                return passed
            is_held_back = True
            del self._head[:end]
            self._interim += 1
            if self._interim > _MAX_INTERIM or head[_STATUS] == _SWITCHING_PROTOCOLS:
                return None
            searched = 0
        if self._head and self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._head_too_slow)
        if len(self._head) > _MAX_HEAD_BYTES or not _VERSION.startswith(self._head[: len(_VERSION)]):
            return None
        if len(self._head) <= _STATUS.start or self._head[_STATUS].startswith(b"1"):
            return b""
        passed = bytes(self._head[self._passed_bytes :])
        self._passed_bytes = len(self._head)
        return passed

    def _head_too_slow(self) -> None:
        self._head_timer = None
        self.set_exception(SocketTimeoutError("the head came too slowly"))
        self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
