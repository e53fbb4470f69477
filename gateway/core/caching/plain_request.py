"""A plain GET of the execution call, read from its bytes without the parser; anything else is left to it.

Whatever is accepted here must mean the same to the parser: tests compare both on many heads.
"""

import re

import msgspec

from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.eligibility import Bypass, Eligible, eligibility
from gateway.core.caching.identity import Identity, IdentityReader, Variant
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.core.caching.request_directives import NO_DIRECTIVES, accepts_events
from gateway.core.http import request as incoming
from gateway.core.http.errors import GatewayError
from gateway.core.http.fields import end_to_end
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Field, Fields, IndexedFields, Request, first
from gateway.core.http.proxy_identity import FetchLines, ProxyIdentity, check_request, fetch_lines

_STACKS = b"/v2/stacks/"
_METHOD = b"GET " + _STACKS
_VERSION = b" HTTP/1.1"
_HEAD_END = b"\r\n\r\n"
_SOME_TARGET = b"/v2/stacks/s/actions/a"
# Common spellings of the request id's field name, with the bytes around it.
_REQUEST_ID_NAMES = (b"\r\nX-Request-Id: ", b"\r\nx-request-id: ", b"\r\nX-Request-ID: ")
# Of one caller and execution.
_ID_PLACES_MOST = 4
# What is learned of a request counts by its bytes, and each of its fields costs some 400 more.
_MOST_FIELDS = 64
# A field line of visible ASCII and spaces, without folding or tabs.
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *((?:[!-~]+(?: +[!-~]+)*)?) *")
# They ask for more than a look-up or frame a body; a request id here would be a second one.
_NOT_PLAIN = frozenset(
    {
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"upgrade",
        b"x-request-id",
        b"range",
        b"te",
        b"trailer",
        b"prefer",
    }
)
# Differ in each request without changing the response.
_TRACE_FIELDS = frozenset({b"traceparent", b"tracestate", b"baggage", b"x-b3-traceid", b"x-b3-spanid", b"b3"})


class PlainRequest(msgspec.Struct, frozen=True, gc=False):
    """The parts of an unchecked head.

    Attributes:
        path: what follows ``/v2/stacks/`` in the target.
        request_id: the caller's request id; ``None`` without one.
        rest: the field lines without the request id's; equal ones mean the same.
        id_start: where in the head the line of the request id starts; 0 without one.
    """

    path: bytes
    request_id: bytes | None
    rest: bytes
    id_start: int = 0


def without_request_id(data: bytes) -> tuple[bytes, bytes | None, int] | None:
    """Take the line of the request id out of a head.

    Returns:
        The head without it, the id, and where its line starts: ``None`` and 0 if there is none. ``None`` when
        the bytes do not end with a head, or the id is not plain.
    """
    if not data.endswith(_HEAD_END):
        return None
    for name in _REQUEST_ID_NAMES:
        start = data.find(name)
        if start >= 0:
            value = start + len(name)
            end = data.find(b"\r\n", value)
            request_id = data[value:end]
            if not incoming.is_plain_request_id(request_id):
                return None
            return data[:start] + data[end:], request_id, start
    return data, None, 0


def read_plain(data: bytes) -> PlainRequest | None:
    """Split a head; ``None`` unless the bytes are exactly one GET of something under ``/v2/stacks/``.

    The result is valid only if `PlainRequest.rest` is (see `plain_fields`).
    """
    found = without_request_id(data)
    return None if found is None else split_head(*found)


def split_head(head: bytes, request_id: bytes | None, id_start: int) -> PlainRequest | None:
    """Split what `without_request_id` has left of a head, as `read_plain` does."""
    line_end = head.find(b"\r\n")
    path_end = line_end - len(_VERSION)
    if not head.startswith(_METHOD) or head[path_end:line_end] != _VERSION:
        return None
    return PlainRequest(head[len(_METHOD) : path_end], request_id, head[line_end:], id_start)


