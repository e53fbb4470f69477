"""Which target is the execution call, and which stacks a write touches."""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote_to_bytes

import msgspec

_ID = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_ONLY_DOTS = re.compile(rb"\.+")
_EXECUTION_PATH = re.compile(rb"/v2/stacks/([^/?]*)/actions/([^/?]*)")
_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*")
_ABSOLUTE_TARGET = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)(.*)")
# Deeper nesting of percent-encodings than this is not something an upstream undoes.
_DECODE_ROUNDS = 8
_SEGMENT_END = re.compile(rb"[?#;]")

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CACHEABLE_METHODS = frozenset({"GET", "HEAD"})
METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})


class Execution(msgspec.Struct, frozen=True, gc=False):
    """The execution call of a target.

    Attributes:
        stack_id: raw id as it stands in the path.
        action_id: raw id as it stands in the path; the record's ``metadata.name``.
        has_query: a ``?`` follows, even with nothing behind it.
    """

    stack_id: bytes
    action_id: bytes
    has_query: bool


def origin_form(target: bytes) -> tuple[bytes, bytes | None] | None:
    """Reduce a request target to origin-form (RFC 9112 §3.2).

    Returns:
        The target from the path on and the authority of an absolute-form target (``None`` for
        origin-form); ``None`` for anything else: authority-form, ``*``, fragments, non-ASCII.
    """
    authority: bytes | None = None
    if absolute := _ABSOLUTE_TARGET.fullmatch(target):
        authority = absolute[1]
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    return (target, authority) if _TARGET.fullmatch(target) else None


def execution(target: bytes) -> Execution | None:
    """Return the execution a target names, or ``None`` when it is any other call.

    ``GET /v2/stacks/{stack_id}/actions/{action_id}`` of the AOS API; ids that could mean anything
    else after decoding or dot removal are left to AOS.
    """
    path, mark, _ = target.partition(b"?")
    match = _EXECUTION_PATH.fullmatch(path)
    if match is None or not (_is_id(match[1]) and _is_id(match[2])):
        return None
    return Execution(match[1], match[2], bool(mark))


def fold(stack_id: bytes) -> bytes:
    """Return the form of a stack id under which forgetting works: case folded."""
    return stack_id.lower()


def is_write(method: str, field_names: frozenset[bytes]) -> bool:
    """Tell whether a request may change a stack.

    Args:
        method: the method token.
        field_names: names of the request's fields, lower case.
    """
    if method not in READING_METHODS:
        return True
    return any(name.replace(b"_", b"-") in METHOD_OVERRIDES for name in field_names)


def written_stacks(target: bytes) -> frozenset[bytes]:
    """Return the case-folded ids of every stack a write to this target may touch.

    An upstream may decode, merge slashes and remove dots before it routes, in any combination;
    so every id behind a segment ``stacks`` counts, in each of these forms. Ids that no stored
    entry can have are left out. Empty when the target names no stack.
    """
    found: set[bytes] = set()
    for path in _forms(target.partition(b"?")[0]):
        segments = [segment for segment in path.split(b"/") if segment]
        found.update(_ids_after_stacks(segments))
        found.update(_ids_after_stacks(_without_dots(segments)))
    return frozenset(found)


def _is_id(raw: bytes) -> bool:
    return _ID.fullmatch(raw) is not None and _ONLY_DOTS.fullmatch(raw) is None


def _forms(path: bytes) -> list[bytes]:
    forms = [path.lower()]
    decoded = path
    for _ in range(_DECODE_ROUNDS):
        further = unquote_to_bytes(decoded)
        if further == decoded:
            break
        decoded = further
        forms.append(decoded.lower().replace(b"\\", b"/"))
    return forms


def _without_dots(segments: list[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return kept


def _ids_after_stacks(segments: list[bytes]) -> set[bytes]:
    names = [_SEGMENT_END.split(segment, maxsplit=1)[0] for segment in segments]
    return {
        identifier
        for before, identifier in itertools.pairwise(names)
        if before == b"stacks" and _is_id(identifier)
    }
