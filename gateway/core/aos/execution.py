"""The fields of AOS's execution record that decide about storing.

Their names come from tables 2 to 9 of the API page "query one execution record of a stack". Each is optional;
other fields are ignored.
"""

import enum
import json
import re

import msgspec


class _Phase(msgspec.Struct, frozen=True, gc=False):
    phase: str | None = None


class _Status(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    action_name: str | None = None
    # Raw: a progress of any other type does not make the record unreadable.
    progress: msgspec.Raw = msgspec.Raw(b"")
    object_status: _Phase | None = None
    sub_object_statuses: dict[str, _Phase | None] | None = None


class _Spec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    action_name: str | None = None
    on_failure_strategy: str | None = None


class _Metadata(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None


_NO_PHASE, _NO_STATUS, _NO_SPEC, _NO_METADATA = _Phase(), _Status(), _Spec(), _Metadata()


class RecordSummary(msgspec.Struct, frozen=True, gc=False):
    """The fields of a record that decide whether and how long it is stored.

    Attributes:
        kind: ``kind``; ``None`` when absent.
    """

    kind: str | None = None
    metadata: _Metadata | None = None
    spec: _Spec | None = None
    status: _Status | None = None

    @property
    def name(self) -> str | None:
        """``metadata.name``; ``None`` when absent."""
        return (self.metadata or _NO_METADATA).name

    @property
    def phase(self) -> str | None:
        """``status.objectStatus.phase``; ``None`` when absent."""
        return ((self.status or _NO_STATUS).object_status or _NO_PHASE).phase

    @property
    def sub_phases(self) -> frozenset[str]:
        """The phases under ``status.subObjectStatuses``."""
        parts = (self.status or _NO_STATUS).sub_object_statuses or {}
        return frozenset(part.phase for part in parts.values() if part is not None and part.phase is not None)

    @property
    def action_names(self) -> frozenset[str]:
        """``spec.actionName`` and ``status.actionName``, where present."""
        found = ((self.spec or _NO_SPEC).action_name, (self.status or _NO_STATUS).action_name)
        return frozenset(name for name in found if name is not None)

    @property
    def on_failure_strategy(self) -> str | None:
        """``spec.onFailureStrategy``; ``None`` when absent."""
        return (self.spec or _NO_SPEC).on_failure_strategy

    @property
    def progress(self) -> int | None:
        """``status.progress``, 0 to 100; ``None`` when it is anything else. It decides nothing."""
        raw = bytes((self.status or _NO_STATUS).progress)
        return int(raw) if len(raw) <= 3 and raw.isdigit() and int(raw) <= 100 else None


class Unreadable(enum.Enum):
    """Why a body is not a record."""

    NOT_UTF8 = "not-utf8"
    UNDECODABLE = "undecodable"


_decoder = msgspec.json.Decoder(RecordSummary)


def decode_deciding(body: bytes) -> RecordSummary | Unreadable:
    """Decode only the deciding fields of a body without content coding."""
    # msgspec does not validate fields that it skips, but stray bytes there make the body invalid JSON.
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return Unreadable.NOT_UTF8
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Unreadable.UNDECODABLE


# A bracket, or a string and the colon that makes it a key. Runs without backslash are matched at once:
# a string may be megabytes long.
_TOKEN = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"([ \t\r\n]*:)?|[\[\]{}]', re.DOTALL)


def has_duplicate_key(body: bytes) -> bool:
    """Tell whether a key on the path to a deciding field occurs twice in a body that could be decoded.

    msgspec takes the last one, another parser may take the first. Slower than the decoder above, so only for
    records that would be stored. A Python loop on purpose: a thread that scans megabytes in it releases the
    interpreter for the event loop.
    """
    path: list[tuple[_Tree, set[str]]] = []
    below: _Tree | None = _DECIDING
    skipped_depth = 0
    for token in _TOKEN.finditer(body):
        match token[0]:
            case b"{" if below is not None and not skipped_depth:
                path.append((below, set()))
                below = None
            case b"{" | b"[":
                skipped_depth += 1
            case b"}" | b"]":
                if skipped_depth:
                    skipped_depth -= 1
                else:
                    path.pop()
                below = None
            case _ if token[2] is not None and not skipped_depth:
                tree, seen = path[-1]
                key = _text(token[1])
                if key in tree or "*" in tree:
                    if key in seen:
                        return True
                    seen.add(key)
                below = tree.get(key, tree.get("*"))
    return False


def _text(raw: bytes) -> str:
    """Return a string without its quotes, escapes undone."""
    return json.loads(b'"%s"' % raw) if b"\\" in raw else raw.decode("utf-8")


# The deciding fields as a tree; ``*`` stands for every member.
_Tree = dict[str, "_Tree | None"]
_DECIDING: _Tree = {
    "kind": None,
    "metadata": {"name": None},
    "spec": {"actionName": None, "onFailureStrategy": None},
    "status": {
        "actionName": None,
        "objectStatus": {"phase": None},
        "subObjectStatuses": {"*": {"phase": None}},
    },
}
