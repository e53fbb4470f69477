"""The framing of a chunked body, read without leniency (RFC 9112 §7.1)."""

from __future__ import annotations

import enum
import re

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
_LINE_END = b"\r\n"
_MAX_LINE_BYTES = 8_192
_MAX_TRAILER_BYTES = 65_536


class _Next(enum.Enum):
    SIZE = enum.auto()
    CONTENT = enum.auto()
    CONTENT_END = enum.auto()
    TRAILER = enum.auto()
    NOTHING = enum.auto()


class ChunkedFraming:
    """Follows one chunked body as it arrives, to find its end and whatever is wrong with it."""

    def __init__(self) -> None:
        self._next = _Next.SIZE
        self._line = b""
        self._left_bytes = 0
        self._trailer_bytes = 0

    @property
    def is_complete(self) -> bool:
        """The whole body, trailers included, has come."""
        return self._next is _Next.NOTHING

    def feed(self, data: bytes) -> int | None:
        """Take the next bytes.

        Returns:
            How many of them belong to the body, fewer than all where it has ended; ``None`` when the
            framing is broken, and then nothing more can be said.
        """
        position = 0
        while position < len(data) and not self.is_complete:
            if self._next is _Next.CONTENT:
                taken = min(self._left_bytes, len(data) - position)
                position += taken
                self._left_bytes -= taken
                if not self._left_bytes:
                    self._next = _Next.CONTENT_END
                continue
            end = data.find(b"\n", position) + 1
            line = self._line + data[position : end or len(data)]
            if len(line) > _MAX_LINE_BYTES:
                return None
            if not end:
                self._line = line
                return len(data)
            self._line = b""
            position = end
            if not self._read_line(line):
                return None
        return position

    def _read_line(self, line: bytes) -> bool:
        """Take a whole line; ``False`` when it is not what must come now."""
        if self._next is _Next.CONTENT_END:
            self._next = _Next.SIZE
            return line == _LINE_END
        if self._next is _Next.SIZE:
            found = _SIZE.fullmatch(line)
            if found is None:
                return False
            self._left_bytes = int(found[1], 16)
            self._next = _Next.CONTENT if self._left_bytes else _Next.TRAILER
            return True
        self._trailer_bytes += len(line)
        if line == _LINE_END:
            self._next = _Next.NOTHING
            return True
        return self._trailer_bytes <= _MAX_TRAILER_BYTES and _TRAILER.fullmatch(line) is not None
