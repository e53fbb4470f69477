"""Which target is the execution call, and which stacks a write touches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import msgspec

_ID = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_ONLY_DOTS = re.compile(rb"\.+")
_EXECUTION_PATH = re.compile(rb"/v2/stacks/([^/?]*)/actions/([^/?]*)")
# More forms of one path than this only someone who hides something can need, and a deeper nesting
# of percent-encodings is not something an upstream undoes.
_MAX_FORMS = 64
_DECODE_ROUNDS = 8

_STACKS = b"/v2/stacks"


class ExecutionRef(msgspec.Struct, frozen=True, gc=False):
    """The execution call of a target.

    Attributes:
        stack_id: raw id as it stands in the path.
        action_id: raw id as it stands in the path; the record's ``metadata.name``.
        has_query: a ``?`` follows, even with nothing behind it.
    """

    stack_id: bytes
    action_id: bytes
    has_query: bool


def execution(target: bytes) -> ExecutionRef | None:
    """Return the execution a target names, or ``None`` when it is any other call.

    ``GET /v2/stacks/{stack_id}/actions/{action_id}`` of the AOS API; ids that could mean anything
    else after decoding or dot removal are left to AOS.
    """
    path, mark, _ = target.partition(b"?")
    match = _EXECUTION_PATH.fullmatch(path)
    if match is None or not (is_id(match[1]) and is_id(match[2])):
        return None
    return ExecutionRef(match[1], match[2], bool(mark))


def is_id(raw: bytes) -> bool:
    """Tell whether stored entries can have such an id; the API's own ids are among them."""
    return _ID.fullmatch(raw) is not None and _ONLY_DOTS.fullmatch(raw) is None


def route_name(target: bytes) -> str:
    """Return what kind of call a target is, for logs and traces: ``execution``, ``stack`` or ``other``."""
    path = target.partition(b"?")[0]
    if execution(path) is not None:
        return "execution"
    return "stack" if path == _STACKS or path.startswith(_STACKS + b"/") else "other"


def stack_key(stack_id: bytes) -> bytes:
    """Return the form of a stack id under which forgetting works: case folded."""
    return stack_id.lower()


def written_stacks(target: bytes) -> frozenset[bytes]:
    """Return the case-folded ids of every stack a write to this target may touch.

    An upstream may decode, merge slashes and remove dots before it routes, in any combination;
    so every id behind a segment ``stacks`` counts, in each form that can be reached so. Ids that no
    stored entry can have are left out. Empty when the target names no stack.
    """
    first = target.partition(b"?")[0].lower()
    forms = {first}
    waiting = [first]
    while waiting:
        if len(forms) > _MAX_FORMS:
            # Nobody means well with such a path: whatever looks like an id in it counts.
            return _all_ids(first) if b"stacks" in _decoded(first) else frozenset()
        form = waiting.pop()
        further = {rewrite(form) for rewrite in _REWRITES} - forms
        forms |= further
        waiting += further
    return frozenset().union(*map(_ids_after_stacks, forms))


def _without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/".join(kept)


_REWRITES: tuple[Callable[[bytes], bytes], ...] = (
    lambda path: unquote_to_bytes(path).lower(),
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb"/{2,}", b"/", path),
    # Parameters of a segment, then a query or fragment that was encoded.
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: re.split(rb"[?#]", path, maxsplit=1)[0],
    _without_dots,
)


def _ids_after_stacks(path: bytes) -> set[bytes]:
    return {
        identifier
        for before, identifier in itertools.pairwise(path.split(b"/"))
        if before == b"stacks" and is_id(identifier)
    }


def _decoded(path: bytes) -> bytes:
    for _ in range(_DECODE_ROUNDS):
        path = unquote_to_bytes(path)
    return path.lower()


def _all_ids(path: bytes) -> frozenset[bytes]:
    return frozenset(part for part in re.split(rb"[/\\?#;]", _decoded(path)) if is_id(part))
