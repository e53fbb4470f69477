"""Routes of AOS: the execution call, and the stacks that a write may touch."""

import itertools
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import msgspec

_ID = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_ONLY_DOTS = re.compile(rb"\.+")
_EXECUTION_PATH = re.compile(rb"/v2/stacks/([^/?]*)/actions/([^/?]*)")
# Only obfuscation makes more forms of one path than this, and no upstream decodes deeper nesting.
_MAX_FORMS = 64
_DECODE_ROUNDS = 8

_STACKS = b"/v2/stacks"


class ExecutionRef(msgspec.Struct, frozen=True, gc=False):
    """The execution that a target names, by the raw ids in its path; a query may be empty."""

    stack_id: bytes
    action_id: bytes
    has_query: bool


def execution(target: bytes) -> ExecutionRef | None:
    """Return the execution that a target names, or ``None`` for any other call.

    ``GET /v2/stacks/{stack_id}/actions/{action_id}`` of the AOS API; ids that decoding or dot removal could
    change are not among them.
    """
    path, mark, _ = target.partition(b"?")
    match = _EXECUTION_PATH.fullmatch(path)
    if match is None or not (is_id(match[1]) and is_id(match[2])):
        return None
    return ExecutionRef(match[1], match[2], bool(mark))


def is_id(raw: bytes) -> bool:
    """Tell whether an id has the form that entries are stored under; all ids of the API have."""
    return _ID.fullmatch(raw) is not None and _ONLY_DOTS.fullmatch(raw) is None


def route_name(target: bytes) -> str:
    """Return the kind of call for logs and traces: ``execution``, ``stack`` or ``other``."""
    path = target.partition(b"?")[0]
    if execution(path) is not None:
        return "execution"
    return "stack" if path == _STACKS or path.startswith(_STACKS + b"/") else "other"


def stack_key(stack_id: bytes) -> bytes:
    """Return the form of a stack id that is invalidated: case folded."""
    return stack_id.lower()


def written_stacks(target: bytes) -> frozenset[bytes]:
    """Return the case-folded ids of every stack a write to this target may touch.

    An upstream may decode, merge slashes and remove dots before it routes, in any combination; so every id
    after a segment ``stacks`` counts, in each form that can result. Ids that no stored entry can have are
    left out. Empty when the target names no stack.
    """
    first = target.partition(b"?")[0].lower()
    forms = {first}
    pending = [first]
    while pending:
        if len(forms) > _MAX_FORMS:
            # Obfuscated: everything in it that looks like an id counts.
            return _all_ids(first) if b"stacks" in _decoded(first) else frozenset()
        form = pending.pop()
        further = {rewrite(form) for rewrite in _REWRITES} - forms
        forms |= further
        pending += further
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
    # Path parameters, then an encoded query or fragment.
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
