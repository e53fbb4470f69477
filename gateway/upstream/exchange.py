"""A response of the upstream while it is read, on the connection that it comes over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import aiohttp
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.connector import Connection

from gateway.core.http.framing import BodyFraming, content_length
from gateway.core.http.messages import Head
from gateway.upstream.failure import FAILURES, exchange_failure
from gateway.upstream.idle import IdleConnections, protocol_of
from gateway.upstream.limiter import Slot


class Exchange:
    """A response whose head has arrived; read it to the end or close it.

    Attributes:
        head: status, reason and all fields as received.
        framing: how the body tells its end.
        length: declared body bytes; ``None`` when not declared.
        head_s: how long the head took.
    """

    def __init__(
        self,
        head: Head,
        framing: BodyFraming,
        payload: aiohttp.StreamReader,
        connection: Connection,
        *,
        upload: asyncio.Task[None] | None,
        read_timeout_s: float,
        slot: Slot,
        idle: IdleConnections,
        head_s: float,
    ) -> None:
        self.head = head
        self.head_s = head_s
        self.framing = framing
        self.length = content_length(head) if framing is BodyFraming.LENGTH else None
        self._payload = payload
        self._connection: Connection | None = connection
        self._upload = upload
        self._read_timeout_s = read_timeout_s
        self._slot = slot
        self._idle = idle
        self._is_complete = framing is BodyFraming.NONE
        slot.give_way = self._break_off

    async def read(self) -> bytes:
        """Return the next piece of the body; empty at its end.

        Raises:
            UpstreamError: the body ended too early, or nothing came for too long.
        """
        if self._is_complete:
            return b""
        try:
            # What is there already needs no deadline.
            if not (data := self._payload.read_nowait()) and not self._payload.is_eof():
                async with asyncio.timeout(self._read_timeout_s):
                    data = await self._payload.readany()
            if (broken := self._payload.exception()) is not None:
                raise broken
        except FAILURES as error:
            raise exchange_failure(error, was_headless=False) from error
        if not data:
            self._is_complete = True
        return data

    @contextlib.contextmanager
    def waiting_for_caller(self, give_way: Callable[[], None]) -> Iterator[None]:
        """Let another exchange have the place of this one, while its caller takes nothing.

        Args:
            give_way: ends the answer, should others need it to.
        """
        self._slot.give_way = give_way
        self._slot.moves()
        self._slot.wait_for_caller()
        try:
            yield
        finally:
            self._slot.go_on()
            self._slot.give_way = self._break_off

    def close(self) -> None:
        """Give the connection back after a clean end, else cut it; may be repeated."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        protocol = protocol_of(connection) if connection.protocol is not None else None
        uploaded = self._upload is None or self._upload.done()
        if self._upload is not None and not uploaded:
            self._upload.cancel()
        if (
            protocol is not None
            and uploaded
            and self._is_complete
            and protocol.ended_cleanly(self.framing, self.length)
        ):
            protocol.end()
            self._idle.keep(connection)
        else:
            connection.close()
        self._slot.free()

    def _break_off(self) -> None:
        self._payload.set_exception(ClientPayloadError("gave way"))
        # Who has just been woken looks for data or the end only.
        self._payload.feed_eof()
