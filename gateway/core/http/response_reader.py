"""Strict parsing of one upstream response as its bytes arrive (RFC 9112 §4 to §8)."""

import re

from gateway.core.http.chunked import ChunkedFraming
from gateway.core.http.framing import BodyFraming, has_body
from gateway.core.http.messages import Head
from gateway.core.http.response_head import HEAD_END, MAX_HEAD_BYTES, STATUS, HeadReader, ResponseError

_MAX_INTERIM = 16
_VERSION = b"HTTP/1."
_SWITCHING_PROTOCOLS = b"101"
_BARE_LF = re.compile(rb"(?<!\r)\n")
# Before Python 3.12 looking up a member costs more than two calls of a function.
_NONE, _LENGTH, _CHUNKED, _CLOSE = BodyFraming


class ResponseReader:
    """Reads one final response; interim ones before it are dropped (RFC 9110 §15.2).

    Args:
        method: of the request.
        heads: reads the heads of one upstream; ``None`` for a reader of its own.

    Attributes:
        head: of the final response; ``None`` until it is complete.
        framing: how its body ends; valid once there is a head.
        received: bytes fed so far.
        content: pieces of the body, without framing, that have not been taken yet.
        waiting_bytes: their length together.
        is_complete: the response is complete.
    """

    __slots__ = (
        "_chunks",
        "_heads",
        "_held",
        "_interim",
        "_is_persistent",
        "_method",
        "_remaining_bytes",
        "content",
        "framing",
        "head",
        "is_complete",
        "received",
        "waiting_bytes",
    )

    def __init__(self, method: str, heads: HeadReader | None = None) -> None:
        self._method = method
        self._heads = HeadReader() if heads is None else heads
        self._held: bytearray | None = None
        self._interim = 0
        self._remaining_bytes = 0
        self._chunks: ChunkedFraming | None = None
        self._is_persistent = False
        self.head: Head | None = None
        self.framing = _NONE
        self.received = 0
        self.content: list[bytes] = []
        self.waiting_bytes = 0
        self.is_complete = False

    @property
    def is_in_head(self) -> bool:
        """A head has begun that is not whole yet."""
        return bool(self._held)

    @property
    def is_reusable(self) -> bool:
        """Exactly one response was received, and the connection may be reused (RFC 9112 §9.3)."""
        return self.is_complete and self._is_persistent

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Raises:
            ResponseError: malformed; the reader is unusable afterwards.
        """
        self.received += len(data)
        if self.head is None:
            data = self._take_heads(data)
        if data:
            self._take_body(data)

    def take(self) -> bytes:
        """Return the bytes of the body received since the last call."""
        content = self.content
        data = content[0] if len(content) == 1 else b"".join(content)
        content.clear()
        self.waiting_bytes = 0
        return data

    def feed_eof(self, *, is_clean: bool) -> None:
        """Take the end of the connection.

        Args:
            is_clean: closed by the upstream; false for a reset, which never completes a body.

        Raises:
            ResponseError: the response is incomplete.
        """
        self._is_persistent = False
        if self.is_complete:
            return
        if self.head is None:
            raise ResponseError("connection_terminated")
        if self.framing is not _CLOSE or not is_clean:
            raise ResponseError("http_response_incomplete")
        self.is_complete = True

    def _take_heads(self, data: bytes) -> bytes:
        """Read heads up to the final one, and return the bytes after it."""
        held = self._held
        searched = 0
        if held:
            searched = max(0, len(held) - len(HEAD_END) + 1)
            held += data
            data = b""
            if held.find(HEAD_END, searched) >= 0:
                data = bytes(held)
                held.clear()
        while (found := data.find(HEAD_END, searched)) >= 0:
            end = found + len(HEAD_END)
            head, data = data[:end], data[end:]
            searched = 0
            if self._read_head(head):
                return data
            self._interim += 1
            if self._interim > _MAX_INTERIM or head[STATUS] == _SWITCHING_PROTOCOLS:
                raise ResponseError("http_protocol_error")
        if held is None:
            held = self._held = bytearray()
        held += data
        # Reject what can't become a valid head without waiting for its end.
        if (
            len(held) > MAX_HEAD_BYTES
            or not _VERSION.startswith(held[: len(_VERSION)])
            or _BARE_LF.search(held, searched)
        ):
            raise ResponseError("http_protocol_error")
        return b""

    def _read_head(self, raw: bytes) -> bool:
        """Read a whole head; ``False`` for an interim one."""
        head, (length, is_chunked, self._is_persistent) = self._heads.read(raw)
        if head.status < 200:
            return False
        self.head = head
        if not has_body(self._method, head.status):
            self.is_complete = True
        elif is_chunked:
            self.framing = _CHUNKED
            self._chunks = ChunkedFraming()
        elif length is None:
            self.framing = _CLOSE
        else:
            self.framing = _LENGTH
            self._remaining_bytes = length
            self.is_complete = not length
        return True

    def _take_body(self, data: bytes) -> None:
        remaining = self._remaining_bytes
        if remaining > 0:
            self._append(data[:remaining])
            self._remaining_bytes = remaining = remaining - len(data)
            if remaining <= 0:
                self.is_complete = True
                self._is_persistent &= not remaining
        elif self.is_complete:
            if self.framing is _NONE and self._method != "HEAD":
                raise ResponseError("http_protocol_error")
            self._is_persistent = False
        elif self._chunks is not None:
            pieces: list[bytes] = []
            taken = self._chunks.feed(data, pieces)
            if taken is None:
                raise ResponseError("http_response_incomplete")
            if pieces:
                self._append(b"".join(pieces))
            self.is_complete = self._chunks.is_complete
            # Bytes after the response were not asked for: the connection must not be reused.
            self._is_persistent &= taken == len(data)
        else:
            self._append(data)

    def _append(self, piece: bytes) -> None:
        self.content.append(piece)
        self.waiting_bytes += len(piece)
