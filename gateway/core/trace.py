"""Which trace a request belongs to (W3C Trace Context)."""

from __future__ import annotations

import re

import msgspec

from gateway.core.messages import Fields, values

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_LINE = re.compile(rb"\r\ntraceparent: *([0-9a-f-]+) *(?=\r\n)", re.IGNORECASE)
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_SAMPLED = 1


class Parent(msgspec.Struct, frozen=True, gc=False):
    """The caller's span.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        is_sampled: the caller may have recorded it.
    """

    trace_id: bytes
    span_id: bytes
    is_sampled: bool


def parent(fields: Fields) -> Parent | None:
    """Return the span that the field ``traceparent`` names; ``None`` when it names none that is valid."""
    given = values(fields, b"traceparent")
    return _read(given[0]) if len(given) == 1 else None


def parent_in(head: bytes) -> Parent | None:
    """Return the same from a head that was not parsed, whose lines are plain (`glance.plain_fields`)."""
    given = _LINE.findall(head)
    return _read(given[0]) if len(given) == 1 else None


def _read(value: bytes) -> Parent | None:
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN:
        return None
    return Parent(match[1], match[2], bool(int(match[3], 16) & _SAMPLED))
