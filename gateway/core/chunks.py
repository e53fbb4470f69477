"""What chunks may cost beside their data: sizes, extensions and trailers have bounds (RFC 9112 §7.1)."""

from __future__ import annotations

from gateway.core.headers import Refusal
from gateway.core.incoming import MAX_FIELDS

_MAX_DIGITS = 16
# Below 2**63, so that no server can read the size as a negative or a small one.
_LEAST_TOO_MANY_BYTES = 1 << 63
_CRLF_BYTES = 2
# A size line without extension never counts, so that many small chunks are only as costly as their data.
_PLAIN_LINE_BYTES = _MAX_DIGITS + _CRLF_BYTES


class ChunkBounds:
    """Follows the chunks of one body and refuses what the parser would take without bound.

    The parser says whether chunks are well-formed; it counts neither extensions nor trailers, and it waits
    for the data of any size that fits into 64 bits.

    Args:
        max_bytes: bound of all extensions and trailers of the body together.
    """

    __slots__ = ("_data_bytes", "_fields", "_is_trailer", "_left_bytes", "_line_bytes", "_start")

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes = max_bytes
        # Of the present chunk, with the line end behind it, still to come.
        self._data_bytes = 0
        # The present line: how long it is so far, and as much of it as a size can take.
        self._line_bytes = 0
        self._start = b""
        self._is_trailer = False
        self._fields = 0

    def take(self, piece: bytes) -> None:
        """Follow the next bytes of a body.

        Args:
            piece: bytes as received, cut anywhere.

        Raises:
            Refusal: 400, more than there may be.
        """
        position = 0
        while position < len(piece):
            if self._data_bytes:
                step = min(self._data_bytes, len(piece) - position)
                self._data_bytes -= step
                position += step
                continue
            found = piece.find(b"\n", position)
            end = len(piece) if found < 0 else found + 1
            self._take_line(piece[position : min(end, position + _PLAIN_LINE_BYTES)], end - position)
            if found >= 0:
                self._end_line()
            position = end

    def _take_line(self, start: bytes, length: int) -> None:
        self._start = (self._start + start)[:_PLAIN_LINE_BYTES]
        free = 0 if self._is_trailer else _PLAIN_LINE_BYTES
        before = max(0, self._line_bytes - free)
        self._line_bytes += length
        self._left_bytes -= max(0, self._line_bytes - free) - before
        if self._left_bytes < 0:
            raise Refusal(400, "The chunk extensions or trailers of the body are too large.")

    def _end_line(self) -> None:
        start, self._start, self._line_bytes = self._start, b"", 0
        if self._is_trailer:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise Refusal(400, "The body has too many trailers.")
            return
        digits = start.partition(b";")[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            # The parser refuses it, and with it all that follows.
            size = 0
        if len(digits) > _MAX_DIGITS or size >= _LEAST_TOO_MANY_BYTES:
            raise Refusal(400, "A chunk of the body is larger than any can be.")
        self._is_trailer = size == 0
        self._data_bytes = size + _CRLF_BYTES if size > 0 else 0
