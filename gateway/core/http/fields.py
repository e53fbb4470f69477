"""Which fields travel: hop-by-hop removal, what goes upstream, what comes down (RFC 9110 §7.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from gateway.core.aos.route import METHOD_OVERRIDES
from gateway.core.http import signature
from gateway.core.http.messages import (
    Field,
    Fields,
    IndexedFields,
    Request,
    first,
    members,
    names,
    values,
)

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
VARIANT = frozenset({b"accept", b"accept-encoding", b"accept-language", b"x-language"})
_CONDITIONAL_PREFIX = b"if-"
_FORWARDED = (
    (b"x-forwarded-for", b"X-Forwarded-For"),
    (b"x-forwarded-proto", b"X-Forwarded-Proto"),
    (b"x-forwarded-host", b"X-Forwarded-Host"),
)

# A Connection field that names one of these would make the gateway and the upstream read two
# different requests.
_NEVER_NOMINATED = (
    VARIANT
    | METHOD_OVERRIDES
    | signature.FIELDS
    | {b"host", b"cache-control", b"pragma", b"via", b"forwarded", b"range", b"expect"}
    | {b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"}
)
_NEVER_NOMINATED_PREFIXES = (_CONDITIONAL_PREFIX, b"x-forwarded-")

# Told about one exchange or one caller's quota: no business of a later hit.
_NOT_KEPT = frozenset(
    {
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"traceresponse",
        b"b3",
        b"x-trace-id",
        b"x-amzn-trace-id",
        b"uber-trace-id",
        b"server-timing",
        b"retry-after",
        b"proxy-status",
        b"via",
        b"age",
    }
)
_NOT_KEPT_PREFIXES = (b"ratelimit", b"x-ratelimit", b"x-b3-")
# What a 304 repeats of the head of the 200 it stands for (RFC 9110 §15.4.5), and the Age it came with:
# without it a cache further down would take an old record for a new one.
_IN_NOT_MODIFIED = frozenset(
    {
        b"age",
        b"cache-control",
        b"cdn-cache-control",
        b"content-location",
        b"date",
        b"etag",
        b"expires",
        b"vary",
    }
)

_VIA_HEX = re.compile(rb"aos-gateway \(([0-9a-f]{8})\)")


_NOTHING: frozenset[bytes] = frozenset()
_NOT_UPSTREAM = HOP_BY_HOP | {b"host", b"expect"}
_NOT_TO_EXECUTIONS = _NOT_UPSTREAM | {b"prefer", b"accept-encoding"}
# The upstream sees the same of these in every fetch for the cache: they are not sent, or replaced by the
# upstream's own, or requests that have one are not looked up.
_UNIFORM = _NOT_UPSTREAM | METHOD_OVERRIDES | {b"authorization", b"prefer", b"range"}
_REWRITTEN = frozenset(
    {b"accept-encoding", b"content-length", b"via", b"x-request-id", *(name for name, _ in _FORWARDED)}
)


_FOREIGN_HOST = (
    "The request is signed for a Host that is neither the upstream's nor one of upstream.signed_hosts, where "
    "its signature would not hold: sign it for the upstream's Host, or have this one added to that setting."
)


class MessageError(Exception):
    """A request that cannot be carried as it is meant.

    Attributes:
        status: what the caller is answered with.
        about: what is wrong, or the field or part at fault, fit for a message.
    """

    def __init__(self, status: int, about: str) -> None:
        super().__init__(about)
        self.status = status
        self.about = about


class ProxyIdentity(msgspec.Struct, frozen=True):
    """What the gateway adds about itself and its upstream.

    Attributes:
        via: its own ``Via`` member.
        via_hex: the eight hexadecimal digits in it.
        authority: the upstream's own ``Host``.
        signed_hosts: further hosts, lower case, that a signed request may name.
        identity_headers: fields that tell who a caller is, lower case.
    """

    via: bytes
    via_hex: bytes
    authority: bytes
    signed_hosts: frozenset[bytes]
    identity_headers: frozenset[bytes]


def make_proxy_identity(
    upstream_digest: bytes, authority: str, signed_hosts: Iterable[str], identity_headers: Iterable[bytes]
) -> ProxyIdentity:
    """Build the `ProxyIdentity` of a gateway.

    Args:
        upstream_digest: digest of the configured upstream, at least four bytes.
        authority: the upstream's host, with a port unless it is the scheme's own.
        signed_hosts: further hosts a signed request may name.
        identity_headers: lower-case names of the fields that tell who a caller is.
    """
    via_hex = upstream_digest[:4].hex().encode("ascii")
    return ProxyIdentity(
        via=b"1.1 aos-gateway (" + via_hex + b")",
        via_hex=via_hex,
        authority=authority.encode("ascii"),
        signed_hosts=frozenset(host.lower().encode("ascii") for host in signed_hosts),
        identity_headers=frozenset(identity_headers),
    )


def nominated(fields: Fields) -> frozenset[bytes]:
    """Return the lower-case names that the ``Connection`` fields name."""
    if not values(fields, b"connection"):
        return _NOTHING
    return frozenset(name.lower() for name in members(fields, b"connection"))


def end_to_end(fields: Fields) -> Fields:
    """Return the fields without the hop-by-hop ones and those ``Connection`` names (RFC 9110 §7.6.1)."""
    removed = HOP_BY_HOP
    if named := nominated(fields):
        removed |= named
    if isinstance(fields, IndexedFields) and removed.isdisjoint(fields.by_name):
        return fields
    return IndexedFields(field for field in fields if field[0].lower() not in removed)


def check_request(request: Request, proxy: ProxyIdentity) -> None:
    """Refuse a request that could mean two things, or that went in a circle.

    Raises:
        Refusal: 400 for a ``Connection`` field that names what must travel, 421 for a signed request
            to a foreign host, 502 for a loop.
    """
    fields = request.fields
    named = nominated(fields)
    signed = signature.signed_fields(fields)
    if named:
        must_travel = _NEVER_NOMINATED | proxy.identity_headers | signed
        if named & must_travel or any(name.startswith(_NEVER_NOMINATED_PREFIXES) for name in named):
            raise MessageError(400, "Connection names a field that must reach the upstream")
    for value in values(fields, b"via"):
        if any(found[1] == proxy.via_hex for found in _VIA_HEX.finditer(value)):
            raise MessageError(502, "Via")
    if signature.is_signed(fields):
        if _host(fields) not in proxy.signed_hosts | {proxy.authority.lower()}:
            raise MessageError(421, _FOREIGN_HOST)
        if signed.intersection(names(fields)) & (HOP_BY_HOP | {b"expect"}):
            raise MessageError(400, "SignedHeaders names a field that cannot travel")


def is_uniform(name: bytes) -> bool:
    """Tell whether the upstream sees the same of a field, in lower case, in every fetch for the cache."""
    return name in _UNIFORM or name.startswith(_CONDITIONAL_PREFIX)


def is_sent_unchanged(name: bytes) -> bool:
    """Tell whether a fetch for the cache carries a field, in lower case, as the caller sent it."""
    return name not in _REWRITTEN and not is_uniform(name)


def upstream_fields(request: Request, proxy: ProxyIdentity, *, execution_call: bool) -> Fields:
    """Return the field lines to send upstream, framing left out (RFC 9110 §7.6, §7.6.3).

    Args:
        request: the downstream request; `check_request` has accepted it.
        hop: what the gateway says about itself.
        execution_call: fetch for the cache: unconditional, and with gzip as the only coding.
    """
    fields = request.fields
    signed = signature.signed_fields(fields)
    removed = _NOT_TO_EXECUTIONS if execution_call else _NOT_UPSTREAM
    if named := nominated(fields):
        removed |= named
    if execution_call:
        removed |= {name for name in names(fields) if name.startswith(_CONDITIONAL_PREFIX)}
    kept = [field for field in fields if field[0].lower() not in removed]
    host = first(fields, b"host")
    own_host = host if host is not None and signature.is_signed(fields) else proxy.authority
    sent: list[Field] = [(b"Host", own_host), *kept]
    if execution_call:
        sent.append((b"Accept-Encoding", b"gzip" if accepts_gzip(fields) else b"identity"))
    if b"via" not in signed:
        sent.append((b"Via", proxy.via))
    present = names(fields)
    told = (request.peer, request.scheme, host)
    for (name, written), value in zip(_FORWARDED, told, strict=True):
        if not value or name in signed:
            continue
        if name in present:
            _append(sent, name, value)
        else:
            sent.append((written, value))
    if first(fields, b"x-request-id") is None and b"x-request-id" not in signed:
        sent.append((b"X-Request-Id", request.request_id))
    return tuple(sent)


def accepts_gzip(fields: Fields) -> bool:
    """Tell whether a caller takes ``gzip`` (RFC 9110 §12.5.3); without the field it does not."""
    wildcard = False
    for member in members(fields, b"accept-encoding"):
        coding, _, parameters = member.partition(b";")
        accepted = not re.fullmatch(rb"\s*q=0(\.0*)?\s*", parameters, re.IGNORECASE)
        match coding.strip().lower():
            case b"gzip" | b"x-gzip":
                return accepted
            case b"*":
                wildcard = accepted
    return wildcard


def kept_fields(fields: Fields) -> Fields:
    """Return the end-to-end fields that a stored entry keeps."""
    return tuple(
        field
        for field in end_to_end(fields)
        if (name := field[0].lower()) not in _NOT_KEPT and not name.startswith(_NOT_KEPT_PREFIXES)
    )


def not_modified_fields(fields: Fields) -> Fields:
    """Return the fields of a 200 that the 304 in its place repeats (RFC 9110 §15.4.5)."""
    return tuple(field for field in fields if field[0].lower() in _IN_NOT_MODIFIED)


def _host(fields: Fields) -> bytes:
    return (first(fields, b"host") or b"").lower()


def _append(fields: list[Field], name: bytes, member: bytes) -> None:
    """Append a member to the last line of a list field that is there."""
    position = max(place for place, (key, _) in enumerate(fields) if key.lower() == name)
    key, value = fields[position]
    fields[position] = (key, value + b", " + member if value else member)
