"""The trace that a request belongs to (W3C Trace Context)."""

import re

import msgspec

from gateway.core.http.messages import Fields, values
from gateway.core.http.signature import signed_fields

_PARENT, _STATE = b"traceparent", b"tracestate"
# Version 00 ends with the flags; a later version may append more (section 3.2.4).
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]*)?"
)
_PARENT_LINE = re.compile(rb"\r\ntraceparent: *([!-~]*) *(?=\r\n)", re.IGNORECASE)
_STATE_LINE = re.compile(rb"\r\ntracestate: *([ -~]*)(?=\r\n)", re.IGNORECASE)
# Section 3.3.1.3.
_MEMBER = re.compile(
    rb"([a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    rb"=([ -+\--<>-~]{0,255}[!-+\--<>-~])"
)
_MAX_MEMBERS = 32
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_SAMPLED, _RANDOM = 1, 2


class Parent(msgspec.Struct, frozen=True, gc=False):
    """The caller's span.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        flags: 1 for sampled, 2 for a random trace id.
    """

    trace_id: bytes
    span_id: bytes
    flags: int


def parent(head: Fields | bytes) -> Parent | None:
    """Return the span named in ``traceparent``; ``None`` without a valid one.

    Args:
        head: field lines, or an unparsed head of plain lines (see `plain_request.plain_fields`).
    """
    lines = _PARENT_LINE.findall(head) if isinstance(head, bytes) else values(head, _PARENT)
    match = _TRACEPARENT.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN:
        return None
    return Parent(match[1], match[2], int(match[3], 16) & (_SAMPLED | _RANDOM))


def state(head: Fields | bytes) -> list[tuple[str, str]]:
    """Return the keys and values of ``tracestate``, none unless all are valid; ``head`` as for `parent`."""
    lines = _STATE_LINE.findall(head) if isinstance(head, bytes) else values(head, _STATE)
    members = [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]
    found = {match[1].decode(): match[2].decode() for match in map(_MEMBER.fullmatch, members) if match}
    # One invalid member invalidates the whole list (section 3.3.1), and so does a repeated key.
    return list(found.items()) if len(found) == len(members) <= _MAX_MEMBERS else []


def continued(fields: Fields, trace_id: int, span_id: int, flags: int) -> Fields:
    """Return the fields to send upstream with one of the gateway's own spans as parent (section 3.4).

    The caller's ``tracestate`` is kept if the trace is the caller's, and removed if the trace begins here.
    Signed fields are never changed. ``flags`` are as in `Parent`.
    """
    signed = signed_fields(fields)
    if _PARENT in signed:
        return fields
    caller = parent(fields)
    is_same_trace = caller is not None and int(caller.trace_id, 16) == trace_id
    replaced = {_PARENT} if is_same_trace else {_PARENT, _STATE} - signed
    own = b"00-%032x-%016x-%02x" % (trace_id, span_id, flags)
    return (*(field for field in fields if field[0].lower() not in replaced), (_PARENT, own))
