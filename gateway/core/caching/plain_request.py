"""A whole plain GET of the execution call, told from its bytes alone; the rest is for the parser.

A glance takes less than the parser does, and can only say "this, exactly" or nothing. What it takes must
mean the same to both: tests compare them on many heads.
"""

from __future__ import annotations

import re

import msgspec

from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.eligibility import Bypass, Eligible, eligibility
from gateway.core.caching.identity import Identity, IdentityReader, Variant
from gateway.core.caching.key import KeySpace
from gateway.core.caching.request_directives import NO_DIRECTIVES
from gateway.core.http import fields as headers
from gateway.core.http import request as incoming
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Field, IndexedFields, Request, first

_METHOD = b"GET /v2/stacks/"
_VERSION = b" HTTP/1.1"
_HEAD_END = b"\r\n\r\n"
_SOME_TARGET = b"/v2/stacks/s/actions/a"
# Names of the field that carries the request id, as callers write it, with what stands before and behind.
_REQUEST_ID_NAMES = (b"\r\nX-Request-Id: ", b"\r\nx-request-id: ", b"\r\nX-Request-ID: ")
# A field line without folding, tabs or anything beyond visible ASCII and blanks; blanks around a value go.
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *((?:[!-~]+(?: +[!-~]+)*)?) *")
# Each of them asks for more than a look-up, or frames a body; a second request id is none.
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
    }
)
# Told about one request only, and without a meaning for what it is answered with, unless they are configured
# to tell who asks: see `passing`.
_PASSING = frozenset({b"traceparent", b"tracestate", b"baggage", b"x-b3-traceid", b"x-b3-spanid", b"b3"})


class PlainRequest(msgspec.Struct, frozen=True, gc=False):
    """What a head says at first sight.

    Attributes:
        path: what stands behind ``/v2/stacks/`` in the target, unchecked.
        request_id: the id the request brought; ``None`` when it brought none.
        rest: its field lines without the request id's, unchecked: where they are equal, so is what they say.
        id_start: where in the head the line of the request id starts; 0 without one.
    """

    path: bytes
    request_id: bytes | None
    rest: bytes
    id_start: int = 0


def read_plain(data: bytes) -> PlainRequest | None:
    """Look at what was read; ``None`` when it is not one whole GET of something under ``/v2/stacks/``.

    Only a reader who knows `rest` (see `plain_fields`) may rely on what is returned.
    """
    if not (data.startswith(_METHOD) and data.endswith(_HEAD_END)):
        return None
    line_end = data.find(b"\r\n")
    path_end = line_end - len(_VERSION)
    if data[path_end:line_end] != _VERSION:
        return None
    path = data[len(_METHOD) : path_end]
    for name in _REQUEST_ID_NAMES:
        start = data.find(name, line_end)
        if start >= 0:
            value = start + len(name)
            end = data.find(b"\r\n", value)
            request_id = data[value:end]
            if not incoming.is_plain_request_id(request_id):
                return None
            return PlainRequest(path, request_id, data[line_end:start] + data[end:], start)
    return PlainRequest(path, None, data[line_end:])


def plain_fields(rest: bytes) -> IndexedFields | None:
    """Return the field lines of a glance, or ``None`` unless every one is plain.

    Args:
        rest: from the end of the request line on, the empty line included.
    """
    if rest.find(_HEAD_END) != len(rest) - len(_HEAD_END):
        return None
    fields: list[Field] = []
    for line in rest[: -len(_HEAD_END)].split(b"\r\n")[1:]:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2]))
    return IndexedFields(fields)


def passing(identity_reader: IdentityReader) -> frozenset[bytes]:
    """Return the lower-case names of fields that each request may have its own of, whatever the answer."""
    return _PASSING - identity_reader.guarded


def without_passing(rest: bytes, passing: frozenset[bytes]) -> bytes | None:
    """Return field lines without those that pass by.

    Args:
        rest: from `read_plain`.
        passing: their names, from the function of that name.

    Returns:
        ``None`` when one of those left out is not plain.
    """
    kept: list[bytes] = []
    for line in rest.split(b"\r\n"):
        if line.partition(b":")[0].lower() not in passing:
            kept.append(line)
        elif _LINE.fullmatch(line) is None:
            return None
    return b"\r\n".join(kept)


class Owner(msgspec.Struct, frozen=True, gc=False):
    """Who asks, and in which variant.

    Attributes:
        owner: `KeySpace.owner` of the two.
        identity: of the caller.
        variant: what was negotiated.
        rest: the field lines that say so.
        fields: the same, read.
    """

    owner: bytes
    identity: Identity
    variant: Variant
    rest: bytes
    fields: IndexedFields

    @property
    def user_agent(self) -> bytes:
        """The program that asks; empty when it does not say."""
        return first(self.fields, b"user-agent") or b""


def read_owner(
    rest: bytes,
    *,
    identity_reader: IdentityReader,
    keys: KeySpace,
    proxy: headers.ProxyIdentity,
    own_hosts: OwnHosts | None,
) -> Owner | None:
    """Return whose copies a GET with these field lines may be answered from.

    Args:
        rest: from `read_plain`.
        recogniser: tells callers apart.
        keys: builds the keys.
        hop: what the gateway says about itself.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.

    Returns:
        ``None`` when the request wants anything but a plain look-up, or may be refused.
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
        incoming.check_fields(fields)
        incoming.check_host(fields, None, http_11=True)
        incoming.body_bytes(fields, http_11=True)
        headers.check_request(request, proxy)
    except headers.MessageError:
        return None
    if own_hosts is not None and not own_hosts.has(first(fields, b"host") or b""):
        return None
    eligible = eligibility(request, identity_reader)
    if isinstance(eligible, Bypass) or eligible.directives != NO_DIRECTIVES:
        return None
    owner = keys.owner(eligible.identity.entry, eligible.variant.general)
    return Owner(owner, eligible.identity, eligible.variant, rest, fields)


def plain_request(
    data: bytes,
    seen: PlainRequest,
    owner: Owner,
    call: ExecutionRef,
    request_id: bytes,
    *,
    peer: bytes,
    scheme: bytes,
) -> tuple[Request, Eligible] | None:
    """Return the request that `read_plain` saw, and what `eligibility` makes of it.

    Args:
        data: the whole head.
        seen: what `read_plain` saw.
        owner: what `read_owner` made of its field lines.
        call: the execution that its path names.
        request_id: the request's own id, or one made for it.
        peer: the caller's address.
        scheme: as the caller connected.

    Returns:
        ``None`` when a field line is not plain.
    """
    fields: IndexedFields | None = owner.fields
    if seen.rest != owner.rest:
        # It has fields of its own, which mean nothing for the response, but go upstream too.
        fields = plain_fields(data[data.find(b"\r\n") :])
    elif seen.request_id is not None:
        name = data[seen.id_start + 2 : data.find(b":", seen.id_start)]
        before = data.count(b"\r\n", data.find(b"\r\n"), seen.id_start)
        fields = owner.fields.with_field(before, (name, seen.request_id))
    if fields is None:
        return None
    request = Request("GET", b"/v2/stacks/" + seen.path, fields, peer, scheme, 0, request_id)
    return request, Eligible(call, owner.identity, owner.variant, NO_DIRECTIVES, headers.end_to_end(fields))
