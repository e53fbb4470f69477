"""One pooled connection to the upstream, watched for bytes that nobody asked for.

A late byte on an idle connection would otherwise become the next request's answer.
"""

from __future__ import annotations

import asyncio
import select

from aiohttp.client_proto import ResponseHandler

from gateway.clock import Clock
from gateway.core.reply import BodyFraming

_HEAD_END = b"\r\n\r\n"


class UpstreamConnection(ResponseHandler):
    """aiohttp's client protocol, counting what arrives.

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
        self._head_bytes: int | None = None
        self._head = b""
        self._tail = b""
        self._last_four = b""

    def begin(self) -> None:
        """Start an exchange."""
        self.exchanges += 1
        self.received = 0
        self._is_idle = False
        self._head_bytes = None
        self._head = b""
        self._last_four = b""

    def is_quiet(self) -> bool:
        """Tell whether nothing has arrived on an idle connection, not even an end of file."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        number = transport.get_extra_info("socket").fileno()
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return not poll.poll(0)

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
                return self._last_four == _HEAD_END
            case BodyFraming.CLOSE:
                return False

    def end(self) -> None:
        """Mark the connection idle again."""
        self._is_idle = True

    def data_received(self, data: bytes) -> None:
        """Take bytes from the upstream; on an idle connection they close it."""
        if self._is_idle:
            self.force_close()
            if self.transport is not None:
                self.transport.abort()
            return
        self.received += len(data)
        if self._head_bytes is None:
            self._find_head_end(data)
        if data:
            self._last_four = data[-4:] if len(data) >= len(_HEAD_END) else (self._last_four + data)[-4:]
        super().data_received(data)

    def _find_head_end(self, data: bytes) -> None:
        before = self.received - len(data)
        overlap = self._head[-3:]
        found = (overlap + data).find(_HEAD_END)
        if found >= 0:
            self._head_bytes = before - len(overlap) + found + len(_HEAD_END)
            self._head = b""
        else:
            self._head = (overlap + data)[-3:]
