"""Message framing: the end of a body, and heads as bytes (RFC 9112 §6)."""

from __future__ import annotations

import enum

import msgspec

from gateway.core.http.messages import Field, Fields, Head, first


class BodyFraming(enum.Enum):
    """How the end of a body is marked."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class WireHead(msgspec.Struct, frozen=True, gc=False):
    """A response head ready to be written.

    Attributes:
        data: status line and field lines, empty line included.
        framing: how the body that follows must be framed.
        keep_alive: the connection may carry another request.
    """

    data: bytes
    framing: BodyFraming
    keep_alive: bool


_BODILESS_STATUSES = frozenset({204, 304})


def has_body(method: str, status: int) -> bool:
    """Tell whether a response to this method with this status has a body (RFC 9110 §6.4.1)."""
    return method != "HEAD" and status not in _BODILESS_STATUSES


def wire_head(
    head: Head, *, method: str, body_bytes: int | None, http_11: bool, keep_alive: bool
) -> WireHead:
    """Add framing and connection fields to a head.

    Args:
        head: status and end-to-end fields; a Content-Length among them is trusted.
        method: of the request.
        body_bytes: length of the whole body; ``None`` when it is streamed.
        http_11: the caller speaks HTTP/1.1, so it understands chunks.
        keep_alive: the connection may carry another request after this one.
    """
    added: list[Field] = []
    framing = BodyFraming.NONE
    if has_body(method, head.status):
        if first(head.fields, b"content-length") is not None:
            framing = BodyFraming.LENGTH
        elif body_bytes is not None:
            framing = BodyFraming.LENGTH
            added.append((b"Content-Length", b"%d" % body_bytes))
        elif http_11:
            framing = BodyFraming.CHUNKED
            added.append((b"Transfer-Encoding", b"chunked"))
        else:
            framing = BodyFraming.CLOSE
            keep_alive = False
    if not keep_alive:
        added.append((b"Connection", b"close"))
    elif not http_11:
        added.append((b"Connection", b"keep-alive"))
    whole = Head(head.status, head.reason, (*head.fields, *added))
    return WireHead(head_lines(whole) + b"\r\n", framing, keep_alive)


def request_bytes(method: str, target: bytes, fields: Fields, body_bytes: int | None) -> bytes:
    """Return the bytes of an upstream request head.

    Args:
        method: the method token.
        target: path and query as they go upstream.
        fields: from `proxy_identity.upstream_fields`; a Content-Length in it is kept as it is.
        body_bytes: length of the body, 0 for none; ``None`` sends chunks.
    """
    lines = [method.encode("ascii") + b" " + target + b" HTTP/1.1"]
    lines.extend([b"%b: %b" % field for field in fields])
    if body_bytes is None:
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def response_framing(head: Head, method: str) -> BodyFraming:
    """Return how the body of a sound upstream response ends (RFC 9112 §6.3)."""
    if not has_body(method, head.status):
        return BodyFraming.NONE
    if first(head.fields, b"transfer-encoding") is not None:
        return BodyFraming.CHUNKED
    if first(head.fields, b"content-length") is not None:
        return BodyFraming.LENGTH
    return BodyFraming.CLOSE


def content_length(head: Head) -> int | None:
    """Return the Content-Length of a sound head, in bytes; ``None`` without one."""
    value = first(head.fields, b"content-length")
    return None if value is None else int(value)


def head_bytes(method: str, target: bytes, fields: Fields) -> int:
    """Return the size of a request head on the wire, in bytes."""
    line = len(method) + len(target) + len("  HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(": \r\n") for name, value in fields) + len("\r\n")


def head_lines(head: Head) -> bytes:
    """Return status line and field lines, each with CRLF, without the empty line."""
    lines = [b"HTTP/1.1 %d " % head.status + head.reason]
    lines.extend([b"%b: %b" % field for field in head.fields])
    return b"\r\n".join(lines) + b"\r\n"
