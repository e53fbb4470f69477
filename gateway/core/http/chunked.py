"""The framing of a chunked body, read without leniency (RFC 9112 §7.1)."""

from __future__ import annotations

import enum
import re

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
_LINE_END = b"\r\n"
_SIZE_LINE_BYTES = 18
# A reader with 64 bits and a sign can take no more.
_MAX_SIZE = 2**63 - 1
MAX_TRAILERS = 512


class _Next(enum.Enum):
    SIZE = enum.auto()
    CONTENT = enum.auto()
    CONTENT_END = enum.auto()
    TRAILER = enum.auto()
    NOTHING = enum.auto()


class ChunkedFraming:
    """Follows one chunked body as it arrives, to find its end and whatever is wrong with it.

    Args:
        extra_bytes: bound of all extensions and trailers of the body together; there are at most
            `MAX_TRAILERS` of the latter.
    """

    def __init__(self, extra_bytes: int = 65_536) -> None:
        self._next = _Next.SIZE
        self._line = b""
        self._left_bytes = 0
        self._extra_bytes = extra_bytes
        self._trailers = 0

    @property
    def is_complete(self) -> bool:
        """The whole body, trailers included, has come."""
        return self._next is _Next.NOTHING

    def feed(self, data: bytes, content: list[bytes] | None = None) -> int | None:
        """Take the next bytes.

        Args:
            data: they.
            content: gets what the chunks hold; ``None`` leaves it.

        Returns:
            How many of them belong to the body, fewer than all where it has ended; ``None`` when the
            framing is broken, and then nothing more can be said.
        """
        position = 0
        while position < len(data) and not self.is_complete:
            if self._next is _Next.CONTENT:
                taken = min(self._left_bytes, len(data) - position)
                if content is not None:
                    content.append(data[position : position + taken])
                position += taken
                self._left_bytes -= taken
                if not self._left_bytes:
                    self._next = _Next.CONTENT_END
                continue
            end = data.find(b"\n", position) + 1
            line = self._line + data[position : end or len(data)]
            if len(line) > _SIZE_LINE_BYTES + self._extra_bytes:
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
            self._extra_bytes -= max(0, len(line) - _SIZE_LINE_BYTES)
            self._left_bytes = int(found[1], 16)
            self._next = _Next.CONTENT if self._left_bytes else _Next.TRAILER
            return self._left_bytes <= _MAX_SIZE
        if line == _LINE_END:
            self._next = _Next.NOTHING
            return True
        self._extra_bytes -= len(line)
        self._trailers += 1
        is_within = self._extra_bytes >= 0 and self._trailers <= MAX_TRAILERS
        return is_within and _TRAILER.fullmatch(line) is not None
