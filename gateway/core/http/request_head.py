"""A request head as its bytes arrive, rejected as early as possible (RFC 9112 §2.2, §3)."""

import re

from gateway.core.http.errors import MessageError
from gateway.core.http.request import MAX_FIELDS, check_line

_END = b"\r\n\r\n"
# Empty lines are allowed before a request line.
_BLANK_LINES = re.compile(rb"(?:\r\n)*")
# Never valid in a head: rejected without waiting for its end.
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")


class RequestHead:
    """Buffers one request head until it is complete.

    A parser needs up to 35 times the bytes of a head, for short fields; so it gets only whole heads that are
    within bounds.

    Args:
        max_bytes: bound of a head, empty lines before it included.

    Attributes:
        size: bytes received, empty lines included.
        is_whole: the head is complete.
    """

    __slots__ = ("_data", "_has_line", "_lines", "_max_bytes", "is_whole", "size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.begin()

    def begin(self) -> None:
        """Start over for the next head."""
        self._data = bytearray()
        self._lines = 0
        self._has_line = False
        self.size = 0
        self.is_whole = False

    def data(self) -> bytes:
        """Return the bytes received, without the empty lines before the request line."""
        return bytes(self._data)

    def method_and_target(self) -> tuple[bytes, bytes]:
        """Return method and target, both empty while the request line is incomplete or if it is malformed."""
        line, end, _ = self.data().partition(b"\n")
        try:
            check_line(line)
        except MessageError:
            return b"", b""
        method, target, _ = line.split(b" ")
        return (method, target) if end else (b"", b"")

    def take(self, data: bytes, start: int) -> int:
        """Take the next bytes.

        Args:
            data: bytes as they were read.
            start: where to begin in them.

        Returns:
            Where this head's bytes end in ``data``.

        Raises:
            MessageError: 505 for another version, 414 or 431 for too much, 400 for anything malformed.
        """
        begun = start
        if self._data == b"\r" and data.startswith(b"\n", start):
            self._data.clear()
            start += 1
        if not self._data and (blank := _BLANK_LINES.match(data, start)) is not None:
            start = blank.end()
        last_three = bytes(self._data[-3:])
        found = (last_three + data[start : start + 3]).find(_END)
        if found >= 0:
            end = start + found + len(_END) - len(last_three)
        else:
            found = data.find(_END, start)
            end = found + len(_END) if found >= 0 else len(data)
        self.is_whole = found >= 0
        self.size += end - begun
        checked = len(self._data)
        self._data += data[start:end]
        self._check(checked)
        return end

    def _check(self, start: int) -> None:
        """Check the bytes from ``start`` on."""
        if not self._has_line:
            line_bytes = self._data.find(b"\n")
            if 0 <= line_bytes <= self._max_bytes:
                self._has_line = True
                check_line(bytes(self._data[:line_bytes]))
        if self.size > self._max_bytes:
            if not self._has_line:
                raise MessageError(414, "The request target is too long.")
            raise MessageError(431, "The request head is too large.")
        self._lines += self._data.count(b"\n", start)
        # Plus the request line and the empty line.
        if self._lines > MAX_FIELDS + 2:
            raise MessageError(431, "The request has too many header fields.")
        if not self.is_whole and _NEVER.search(self._data, max(0, start - 1)):
            raise MessageError(400, "A line has a control character, or does not end in CRLF.")
