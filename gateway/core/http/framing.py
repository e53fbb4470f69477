"""Message framing: the end of a body, and heads as bytes (RFC 9112 §6)."""

import enum

from gateway.core.http.messages import Fields, Head


class BodyFraming(enum.Enum):
    """How the end of a body is marked."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


_LENGTH = frozenset({b"content-length"})
_BODILESS_STATUSES = frozenset({204, 304})


def has_body(method: str, status: int) -> bool:
    """Tell whether a response to this method with this status has a body (RFC 9110 §6.4.1)."""
    return method != "HEAD" and status not in _BODILESS_STATUSES


def wire_head(
    head: Head, *, method: str, body_bytes: int | None, http_11: bool, keep_alive: bool
) -> tuple[bytes, BodyFraming, bool]:
    """Add framing and connection fields to a head.

    Args:
        head: status and end-to-end fields; a Content-Length among them is trusted.
        method: of the request.
        body_bytes: length of the whole body; ``None`` when it is streamed.
        http_11: the caller speaks HTTP/1.1, so it understands chunks.
        keep_alive: the connection may carry another request after this one.

    Returns:
        All lines with the empty one; how the body must be framed; and ``keep_alive``, unless the connection's
        end is the body's.
    """
    data = head.lines()
    framing = BodyFraming.NONE
    if has_body(method, head.status):
        if head.has_any(_LENGTH):
            framing = BodyFraming.LENGTH
        elif body_bytes is not None:
            framing = BodyFraming.LENGTH
            data += b"Content-Length: %d\r\n" % body_bytes
        elif http_11:
            framing = BodyFraming.CHUNKED
            data += b"Transfer-Encoding: chunked\r\n"
        else:
            framing = BodyFraming.CLOSE
            keep_alive = False
    if not keep_alive:
        data += b"Connection: close\r\n"
    elif not http_11:
        data += b"Connection: keep-alive\r\n"
    return data + b"\r\n", framing, keep_alive


def whole_response(head: Head, body: bytes) -> bytes:
    """Return the response to a GET over HTTP/1.1 whose connection goes on, framed as by `wire_head`."""
    if head.status in _BODILESS_STATUSES:
        return head.lines() + b"\r\n"
    length = b"" if head.has_any(_LENGTH) else b"Content-Length: %d\r\n" % len(body)
    return b"".join((head.lines(), length, b"\r\n", body))


def request_bytes(method: str, target: bytes, lines: bytes, body_bytes: int | None) -> bytes:
    """Return the bytes of an upstream request head.

    Args:
        method: the method token.
        target: path and query as they go upstream.
        lines: field lines from `proxy_identity.upstream_fields`; a Content-Length in it is kept as it is.
        body_bytes: length of the body, 0 for none; ``None`` sends chunks.
    """
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if body_bytes is None else b"\r\n"
    # Joined: half the price of formatting.
    return b"".join((method.encode("ascii"), b" ", target, b" HTTP/1.1\r\n", lines, framing))


def head_bytes(method: str, target: bytes, fields: Fields) -> int:
    """Return the size of a request head on the wire, in bytes."""
    line = len(method) + len(target) + len("  HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in fields) + len("\r\n")
