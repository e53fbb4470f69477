"""The request line while it comes, judged as soon as it is complete (RFC 9112 §2.2, §3)."""

from __future__ import annotations

import re

from gateway.core.headers import Refusal
from gateway.core.incoming import begun_line_refusal, check_line

# What may stand before a request line, and no other line end may follow it.
_BLANK_LINES = re.compile(rb"((?:\r\n)*)")
_BARE_LINE_END = re.compile(rb"\n|\r[^\n]")


class RequestLine:
    """Follows the head of one request up to the end of its first line.

    Args:
        max_bytes: a longer line is not looked at; the bound of the whole head refuses it.

    Attributes:
        is_complete: what still comes is field lines.
    """

    __slots__ = ("_begun", "_max_bytes", "is_complete")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begun = b""
        self.is_complete = False

    def begin(self) -> None:
        """Wait for the line of the next request."""
        self._begun = b""
        self.is_complete = False

    def take(self, piece: bytes) -> None:
        """Follow the next bytes of a head.

        Raises:
            Refusal: 505 for another version, 400 for anything else that is no request line.
        """
        if self.is_complete:
            return
        begun = _BLANK_LINES.sub(b"", self._begun + piece, count=1)
        if _BARE_LINE_END.match(begun):
            raise Refusal(400, "A line does not end in CRLF.")
        self._begun, newline, _ = begun.partition(b"\n")
        if newline and len(self._begun) <= self._max_bytes:
            self.is_complete = True
            check_line(self._begun)

    def told(self) -> tuple[bytes, bytes]:
        """Return method and target; both are empty until the line is complete, or when it is malformed."""
        try:
            if self.is_complete:
                check_line(self._begun)
                method, target, _ = self._begun.split(b" ")
                return method, target
        except Refusal:
            pass
        return b"", b""

    def too_large(self) -> Refusal:
        """Return how a head beyond its bound is refused: by the part of it that came last."""
        if not self.is_complete:
            return Refusal(414, "The request target is too long.")
        return Refusal(431, "The request head is too large.")

    def refusal(self) -> Refusal | None:
        """Return why a parser refused the line in its middle; ``None`` when the line was not the reason."""
        return begun_line_refusal(self._begun) if self._begun and not self.is_complete else None
