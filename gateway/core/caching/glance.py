"""A whole plain GET of the execution call, told from its bytes alone; the rest is for the parser.

A glance takes less than the parser does, and can only say "this, exactly" or nothing. What it takes must
mean the same to both: tests compare them on many heads.
"""

from __future__ import annotations

import re

import msgspec

from gateway.core.aos.route import execution
from gateway.core.caching.caller import Identity, Recogniser, Variant
from gateway.core.caching.key import KeySpace
from gateway.core.caching.plan import Bypass, Plan, plan
from gateway.core.caching.wishes import NO_WISHES
from gateway.core.http import headers, incoming
from gateway.core.http.hosts import OwnHosts
from gateway.core.http.messages import Field, Fields, IndexedFields, Request, first

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


class Glance(msgspec.Struct, frozen=True, gc=False):
    """What a head says at first sight.

    Attributes:
        path: what stands behind ``/v2/stacks/`` in the target, unchecked.
        request_id: the id the request brought; ``None`` when it brought none.
        rest: its field lines without the request id's, unchecked: where they are equal, so is what they say.
    """

    path: bytes
    request_id: bytes | None
    rest: bytes


def glance(data: bytes) -> Glance | None:
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
            return Glance(path, request_id, data[line_end:start] + data[end:])
    return Glance(path, None, data[line_end:])


def plain_fields(rest: bytes) -> Fields | None:
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


def passing(recogniser: Recogniser) -> frozenset[bytes]:
    """Return the lower-case names of fields that each request may have its own of, whatever the answer."""
    return _PASSING - recogniser.guarded


def without_passing(rest: bytes, passing: frozenset[bytes]) -> bytes | None:
    """Return field lines without those that pass by.

    Args:
        rest: from `glance`.
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
        user_agent: the program that asks; empty when it does not say.
    """

    owner: bytes
    identity: Identity
    variant: Variant
    user_agent: bytes


def owner_of(
    rest: bytes, *, recogniser: Recogniser, keys: KeySpace, hop: headers.Hop, own_hosts: OwnHosts | None
) -> Owner | None:
    """Return whose copies a GET with these field lines may be answered from.

    Args:
        rest: from `glance`.
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
        headers.check_request(request, hop)
    except headers.Refusal:
        return None
    if own_hosts is not None and not own_hosts.has(first(fields, b"host") or b""):
        return None
    planned = plan(request, recogniser)
    if isinstance(planned, Bypass) or planned.wishes != NO_WISHES:
        return None
    owner = keys.owner(planned.identity.entry, planned.variant.general)
    return Owner(owner, planned.identity, planned.variant, first(fields, b"user-agent") or b"")


def plain_request(
    data: bytes, seen: Glance, owner: Owner, request_id: bytes, *, peer: bytes, scheme: bytes
) -> tuple[Request, Plan] | None:
    """Return the request that was seen at a glance, and what `plan` makes of it.

    Args:
        data: the whole head.
        seen: what `glance` saw.
        owner: what `owner_of` told.
        request_id: the request's own id, or one made for it.
        peer: the caller's address.
        scheme: as the caller connected.

    Returns:
        ``None`` when it is not about an execution that may be stored.
    """
    target = b"/v2/stacks/" + seen.path
    call = execution(target)
    fields = plain_fields(data[data.find(b"\r\n") :])
    if call is None or call.has_query or fields is None:
        return None
    request = Request("GET", target, fields, peer, scheme, 0, request_id)
    return request, Plan(call, owner.identity, owner.variant, NO_WISHES, headers.end_to_end(fields))
