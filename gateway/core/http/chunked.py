"""Strict parsing of chunked framing (RFC 9112 §7.1)."""

import enum
import re

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
# A trailer that frames a body would be read in two ways (RFC 9110 §6.5.1).
_TRAILER = re.compile(
    rb"(?!(?i:content-length|transfer-encoding):)[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n"
)
_LINE_END = b"\r\n"
_SIZE_LINE_BYTES = 18
# The largest signed 64-bit number: other parsers may not read more.
_MAX_SIZE = 2**63 - 1
MAX_TRAILERS = 512


class _Next(enum.Enum):
    SIZE = enum.auto()
    CONTENT = enum.auto()
    CONTENT_END = enum.auto()
    TRAILER = enum.auto()
    NOTHING = enum.auto()


class ChunkedFraming:
    """Finds the end of one chunked body, or what is wrong with it, while its bytes arrive.

    Args:
        extra_bytes: bound of all extensions and trailers of the body together; trailers are also bounded
            in number by `MAX_TRAILERS`.
    """

    def __init__(self, extra_bytes: int = 65_536) -> None:
        self._next = _Next.SIZE
        self._line = b""
        self._remaining_bytes = 0
        self._extra_bytes = extra_bytes
        self._trailers = 0

    @property
    def is_complete(self) -> bool:
        """The whole body, trailers included, has been read."""
        return self._next is _Next.NOTHING

    def feed(self, data: bytes, content: list[bytes] | None = None) -> int | None:
        """Take the next bytes.

        Args:
            data: the bytes.
            content: receives the chunks' data; ``None`` drops it.

        Returns:
            How many of them belong to the body, fewer than all if it ends here; ``None`` for malformed
            framing, after which the object is unusable.
        """
        position = 0
        while position < len(data) and not self.is_complete:
            if self._next is _Next.CONTENT:
                taken = min(self._remaining_bytes, len(data) - position)
                if content is not None:
                    content.append(data[position : position + taken])
                position += taken
                self._remaining_bytes -= taken
                if not self._remaining_bytes:
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
        """Take a whole line; ``False`` when it is not what the state expects."""
        if self._next is _Next.CONTENT_END:
            self._next = _Next.SIZE
            return line == _LINE_END
        if self._next is _Next.SIZE:
            found = _SIZE.fullmatch(line)
            if found is None:
                return False
            self._extra_bytes -= max(0, len(line) - _SIZE_LINE_BYTES)
            self._remaining_bytes = int(found[1], 16)
            self._next = _Next.CONTENT if self._remaining_bytes else _Next.TRAILER
            return self._remaining_bytes <= _MAX_SIZE
        if line == _LINE_END:
            self._next = _Next.NOTHING
            return True
        self._extra_bytes -= len(line)
        self._trailers += 1
        is_within = self._extra_bytes >= 0 and self._trailers <= MAX_TRAILERS
        return is_within and _TRAILER.fullmatch(line) is not None
