"""One keep-alive connection: a request at a time, no repeats."""

import asyncio
from typing import Protocol, cast

from benchmarks.openloop.response import MalformedError, Response, ResponseReader


class Exchange:
    """One scheduled request on its way.

    Attributes:
        index: which target it asks for.
        scheduled_s: when it was due (`time.monotonic`, seconds).
        connection: what carries it; ``None`` while it waits for one, and afterwards.
        is_over: an answer or an error has been counted for it.
    """

    __slots__ = ("connection", "index", "is_over", "scheduled_s")

    def __init__(self, index: int, scheduled_s: float) -> None:
        self.index = index
        self.scheduled_s = scheduled_s
        self.connection: Connection | None = None
        self.is_over = False


class Owner(Protocol):
    """Callbacks of a connection."""

    def answered(self, connection: "Connection", exchange: Exchange, response: Response) -> None:
        """A request was answered; the connection is free, or closed."""

    def failed(self, exchange: Exchange, error: str) -> None:
        """A request will not be answered."""

    def lost(self, connection: "Connection") -> None:
        """The connection is gone, after whatever was to be said about its request."""


class Connection(asyncio.Protocol):
    """Sends prepared requests and reads their answers."""

    def __init__(self, owner: Owner, *, keeps_body: bool) -> None:
        self._owner = owner
        self._reader = ResponseReader(keeps_body=keeps_body)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._is_reused = False

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange, request: bytes) -> None:
        """Send a request on a connection that is free and open."""
        assert self._transport is not None
        assert self._exchange is None
        self._exchange = exchange
        exchange.connection = self
        self._transport.write(request)

    def abandon(self) -> None:
        """Close at once and say nothing more about the request under way."""
        self._let_go()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._exchange is None:
            # Nothing was asked: such bytes must not become the next request's answer.
            self.abandon()
            return
        try:
            response = self._reader.feed(data)
        except MalformedError:
            self._fail("malformed")
            self.abandon()
            return
        if response is not None:
            self._answer(response)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`; the transport closes itself then."""
        if self._exchange is not None and (response := self._reader.end()) is not None:
            self._answer(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._exchange is not None:
            before_any_byte = "reset-reused" if self._is_reused else "reset-fresh"
            self._fail("cut" if self._reader.has_begun else before_any_byte)
        self._owner.lost(self)

    def _let_go(self) -> Exchange | None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.connection = None
        return exchange

    def _answer(self, response: Response) -> None:
        exchange = self._let_go()
        assert exchange is not None
        assert self._transport is not None
        self._is_reused = True
        if response.is_last:
            self._transport.close()
        self._owner.answered(self, exchange, response)

    def _fail(self, error: str) -> None:
        exchange = self._let_go()
        assert exchange is not None
        self._owner.failed(exchange, error)
