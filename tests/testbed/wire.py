"""Strict reading of raw HTTP/1.1, used by the scripted AOS and by the raw client (RFC 9112)."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

Field = tuple[bytes, bytes]

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PIECE_BYTES = 65536
_LINE_BYTES = 65536
_TRAILERS = 100


class MalformedMessage(Exception):
    """The peer broke the rules of HTTP/1.1."""


class ConnectionCut(Exception):
    """The connection ended in the middle of a message.

    Attributes:
        partial: what had come of the part that was being read.
    """

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"the connection ended after {len(partial)} bytes of an unfinished part")
        self.partial = partial


class Wire:
    """A stream with a look-ahead buffer, so that head, body and the next message share it."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = bytearray()

    async def fill(self) -> bool:
        """Read what is there; False when the peer has ended."""
        piece = await self._reader.read(_PIECE_BYTES)
        self._buffer += piece
        return bool(piece)

    async def at_end(self) -> bool:
        """Wait for a byte or the end; True when the peer has ended and nothing is left to read."""
        return not self._buffer and not await self.fill()

    async def until(self, marker: bytes, max_bytes: int) -> bytes:
        """Read up to and with the marker.

        Raises:
            ConnectionCut: the end came first.
            MalformedMessage: more than max_bytes without the marker.
        """
        searched = 0
        while (found := self._buffer.find(marker, searched)) < 0:
            if len(self._buffer) > max_bytes:
                raise MalformedMessage(f"no {marker!r} within {max_bytes} bytes")
            searched = max(0, len(self._buffer) - len(marker) + 1)
            if not await self.fill():
                raise ConnectionCut(self._take(len(self._buffer)))
        return self._take(found + len(marker))

    async def some(self, max_bytes: int = _PIECE_BYTES) -> bytes:
        """Read at least one byte and at most max_bytes; b"" at the end."""
        if await self.at_end():
            return b""
        return self._take(max_bytes)

    async def exactly(self, count: int) -> bytes:
        """Read exactly this many bytes, or raise ConnectionCut."""
        while len(self._buffer) < count:
            if not await self.fill():
                raise ConnectionCut(self._take(len(self._buffer)))
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def values(fields: Sequence[Field], name: str | bytes) -> list[bytes]:
    """All values of a header field, in order; names compare without case."""
    wanted = (name.encode("latin-1") if isinstance(name, str) else name).lower()
    return [value for key, value in fields if key.lower() == wanted]


def only_value(fields: Sequence[Field], name: str | bytes) -> bytes | None:
    """The one value of a header field; None when it is absent.

    Raises:
        ValueError: the field stands there more than once, and one of them would be a guess.
    """
    found = values(fields, name)
    if len(found) > 1:
        raise ValueError(f"{name!r} stands there {len(found)} times: use all()")
    return found[0] if found else None


def split_head(raw_head: bytes) -> tuple[bytes, list[Field]]:
    """Take a raw head apart into its first line and its fields.

    Args:
        raw_head: from the first byte to the blank line, with it.

    Returns:
        The first line, and the fields in order with their case; values without outer blanks.

    Raises:
        MalformedMessage: bare CR or LF, a folded line, a bad name or value.
    """
    start, *lines = raw_head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if not _VALUE.fullmatch(start):
        raise MalformedMessage(f"bad character in the first line {start[:80]!r}")
    return start, [_field(line) for line in lines]


def _field(line: bytes) -> Field:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name):
        raise MalformedMessage(f"bad field name in {line[:80]!r}")
    if not _VALUE.fullmatch(value):
        raise MalformedMessage(f"bad character in the value of {name!r}")
    return name, value.strip(b" \t")


@dataclass
class Body:
    """A message body as it came, growing while it is read.

    Attributes:
        data: the content, without framing.
        raw: the content with its chunk framing and trailers.
        chunk_sizes: sizes of the chunks; empty when the body was not chunked.
        chunk_extensions: what stood behind each size, from the semicolon on.
        trailers: the trailer fields, in order.
        complete: whether the framing has said that this is all.
    """

    data: bytearray = field(default_factory=bytearray)
    raw: bytearray = field(default_factory=bytearray)
    chunk_sizes: list[int] = field(default_factory=list)
    chunk_extensions: list[bytes] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)
    complete: bool = False


