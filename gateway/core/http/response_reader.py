"""Strict parsing of one upstream response as its bytes arrive (RFC 9112 §4 to §8)."""

import re
import string

from gateway.core.http.chunked import ChunkedFraming
from gateway.core.http.framing import BodyFraming, has_body
from gateway.core.http.messages import Head, IndexedFields, members, values

MAX_HEAD_BYTES = 65_536
_MAX_FIELDS = 256
_MAX_INTERIM = 16
_HEAD_END = b"\r\n\r\n"
_VERSION = b"HTTP/1."
_STATUS = slice(9, 12)
_SWITCHING_PROTOCOLS = b"101"
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}(?: .*)?")
# What may stand in a line (RFC 9112 §4, RFC 9110 §5.5), and in a name (§5.6.2).
_TEXT = bytes({*range(0x20, 0x100), 0x09} - {0x7F})
_TOKEN = b"!#$%&'*+-.^_`|~" + string.digits.encode() + string.ascii_letters.encode()
_BARE_LF = re.compile(rb"(?<!\r)\n")
_LENGTH_DIGITS = 18


class ResponseError(Exception):
    """The bytes are not a response that can be read in one way only.

    Attributes:
        proxy_error: its ``Proxy-Status`` error type (RFC 9209 §2.3).
    """

    def __init__(self, proxy_error: str) -> None:
        super().__init__(proxy_error)
        self.proxy_error = proxy_error


class ResponseReader:
    """Reads one final response; interim ones before it are dropped (RFC 9110 §15.2).

    Args:
        method: of the request.

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

    def __init__(self, method: str) -> None:
        self._method = method
        self._held = bytearray()
        self._interim = 0
        self._remaining_bytes = 0
        self._chunks: ChunkedFraming | None = None
        self._is_persistent = False
        self.head: Head | None = None
        self.framing = BodyFraming.NONE
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
        if self.framing is not BodyFraming.CLOSE or not is_clean:
            raise ResponseError("http_response_incomplete")
        self.is_complete = True

    def _take_heads(self, data: bytes) -> bytes:
        """Read heads up to the final one, and return the bytes after it."""
        held = self._held
        searched = 0
        if held:
            searched = max(0, len(held) - len(_HEAD_END) + 1)
            held += data
            data = b""
            if held.find(_HEAD_END, searched) >= 0:
                data = bytes(held)
                held.clear()
        while (found := data.find(_HEAD_END, searched)) >= 0:
            end = found + len(_HEAD_END)
            head, data = data[:end], data[end:]
            searched = 0
            if self._read_head(head):
                return data
            self._interim += 1
            if self._interim > _MAX_INTERIM or head[_STATUS] == _SWITCHING_PROTOCOLS:
                raise ResponseError("http_protocol_error")
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
        status_line, *lines = raw[: -len(_HEAD_END)].split(b"\r\n")
        try:
            fields = IndexedFields(
                [(name, value.strip(b" \t")) for name, value in [line.split(b":", 1) for line in lines]]
            )
        except ValueError:
            raise ResponseError("http_protocol_error") from None
        if (
            len(raw) > MAX_HEAD_BYTES
            or len(lines) > _MAX_FIELDS
            or _STATUS_LINE.fullmatch(status_line) is None
            # Nothing but whole lines: no bare CR or LF (RFC 9112 §2.2), no folding (§5.2).
            or raw.translate(None, _TEXT) != b"\r\n" * (len(lines) + 2)
            or b"".join(fields.by_name).translate(None, _TOKEN)
            or b"" in fields.by_name
        ):
            raise ResponseError("http_protocol_error")
        status = int(raw[_STATUS])
        if status < 200:
            return False
        head = Head(status, status_line[_STATUS.stop + 1 :], fields)
        is_http_10 = raw.startswith(b"HTTP/1.0")
        self._is_persistent = not is_http_10
        if b"connection" in fields.by_name:
            options = [option.lower() for option in members(fields, b"connection")]
            self._is_persistent = b"keep-alive" in options if is_http_10 else b"close" not in options
        length, is_chunked = _declared(status, fields, is_http_10=is_http_10)
        self.head = head
        if not has_body(self._method, status):
            self.is_complete = True
        elif is_chunked:
            self.framing = BodyFraming.CHUNKED
            self._chunks = ChunkedFraming()
        elif length is None:
            self.framing = BodyFraming.CLOSE
        else:
            self.framing = BodyFraming.LENGTH
            self._remaining_bytes = length
            self.is_complete = not length
        return True

    def _take_body(self, data: bytes) -> None:
        if self.is_complete:
            if self.framing is BodyFraming.NONE and self._method != "HEAD":
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
        elif self.framing is BodyFraming.LENGTH:
            self._append(data[: self._remaining_bytes])
            self._is_persistent &= len(data) <= self._remaining_bytes
            self._remaining_bytes = max(0, self._remaining_bytes - len(data))
            self.is_complete = not self._remaining_bytes
        else:
            self._append(data)

    def _append(self, piece: bytes) -> None:
        self.content.append(piece)
        self.waiting_bytes += len(piece)


def _declared(status: int, fields: IndexedFields, *, is_http_10: bool) -> tuple[int | None, bool]:
    """Return the declared length of a body, and whether it comes in chunks (RFC 9112 §6).

    Raises:
        ResponseError: the body could end in two places.
    """
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    if (
        len(lengths) > 1
        or (lengths and not (lengths[0].isdigit() and len(lengths[0]) <= _LENGTH_DIGITS))
        or (codings and (lengths or is_http_10))
    ):
        raise ResponseError("http_protocol_error")
    length = int(lengths[0]) if lengths else None
    if status == 204 and (codings or length):
        raise ResponseError("http_protocol_error")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise ResponseError("http_response_transfer_coding")
    return length, bool(codings)
