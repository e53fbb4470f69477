"""One connection to the upstream, which carries one exchange at a time."""

import asyncio
import select
from typing import Protocol, cast


class ResponseSink(Protocol):
    """Where the bytes of a response go."""

    connection: "UpstreamConnection | None"

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def feed_eof(self, error: Exception | None) -> None:
        """Take the end of the connection, and why it broke; ``None``: the upstream closed it."""


class UpstreamConnection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    A byte that comes between two exchanges would become the next one's response: it ends the connection.

    Attributes:
        transport: ``None`` before and after the connection's life.
        opened_s: monotonic time.
        exchanges: begun so far.
    """

    __slots__ = ("_poll", "_sink", "_writable", "exchanges", "opened_s", "transport")

    def __init__(self, opened_s: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.opened_s = opened_s
        self.exchanges = 0
        self._sink: ResponseSink | None = None
        self._poll: select.poll | None = None
        self._writable: asyncio.Event | None = None

    def begin(self, sink: ResponseSink, head: bytes) -> None:
        """Begin an exchange with the head of its request; the response goes to ``sink``."""
        self.exchanges += 1
        self._sink = sink
        sink.connection = self
        if self.transport is not None:
            self.transport.write(head)

    def end(self) -> None:
        """Expect nothing more until the next exchange."""
        self._sink = None

    def write(self, data: bytes) -> None:
        """Send bytes without waiting; on a lost connection nothing happens."""
        if self.transport is not None:
            self.transport.write(data)

    @property
    def writing_paused(self) -> bool:
        """The transport wants no more for now."""
        return self._writable is not None

    async def drain(self) -> None:
        """Wait until the transport wants more.

        Raises:
            ConnectionResetError: the connection is lost.
        """
        if self._writable is not None:
            await self._writable.wait()
        if self.transport is None:
            raise ConnectionResetError

    def is_quiet(self) -> bool:
        """Tell whether nothing has arrived on an idle connection, not even an end of file."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def pause_reading(self) -> None:
        """Let the upstream wait."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self.transport is not None:
            self.transport.resume_reading()

    def close(self) -> None:
        """Close it; an exchange under way is cut."""
        self._sink = None
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transport is one without being a subclass.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self.close()
        else:
            self._sink.feed(data)

    def eof_received(self) -> None:
        if self._sink is not None:
            self._sink.feed_eof(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.resume_writing()
        if self._sink is not None:
            self._sink.feed_eof(exc)

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set()
            self._writable = None
