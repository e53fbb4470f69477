"""One exchange with the upstream: a request on its way, and its response as it comes."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Fields, Head
from gateway.core.http.response_head import HeadReader, ResponseError
from gateway.core.http.response_reader import ResponseReader
from gateway.errors import GaveWay, UpstreamError, UpstreamTimeout
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.failure import words_of
from gateway.upstream.limiter import Slot

# Body bytes that may wait for a slow caller before no more is read.
READ_AHEAD_BYTES = 131_072


class ExchangeOwner(Protocol):
    """What an exchange tells its pool."""

    heads: HeadReader

    def has_head(self, exchange: "Exchange") -> None:
        """Its head has come."""

    def has_failed(self, exchange: "Exchange") -> bool:
        """It has failed; whether it goes on all the same, on another connection."""

    def is_over(self, exchange: "Exchange") -> None:
        """It was closed."""


class Exchange:
    """A request under way; read its response to the end or close it.

    Nothing here waits without a deadline: the owner calls `check_time`.

    Args:
        owner: its pool.
        method: of the request.
        clock: monotonic time.

    Attributes:
        method: of the request.
        on_whole: called with the body instead, where the whole response has come at once; only for a GET.
        on_change: called whenever more of the response is there, or it has failed; ``None`` wakes who awaits.
        connection: carries it; ``None`` until there is one.
        reader: reads the response.
        slot: its place in the pool; ``None`` until it has one.
        work: opens its connection or sends its body; ``None`` without either.
        error: why nothing more will come; ``None`` as long as it may.
        head: status, reason and all fields as received; not before they have come.
        asked_s: monotonic time at which it was asked for.
        broke_off: its request did not go out whole.
        repeated: head and fields to send once more if a reused connection turns out to be closed before there
            is a response; ``None`` when nothing is repeated.
        lent: the gateway's credentials in its request, and what sends that once more, ``None`` for a write;
            ``None`` without them, and once there is a response.
        head_s: seconds from its place in the pool to its head; 0 until that has come.
        read_ahead_bytes: body bytes that may wait before no more is read.
    """

    __slots__ = (
        "_active_s",
        "_clock",
        "_head_began_s",
        "_is_closed",
        "_is_paused",
        "_is_sent",
        "_is_whole",
        "_owner",
        "_reader",
        "_waiter",
        "asked_s",
        "broke_off",
        "connection",
        "error",
        "head",
        "head_s",
        "lent",
        "method",
        "on_change",
        "on_whole",
        "read_ahead_bytes",
        "repeated",
        "slot",
        "work",
    )

    def __init__(self, owner: ExchangeOwner, method: str, clock: Clock) -> None:
        self.method = method
        # No bound method of its own: a cycle would be left to the garbage collector.
        self.on_change: Callable[[], None] | None = None
        self.on_whole: Callable[[bytes], None] | None = None
        self.connection: UpstreamConnection | None = None
        self.slot: Slot | None = None
        self.work: asyncio.Task[None] | None = None
        self.error: GatewayError | None = None
        self.head: Head
        self.asked_s = clock.monotonic_s()
        self.broke_off = False
        self.repeated: tuple[bytes, Fields] | None = None
        self.lent: tuple[Fields, Callable[[], Coroutine[Any, Any, None]] | None] | None = None
        self.head_s = 0.0
        self.read_ahead_bytes = READ_AHEAD_BYTES
        self._owner = owner
        self._clock = clock
        self._is_sent = False
        self._active_s = 0.0
        self._head_began_s = 0.0
        self._is_paused = False
        self._is_closed = False
        # The response has come whole, and its connection persists.
        self._is_whole = False
        self._reader: ResponseReader | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def reader(self) -> ResponseReader:
        """Reads the response by parts."""
        if self._reader is None:
            self._reader = ResponseReader(self.method, self._owner.heads)
        return self._reader

    @property
    def is_stale(self) -> bool:
        """A reused connection broke before a byte of the response: the upstream had closed it while idle."""
        return (
            isinstance(self.error, UpstreamError)
            and self.error.proxy_error == "connection_terminated"
            and self.connection is not None
            and self.connection.exchanges > 1
            and not self.reader.received
        )

    def is_reusable(self) -> bool:
        """Tell whether its connection may carry another exchange."""
        is_sent = not self.broke_off and (self.work is None or self.work.done())
        return is_sent and self.error is None and (self._is_whole or self.reader.is_reusable)

    def sent(self, now_s: float) -> None:
        """Take the time from now on: the request has gone out whole."""
        self._active_s = now_s
        self._is_sent = True

    def restart(self) -> None:
        """Expect another response, on another connection."""
        if self.connection is not None:
            self.connection.close()
        self.error = None
        self.connection = None
        self._reader = None
        self.head_s = self._head_began_s = 0.0
        self._is_sent = self._is_paused = False

    async def head_arrived(self) -> None:
        """Wait for the head.

        Raises:
            GatewayError: there will be none.
        """
        while self.error is None and self.reader.head is None:
            await self._next_change()
        if self.error is not None:
            raise self.error

    async def pass_on(self, write: Callable[[bytes], bool]) -> bool:
        """Give each piece of the body to ``write`` as soon as it comes, until that wants no more for now.

        Returns:
            Whether the body is complete.

        Raises:
            GatewayError: the body ended too early, or nothing came for too long.
        """
        reader = self.reader
        wants_more = True

        def pass_piece() -> None:
            nonlocal wants_more
            if reader.content:
                wants_more = write(self.take())
            if not wants_more or reader.is_complete or self.error is not None:
                self.stream()
                self.changed()

        self.on_change = pass_piece
        self.read_ahead_bytes = sys.maxsize
        pass_piece()
        if self.on_change is not None:
            await self._next_change()
        if wants_more and self.error is not None and not reader.is_complete:
            raise self.error
        return wants_more

    def take(self) -> bytes:
        """Return what has come of the body since it was last taken, and let more come."""
        data = self.reader.take()
        if self._is_paused and self.connection is not None:
            self._is_paused = False
            self._active_s = self._clock.monotonic_s()
            self.connection.resume_reading()
        return data

    def stream(self) -> None:
        """Have the rest of the body wait for `pass_on`."""
        self.on_change = None
        self.read_ahead_bytes = READ_AHEAD_BYTES

    @contextlib.contextmanager
    def waiting_for_caller(self, give_way: Callable[[], None]) -> Iterator[None]:
        """Let another exchange have the place of this one, while its caller takes nothing.

        Args:
            give_way: ends the response, should others need it to.
        """
        slot = self.slot
        assert slot is not None
        before, slot.give_way = slot.give_way, give_way
        slot.moves()
        slot.wait_for_caller()
        try:
            yield
        finally:
            slot.go_on()
            slot.give_way = before

    def give_way(self) -> None:
        """End it, because its caller has kept others waiting."""
        self.fail(GaveWay())

    def close(self) -> None:
        """Give the connection back after a clean end, else cut it; may be repeated."""
        if not self._is_closed:
            self._is_closed = True
            self.on_change = self.on_whole = None
            if self._is_paused and self.connection is not None:
                # The whole response may have come; the connection's next one must be read too.
                self.connection.resume_reading()
            self._owner.is_over(self)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        self._active_s = self._clock.monotonic_s()
        on_whole, whole = self.on_whole, None
        try:
            if on_whole is not None and self._reader is None and self.lent is None:
                whole = self._owner.heads.whole(data) if len(data) <= self.read_ahead_bytes else None
            if whole is None:
                self.reader.feed(data)
        except ResponseError as error:
            self.fail(UpstreamError(error.proxy_error, was_sent=True))
            return
        if whole is not None and on_whole is not None:
            self.head, body, self._is_whole = whole
            self._has_head()
            on_whole(body)
            return
        reader = self.reader
        if reader.head is None:
            began_s = self._head_began_s or self._active_s
            self._head_began_s = began_s if reader.is_in_head else 0.0
            return
        if not self.head_s:
            self.head = reader.head
            self._has_head()
        if (
            reader.waiting_bytes > self.read_ahead_bytes
            and not self._is_paused
            and self.connection is not None
        ):
            self._is_paused = True
            self.connection.pause_reading()
        if self.on_change is not None:
            # Cheaper than `changed`, and nothing else is as frequent.
            self.on_change()
        else:
            self.changed()

    def _has_head(self) -> None:
        assert self.slot is not None
        self.head_s = self._active_s - self.slot.began_s
        self._owner.has_head(self)

    def feed_eof(self, error: Exception | None) -> None:
        """Take the end of the connection, and why it broke."""
        try:
            self.reader.feed_eof(is_clean=error is None)
        except ResponseError as early:
            self.fail(UpstreamError(early.proxy_error, was_sent=True, said=words_of(error)))
        else:
            self.changed()

    def check_time(self, now_s: float, timeout_s: float) -> None:
        """Fail when the upstream has been silent for too long, or takes too long for a head."""
        if self.error is not None or self.reader.is_complete or self._is_paused:
            return
        began_s = self._head_began_s if self.reader.head is None else 0.0
        is_silent = self._is_sent and now_s - self._active_s > timeout_s
        if is_silent or (began_s and now_s - began_s > timeout_s):
            self.fail(UpstreamTimeout("connection_read_timeout", was_sent=True))

    def fail(self, error: GatewayError) -> None:
        """Expect nothing more."""
        if self.error is not None or self._is_closed:
            return
        self.error = error
        if self.connection is not None:
            self.connection.close()
        if not self._owner.has_failed(self):
            self.changed()

    async def _next_change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def changed(self) -> None:
        """Tell whoever waits for it that there is more of it."""
        if self.on_change is not None:
            self.on_change()
            return
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
