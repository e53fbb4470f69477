"""Reads the responses of one connection: bytes in, whole answers out, no I/O (RFC 9112)."""

import re
from typing import Final

import msgspec

from benchmarks.openloop.targets import Target

_MAX_HEAD_BYTES: Final = 262_144
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: |\r)")
_FIELD: Final = re.compile(
    rb"\n(content-length|transfer-encoding|connection|cache-status):[ \t]*([^\r\n]*)", re.IGNORECASE
)
_OURS: Final = re.compile(rb"(?:^|,)[ \t]*aos-gateway((?:;[^,]*)?)(?:,|$)")
_BODILESS: Final = frozenset({204, 304})


class MalformedError(Exception):
    """What came is no HTTP/1.1 response, or more than was asked for."""


class TimedResponse(msgspec.Struct, frozen=True, gc=False):
    """One whole response with its latency, as a check gets it.

    Attributes:
        target: what had been asked for.
        status: its status.
        head: status line and fields as they came.
        body: without its framing; content codings as they came.
        latency_s: since the scheduled time of its request.
    """

    target: Target
    status: int
    head: bytes
    body: bytes
    latency_s: float


class Response(msgspec.Struct, frozen=True, gc=False):
    """One whole response as its connection sees it.

    Attributes:
        status: its status.
        outcome: ``hit``, ``miss``, ``bypass`` or ``none``, from ``Cache-Status``.
        is_collapsed: another request's fetch answered it.
        is_last: the connection takes no further request.
        head: status line and fields as they came.
        body: empty unless it is kept.
    """

    status: int
    outcome: str
    is_collapsed: bool
    is_last: bool
    head: bytes
    body: bytes


def outcome_of(cache_status: bytes) -> tuple[str, bool]:
    """Read ``Cache-Status`` (RFC 9211): the outcome in the gateway's member, and whether it was collapsed.

    Without a member of the gateway's name the last one counts: the cache nearest to the caller.
    """
    if not cache_status:
        return "none", False
    ours = _OURS.search(cache_status)
    member = ours[1] if ours else cache_status.rpartition(b",")[2]
    parameters = [part.strip() for part in member.split(b";")]
    if b"hit" in parameters:
        return "hit", False
    is_collapsed = b"collapsed" in parameters
    if b"fwd=bypass" in parameters or b"fwd=method" in parameters:
        return "bypass", is_collapsed
    return "miss", is_collapsed


class ResponseReader:
    """Reads one response after the other.

    Attributes:
        has_begun: a byte of the response under way has come.
    """

    def __init__(self, *, keeps_body: bool) -> None:
        self._keeps_body = keeps_body
        self._begin()

    def _begin(self) -> None:
        self.has_begun = False
        self._buffer = b""
        self._body: list[bytes] = []
        self._head: tuple[int, str, bool, bool, bytes] | None = None
        # Bytes of the body, or of the chunk with its line end, still to come; None ends with the connection.
        self._missing: int | None = 0
        self._is_chunked = False
        self._is_in_trailer = False

    def feed(self, data: bytes) -> Response | None:
        """Take what came; return the response once it is whole.

        Raises:
            MalformedError: it is not one.
        """
        self.has_begun = True
        if self._head is None:
            # Whole heads come in one piece as a rule: nothing is copied then.
            data = self._buffer + data if self._buffer else data
            is_final = False
            while not is_final:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    if len(data) > _MAX_HEAD_BYTES:
                        raise MalformedError("the head is too long")
                    self._buffer = data
                    return None
                is_final = self._read_head(data[: end + 2])
                data = data[end + 4 :]
            self._buffer = b""
        return self._chunked(data) if self._is_chunked else self._plain(data)

    def end(self) -> Response | None:
        """Take the end of the connection; return the response if that is what completes it."""
        return self._whole() if self._head is not None and self._missing is None else None

    def _read_head(self, head: bytes) -> bool:
        """Read a head; False when it is one of those before the answer proper (1xx)."""
        line = _STATUS_LINE.match(head)
        if line is None:
            raise MalformedError("no status line")
        status = int(line[2])
        if status < 200:
            if status == 101:
                raise MalformedError("switched protocols")
            return False
        length, is_chunked, cache_status = None, False, b""
        is_last = line[1] == b"0"
        for name, value in _FIELD.findall(head):
            match name.lower():
                case b"content-length":
                    if not value.strip().isdigit():
                        raise MalformedError("a length that is no number")
                    length = int(value)
                case b"transfer-encoding":
                    is_chunked = value.strip().lower() == b"chunked"
                    if not is_chunked:
                        raise MalformedError("an unknown transfer coding")
                case b"connection":
                    is_last = is_last or b"close" in value.lower()
                case _:
                    cache_status = cache_status + b", " + value if cache_status else value
        if status in _BODILESS:
            length, is_chunked = 0, False
        self._is_chunked = is_chunked
        self._missing = 0 if is_chunked else length
        outcome, is_collapsed = outcome_of(cache_status.rstrip())
        self._head = (status, outcome, is_collapsed, is_last or (length is None and not is_chunked), head)
        return True

    def _plain(self, data: bytes) -> Response | None:
        self._keep(data)
        if self._missing is None:
            return None
        self._missing -= len(data)
        if self._missing < 0:
            raise MalformedError("more than was asked for")
        return None if self._missing else self._whole()

    def _chunked(self, data: bytes) -> Response | None:
        data = self._buffer + data
        while True:
            if self._missing:
                # A chunk's own line end is the last two bytes of what is missing.
                piece = data[: self._missing]
                self._keep(piece[: max(self._missing - 2, 0)])
                self._missing -= len(piece)
                data = data[len(piece) :]
                if self._missing:
                    self._buffer = b""
                    return None
            line, end, rest = data.partition(b"\r\n")
            if not end:
                if len(data) > _MAX_HEAD_BYTES:
                    raise MalformedError("a chunk's line is too long")
                self._buffer = data
                return None
            data = rest
            if self._is_in_trailer:
                if not line:
                    if data:
                        raise MalformedError("more than was asked for")
                    return self._whole()
                continue
            try:
                size = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                raise MalformedError("a chunk's size that is no number") from None
            self._is_in_trailer = size == 0
            self._missing = size + 2 if size else 0

    def _keep(self, data: bytes) -> None:
        if self._keeps_body and data:
            self._body.append(data)

    def _whole(self) -> Response:
        assert self._head is not None
        status, outcome, is_collapsed, is_last, head = self._head
        response = Response(status, outcome, is_collapsed, is_last, head, b"".join(self._body))
        self._begin()
        return response
