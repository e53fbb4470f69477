"""A request head while it comes, judged as early as that can be done (RFC 9112 §2.2, §3)."""

from __future__ import annotations

import re

from gateway.core.http.errors import MessageError
from gateway.core.http.request import MAX_FIELDS, check_line

_END = b"\r\n\r\n"
# Empty lines may stand before a request line.
_BLANK_LINES = re.compile(rb"(?:\r\n)*")
# No head has these; who sends them need not send its end to be told.
_NEVER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|\Z)|(?<!\r)\n")


class RequestHead:
    """Keeps one request head as it comes, until a parser can have it whole.

    A parser makes many times its bytes of a head: 35 times of short fields. So it is given none that is not
    complete, and none that is out of bounds.

    Args:
        max_bytes: bound of a head, with the empty lines before it.

    Attributes:
        size: bytes that have come, with the empty lines.
        is_whole: its end has come.
    """

    __slots__ = ("_data", "_has_line", "_lines", "_max_bytes", "is_whole", "size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.begin()

    def begin(self) -> None:
        """Let go of this head and wait for the next one."""
        self._data = bytearray()
        self._lines = 0
        self._has_line = False
        self.size = 0
        self.is_whole = False

    def data(self) -> bytes:
        """Return what has come, without the empty lines before it."""
        return bytes(self._data)

    def told(self) -> tuple[bytes, bytes]:
        """Return method and target; both are empty until the line is complete, or when it is malformed."""
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
            start: where they have not been taken yet.

        Returns:
            Where the bytes of this head end.

        Raises:
            Refusal: 505 for another version, 414 or 431 for too much, 400 for anything else that is no head.
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
        judged = len(self._data)
        self._data += data[start:end]
        self._decide_store(judged)
        return end

    def _decide_store(self, start: int) -> None:
        """Look at what has come since."""
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
        # Beside the fields there are the request line and the empty one.
        if self._lines > MAX_FIELDS + 2:
            raise MessageError(431, "The request has too many header fields.")
        if not self.is_whole and _NEVER.search(self._data, max(0, start - 1)):
            raise MessageError(400, "A line has a control character, or does not end in CRLF.")
