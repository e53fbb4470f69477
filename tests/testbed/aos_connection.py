"""One connection to the scripted AOS."""

import asyncio
import re

from .answers import Answer, AnyAnswer, Received
from .sockets import WatchedReader, finish, reset
from .watch import Watch
from .wire import BodyReader, MalformedMessage, Wire, split_head, values

_SEND_S = 10.0
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.1")

# In the head of the final response, behind any interim ones.
_SAYS_CLOSE = re.compile(
    rb"(?:HTTP/1\.1 1\d\d[^\r]*\r\n(?:[^\r]+\r\n)*\r\n)*(?:[^\r]+\r\n)+?(?i:connection:[ \t]*close)[ \t]*\r\n"
)


class AosConnection:
    """One connection to the scripted AOS; the argument of a callable answer."""

    def __init__(
        self, number: int, reader: WatchedReader, writer: asyncio.StreamWriter, watch: Watch
    ) -> None:
        self.number = number
        self.wire = Wire(reader)
        self.ended = False
        self._reader = reader
        self._writer = writer
        self._watch = watch
        self._current: tuple[Received, BodyReader] | None = None

    @property
    def is_open(self) -> bool:
        """Whether neither side has ended the connection."""
        return not self.ended and not self._reader.peer_gone

    async def send(self, data: bytes) -> None:
        """Write exactly these bytes and wait until the socket has taken them (10 s at most)."""
        self._writer.write(data)
        async with asyncio.timeout(_SEND_S):
            await self._writer.drain()

    async def answer(self, answer: AnyAnswer) -> None:
        """Answer the current request; a described answer to a HEAD is only its head.

        Raw bytes and described answers close the connection when their head says `Connection: close`.
        """
        received, _ = self._request()
        if isinstance(answer, bytes):
            await self.send(answer)
            if _SAYS_CLOSE.match(answer):
                self.close()
        elif isinstance(answer, Answer):
            await self._write(answer, is_head=received.method == "HEAD")
            if answer.closes:
                self.close()
        else:
            await answer(received, self)

    async def _write(self, answer: Answer, *, is_head: bool) -> None:
        pieces = [] if is_head else answer.framed_pieces()
        if answer.body_gate is None and answer.chunks is None:
            await self.send(answer.head() + b"".join(pieces))
            return
        await self.send(answer.head())
        if answer.body_gate is not None:
            await answer.body_gate.passed()
        for piece in pieces:
            await self.send(piece)

    async def read_body(self, at_least_bytes: int | None = None) -> None:
        """Read more of the current request's body, for answers that begin when its head is there.

        Args:
            at_least_bytes: read until this much content is there or all of it; None reads all.
        """
        received, body = self._request()
        while not received.complete and (
            at_least_bytes is None or len(received.framing.data) < at_least_bytes
        ):
            await body.more()
            self._watch.changed()

    async def wait_closed(self, timeout_s: float = 5.0) -> None:
        """Wait until the caller has closed or reset the connection (deadline in seconds)."""
        await self._watch.until(lambda: self._reader.peer_gone, "the caller to go", timeout_s)

    def half_close(self) -> None:
        """End our side and keep reading."""
        self._writer.write_eof()

    def close(self) -> None:
        """Close cleanly once what was sent has gone out."""
        self._end()
        self._writer.close()

    def abort(self) -> None:
        """Close with a reset."""
        self._end()
        reset(self._writer)

    async def finished(self) -> None:
        """Close for good and wait for it, at most a second."""
        self._end()
        await finish(self._writer)

    async def read_request(self, max_head_bytes: int, max_body_bytes: int) -> Received | None:
        """Read the next request's head; None when the caller has ended the connection before it."""
        if self.ended or await self.wire.at_end():
            return None
        raw_head = await self.wire.until(b"\r\n\r\n", max_head_bytes)
        start, fields = split_head(raw_head)
        line = _REQUEST_LINE.fullmatch(start)
        if line is None:
            raise MalformedMessage(f"bad request line {start[:80]!r}")
        if len(values(fields, "host")) != 1:
            raise MalformedMessage(f"{len(values(fields, 'host'))} Host fields")
        body = BodyReader(self.wire, fields, unframed_to_end=False, max_bytes=max_body_bytes)
        method, target = line[1].decode(), line[2].decode()
        received = Received(raw_head, method, target, fields, self.number, body.body)
        self._current = received, body
        return received

    def _request(self) -> tuple[Received, BodyReader]:
        if self._current is None:
            raise RuntimeError("no request has come on this connection yet")
        return self._current

    def _end(self) -> None:
        self.ended = True
        self._watch.changed()