class Message:
    """What a received request and a received response have in common.

    Attributes:
        headers: fields in order, names in their case, values without outer blanks.
        framing: the body with its chunks and trailers.
    """

    headers: list[Field]
    framing: Body

    @property
    def body(self) -> bytes:
        """The content read so far, without chunk framing."""
        return bytes(self.framing.data)

    @property
    def trailers(self) -> list[Field]:
        """The trailer fields of a chunked body, in order."""
        return self.framing.trailers

    def get(self, name: str | bytes) -> bytes | None:
        """The one value of a field, None when absent; ValueError when it stands there twice."""
        return only_value(self.headers, name)

    def all(self, name: str | bytes) -> list[bytes]:
        """All values of a field, in order."""
        return values(self.headers, name)

    def names(self) -> list[bytes]:
        """The field names in order, in their case."""
        return [name for name, _ in self.headers]


class BodyReader:
    """Reads one body piece by piece, by Content-Length, by chunks or to the end of the connection."""

    def __init__(self, wire: Wire, fields: Sequence[Field], *, unframed_to_end: bool, max_bytes: int) -> None:
        """Choose the framing from the fields.

        Args:
            wire: the connection, standing behind the head.
            fields: the head's fields.
            unframed_to_end: True reads a body without framing to the end of the connection (responses),
                False takes it for empty (requests).
            max_bytes: the largest content that is accepted.

        Raises:
            MalformedMessage: framing fields that contradict each other or can't be read.
        """
        self.body = Body()
        self._wire = wire
        self._max_bytes = max_bytes
        lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
        self.chunked = bool(codings)
        self._left: int | None = 0
        if codings:
            if lengths or [coding.lower() for coding in codings] != [b"chunked"]:
                raise MalformedMessage(
                    f"bad framing: Transfer-Encoding {codings!r}, Content-Length {lengths!r}"
                )
        elif lengths:
            if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
                raise MalformedMessage(f"bad Content-Length {lengths!r}")
            self._left = int(lengths[0])
            self.body.complete = self._left == 0
        else:
            self._left = None if unframed_to_end else 0
            self.body.complete = not unframed_to_end

    async def all(self) -> Body:
        """Read what is left of the body and return the whole."""
        while not self.body.complete:
            await self.more()
        return self.body

    async def more(self) -> None:
        """Read the next piece.

        Raises:
            ConnectionCut: the connection ended before the body did.
            MalformedMessage: bad chunk framing, or too large.
        """
        if self.chunked and not self._left:
            await self._chunk_head()
            return
        piece = await self._wire.some(_PIECE_BYTES if self._left is None else self._left)
        if not piece and self._left is not None:
            raise ConnectionCut(bytes(self.body.data))
        self.body.data += piece
        self.body.raw += piece
        if len(self.body.data) > self._max_bytes:
            raise MalformedMessage(f"body of more than {self._max_bytes} bytes")
        if self._left is None:
            self.body.complete = not piece
            return
        self._left -= len(piece)
        if self._left == 0 and self.chunked:
            end = await self._wire.exactly(2)
            self.body.raw += end
            if end != b"\r\n":
                raise MalformedMessage(f"a chunk ends in {end!r}")
        elif self._left == 0:
            self.body.complete = True

    async def _chunk_head(self) -> None:
        line = await self._line()
        size, semicolon, extension = line.partition(b";")
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size):
            raise MalformedMessage(f"bad chunk size {line[:40]!r}")
        self._left = int(size, 16)
        if self._left:
            self.body.chunk_sizes.append(self._left)
            self.body.chunk_extensions.append(semicolon + extension)
            return
        while trailer := await self._line():
            self.body.trailers.append(_field(trailer))
            if len(self.body.trailers) > _TRAILERS:
                raise MalformedMessage(f"more than {_TRAILERS} trailers")
        self.body.complete = True

    async def _line(self) -> bytes:
        line = await self._wire.until(b"\r\n", _LINE_BYTES)
        self.body.raw += line
        return line[:-2]