def plain_fields(rest: bytes) -> IndexedFields | None:
    """Return the fields in a head, or ``None`` unless every line is plain and they are few.

    Args:
        rest: the head after the request line, empty line included.
    """
    if rest.find(_HEAD_END) != len(rest) - len(_HEAD_END):
        return None
    fields: list[Field] = []
    for line in rest[: -len(_HEAD_END)].split(b"\r\n")[1:]:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2]))
    return IndexedFields(fields) if len(fields) <= _MOST_FIELDS else None


def trace_fields(identity_reader: IdentityReader) -> frozenset[bytes]:
    """Return the lower-case names of trace fields that do not identify a caller."""
    return _TRACE_FIELDS - identity_reader.guarded


def without_fields(rest: bytes, removed: frozenset[bytes]) -> bytes | None:
    """Remove fields from field lines.

    Args:
        rest: from `read_plain`.
        removed: lower-case names.

    Returns:
        ``None`` when a removed line is not plain, or when there are too many.
    """
    if rest.count(b"\r\n") > _MOST_FIELDS + 2:
        return None
    kept: list[bytes] = []
    for line in rest.split(b"\r\n"):
        if line.partition(b":")[0].lower() not in removed:
            kept.append(line)
        elif _LINE.fullmatch(line) is None:
            return None
    return b"\r\n".join(kept)


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The caller and variant that field lines stand for.

    Attributes:
        owner: `KeySpace.owner` of the two.
        identity: of the caller.
        variant: what was negotiated.
        rest: the field lines.
        fields: the same, parsed.
        sent: those of them that are end-to-end.
        fetch_lines: of what is fetched for them; ``None`` when they are made for each fetch.
    """

    owner: bytes
    identity: Identity
    variant: Variant
    rest: bytes
    fields: IndexedFields
    sent: Fields
    fetch_lines: FetchLines | None

    @property
    def user_agent(self) -> bytes:
        """The program that asks; empty when it does not say."""
        return first(self.fields, b"user-agent") or b""


class IdPlace(msgspec.Struct, frozen=True, gc=False):
    """Where the request id stands in the requests of a caller.

    Attributes:
        name: of its field.
        fields: what goes before and behind it in the fields.
        sent: the same of those that are end-to-end; ``None`` where all are.
        fetch_lines: of what is fetched; ``None`` when they are made for each fetch.
    """

    name: bytes
    fields: tuple[Fields, Fields]
    sent: tuple[Fields, Fields] | None
    fetch_lines: FetchLines | None


class KnownRequest(msgspec.Struct, frozen=True, gc=False):
    """What the plain requests of a caller for one execution have in common.

    Attributes:
        seen: one without request id and trace fields, as it is split from its bytes.
        owner: who asks.
        key: of the entry that may answer it.
        eligible: what `eligibility` makes of it.
        target: path and query.
        id_places: the latest places of a request id, by where in the head its line starts.
    """

    seen: PlainRequest
    owner: Owner
    key: EntryKey
    eligible: Eligible
    target: bytes
    id_places: dict[int, IdPlace] = {}

    def request(
        self, data: bytes, seen: PlainRequest, request_id: bytes, *, peer: bytes, scheme: bytes
    ) -> tuple[Request, Eligible] | None:
        """Return one of them as the parser would, and its eligibility.

        Args:
            data: the whole head.
            seen: from `read_plain`.
            request_id: the caller's request id, or one generated for it.
            peer: the caller's address.
            scheme: as the caller connected.

        Returns:
            ``None`` when a field line is not plain.
        """
        fields, eligible = self.owner.fields, self.eligible
        if seen.rest != self.owner.rest:
            # It has trace fields, which do not change the response, but are forwarded too.
            found = plain_fields(data[data.find(b"\r\n") :])
            if found is None:
                return None
            fields = found
            eligible = msgspec.structs.replace(eligible, fields=end_to_end(fields), fetch_lines=None)
        elif seen.request_id is not None:
            place = self.id_places.get(seen.id_start)
            if place is None or not data.startswith(place.name, seen.id_start + len(b"\r\n")):
                place = self._id_place(data, seen.id_start)
            field = place.name, seen.request_id
            sent = fields = IndexedFields.joined(place.fields[0], field, place.fields[1])
            if place.sent is not None:
                sent = IndexedFields.joined(place.sent[0], field, place.sent[1])
            eligible = Eligible(
                eligible.execution,
                eligible.identity,
                eligible.variant,
                NO_DIRECTIVES,
                sent,
                place.fetch_lines,
            )
        return Request("GET", self.target, fields, peer, scheme, 0, request_id), eligible

    def _id_place(self, data: bytes, start: int) -> IdPlace:
        """Find out what stands around a request id whose line starts here."""
        fields, lines, sent_parts = self.owner.fields, self.owner.fetch_lines, None
        name = data[start + len(b"\r\n") : data.find(b":", start)]
        position = data.count(b"\r\n", data.find(b"\r\n"), start)
        parts = tuple(fields[:position]), tuple(fields[position:])
        sent = end_to_end(IndexedFields.joined(parts[0], (name, b""), parts[1]))
        if len(sent) <= len(fields):
            sent_position = sent.index((name, b""))
            sent_parts = tuple(sent[:sent_position]), tuple(sent[sent_position + 1 :])
        place = IdPlace(name, parts, sent_parts, None if lines is None else lines.with_id(name, position))
        if len(self.id_places) >= _ID_PLACES_MOST:
            self.id_places.clear()
        self.id_places[start] = place
        return place


def known_request(owner: Owner, path: bytes, call: ExecutionRef, key: EntryKey) -> KnownRequest:
    """Return what a caller's requests for one execution have in common.

    Args:
        owner: from `read_owner`.
        path: `PlainRequest.path`.
        call: the execution that it names.
        key: of the entry that may answer.
    """
    return KnownRequest(
        PlainRequest(path, None, owner.rest),
        owner,
        key,
        Eligible(call, owner.identity, owner.variant, NO_DIRECTIVES, owner.sent, owner.fetch_lines),
        _STACKS + path,
    )


def read_owner(
    rest: bytes,
    *,
    identity_reader: IdentityReader,
    keys: KeySpace,
    proxy: ProxyIdentity,
    own_hosts: OwnHosts | None,
) -> Owner | None:
    """Return whose entries may answer a GET with these field lines.

    Args:
        rest: from `read_plain`.
        identity_reader: derives the caller's identity.
        keys: builds the keys.
        proxy: the gateway's own identity.
        own_hosts: hosts that a request may name; ``None`` for any.

    Returns:
        ``None`` when the request needs more than a plain look-up, or must be rejected.
    """
    fields = plain_fields(rest)
    if fields is None:
        return None
    for name, value in fields:
        lower = name.lower()
        if lower in _NOT_PLAIN or lower.startswith(b"if-"):
            return None
        if lower == b"connection" and value.lower() != b"keep-alive":
            return None
    request = Request("GET", _SOME_TARGET, fields, b"", b"http", 0, b"")
    try:
        incoming.check_host(fields, None, http_11=True)
        incoming.body_bytes(fields, http_11=True)
        check_request(request, proxy)
    except GatewayError:
        return None
    if own_hosts is not None and not own_hosts.has(first(fields, b"host") or b""):
        return None
    eligible = eligibility(request, identity_reader)
    if isinstance(eligible, Bypass) or eligible.directives != NO_DIRECTIVES or accepts_events(fields):
        return None
    owner = keys.owner(eligible.identity.entry, eligible.variant.general)
    lines = fetch_lines(fields, proxy)
    return Owner(owner, eligible.identity, eligible.variant, rest, fields, eligible.fields, lines)
