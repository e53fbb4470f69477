"""Requests, response heads and their fields, as immutable values."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

import msgspec

Field = tuple[bytes, bytes]
"""One field line: name and value, byte for byte as received."""

Fields = tuple[Field, ...]
"""Field lines in the order of the message, repeats included."""


class IndexedFields(tuple[Field, ...]):
    """Field lines with an index by name, for repeated look-ups.

    Attributes:
        by_name: the values by lower-case name, in order; must not be changed.
        end_to_end: those without the hop-by-hop ones; ``None`` until they are asked for.
    """

    by_name: dict[bytes, list[bytes]]
    end_to_end: "IndexedFields | None" = None

    def __new__(cls, fields: Iterable[Field]) -> Self:
        """Make an indexed copy."""
        self = tuple.__new__(cls, fields)
        self.by_name = {name.lower(): [value] for name, value in self}
        if len(self.by_name) < len(self):
            self.by_name = {name: [] for name in self.by_name}
            for name, value in self:
                self.by_name[name.lower()].append(value)
        return self

    @classmethod
    def joined(cls, before: Fields, field: Field, behind: Fields) -> Self:
        """Return the lines of which these are the parts, to be indexed on first use."""
        return tuple.__new__(cls, (*before, field, *behind))

    def __getattr__(self, name: str) -> Any:
        # Only for what is not there.
        if name != "by_name":
            raise AttributeError(name)
        self.by_name = IndexedFields(self).by_name
        return self.by_name

    def without(self, removed: frozenset[bytes]) -> Self:
        """Return the lines without those of some lower-case names."""
        fewer = tuple.__new__(type(self), [field for field in self if field[0].lower() not in removed])
        fewer.by_name = {name: values for name, values in self.by_name.items() if name not in removed}
        return fewer


_NONE: tuple[bytes, ...] = ()


class Request(msgspec.Struct, frozen=True, gc=False):
    """A downstream request whose framing has been checked.

    Attributes:
        method: the method token, case kept.
        target: origin-form target (path and query) exactly as received.
        fields: field lines in order.
        peer: the caller's address without port; ``unknown`` for a Unix socket.
        scheme: ``http`` or ``https``, as the caller connected.
        body_bytes: the declared Content-Length; ``None`` when chunked; 0 without a body.
        request_id: the request's id in logs and errors.
        lent: whose credentials the gateway adds to it, see `CredentialRules`; empty where it has its own.
    """

    method: str
    target: bytes
    fields: Fields
    peer: bytes
    scheme: bytes
    body_bytes: int | None
    request_id: bytes
    lent: tuple[str, ...] = ()


class Head(msgspec.Struct, frozen=True, gc=False):
    """A response head.

    Attributes:
        status: three-digit status code.
        reason: reason phrase as received, possibly empty.
    """

    status: int
    reason: bytes
    _fields: Fields | None

    @property
    def fields(self) -> Fields:
        """Field lines in order."""
        assert self._fields is not None
        return self._fields

    def has_any(self, lower_names: frozenset[bytes]) -> bool:
        """Tell whether a field has one of these lower-case names."""
        return not lower_names.isdisjoint(names(self.fields))

    def lines(self) -> bytes:
        """Return status line and field lines, each with CRLF, without the empty line."""
        return b"HTTP/1.1 %d %b\r\n%b" % (self.status, self.reason, wire_lines(self.fields))


def wire_lines(fields: Iterable[Field]) -> bytes:
    """Return fields as bytes, each line with CRLF."""
    # Joined: half the price of formatting.
    return b"\r\n".join([*map(b": ".join, fields), b""])


def values(fields: Iterable[Field], name: bytes) -> Sequence[bytes]:
    """Return every value of the field of this lower-case name, in order."""
    if isinstance(fields, IndexedFields):
        return fields.by_name.get(name, _NONE)
    return [value for key, value in fields if key.lower() == name]


def first(fields: Iterable[Field], name: bytes) -> bytes | None:
    """Return a field's first value; ``None`` when the field is absent."""
    if isinstance(fields, IndexedFields):
        found = fields.by_name.get(name)
        return None if found is None else found[0]
    for key, value in fields:
        if key.lower() == name:
            return value
    return None


def members(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """Return the comma-separated members of a field, over all its lines, stripped (RFC 9110 §5.6.1).

    Only for fields whose members cannot contain a quoted comma (Connection, Vary, …).
    """
    lines = values(fields, name)
    if not lines:
        return []
    stripped = [part.strip(b" \t") for value in lines for part in value.split(b",")]
    return [part for part in stripped if part]


def names(fields: Iterable[Field]) -> Collection[bytes]:
    """Return the lower-case names that occur."""
    if isinstance(fields, IndexedFields):
        return fields.by_name.keys()
    return {name.lower() for name, _ in fields}
