"""What the gateway adds about itself to a request, and which requests it cannot carry (RFC 9110 §7.6)."""

import re
from collections.abc import Iterable

import msgspec

from gateway.core.http import signature
from gateway.core.http.errors import MessageError, ProxyLoop
from gateway.core.http.fields import (
    CONDITIONAL_PREFIX,
    FORWARDED,
    HOP_BY_HOP,
    NOT_FORWARDED,
    VARIANT,
    accepts_gzip,
    nominated,
)
from gateway.core.http.messages import Field, Fields, IndexedFields, Request, first, names, values, wire_lines
from gateway.core.http.target import METHOD_OVERRIDES

# If Connection could name one of these, the gateway and the upstream would read two different requests.
_NEVER_NOMINATED = (
    VARIANT
    | METHOD_OVERRIDES
    | signature.FIELDS
    | {b"host", b"cache-control", b"pragma", b"via", b"forwarded", b"range", b"expect"}
    | {b"content-length", b"transfer-encoding", b"content-encoding", b"content-type"}
)
_NEVER_NOMINATED_PREFIXES = (CONDITIONAL_PREFIX, b"x-forwarded-")
_PREFER = frozenset({b"prefer"})
_NOT_TO_EXECUTIONS = NOT_FORWARDED | _PREFER | {b"accept-encoding"}
_VIA_HEX = re.compile(rb"aos-gateway \(([0-9a-f]{8})\)")
_FOREIGN_HOST = (
    "The request is signed for a Host that is neither the upstream's nor one of upstream.signed_hosts, so "
    "its signature would not hold there: sign it for the upstream's Host, or add this one to that setting."
)


class ProxyIdentity(msgspec.Struct, frozen=True):
    """What the gateway adds about itself and its upstream.

    Attributes:
        via: its own ``Via`` member.
        via_hex: the eight hexadecimal digits in it.
        authority: the upstream's own ``Host``.
        signed_hosts: lower-case hosts that a signed request may name, ``authority`` included.
        identity_headers: lower-case names of the fields that identify a caller.
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
        identity_headers: lower-case names of the fields that identify a caller.
    """
    via_hex = upstream_digest[:4].hex().encode("ascii")
    return ProxyIdentity(
        via=b"1.1 aos-gateway (" + via_hex + b")",
        via_hex=via_hex,
        authority=authority.encode("ascii"),
        signed_hosts=frozenset(host.lower().encode("ascii") for host in (authority, *signed_hosts)),
        identity_headers=frozenset(identity_headers),
    )


def check_request(request: Request, proxy: ProxyIdentity) -> None:
    """Reject a request that can be read in two ways, or that has passed this gateway before.

    Raises:
        MessageError: 400 for a ``Connection`` that names an end-to-end field, 421 for a request signed for
            another host.
        ProxyLoop: ``Via`` names this gateway.
    """
    fields = request.fields
    named = nominated(fields)
    signed = signature.signed_fields(fields)
    if named:
        must_travel = _NEVER_NOMINATED | proxy.identity_headers | signed
        if named & must_travel or any(name.startswith(_NEVER_NOMINATED_PREFIXES) for name in named):
            raise MessageError(400, "Connection names a field that must reach the upstream.")
    for value in values(fields, b"via"):
        if any(found[1] == proxy.via_hex for found in _VIA_HEX.finditer(value)):
            raise ProxyLoop
    if signature.is_signed(fields):
        host = (first(fields, b"host") or b"").lower()
        if host not in proxy.signed_hosts:
            raise MessageError(421, _FOREIGN_HOST)
        if signed.intersection(names(fields)) & (HOP_BY_HOP | {b"expect"}):
            raise MessageError(400, "SignedHeaders names a field that is not forwarded.")


def upstream_fields(
    request: Request, proxy: ProxyIdentity, *, execution_call: bool, is_shared: bool = True
) -> Fields:
    """Return the field lines to send upstream, framing left out (RFC 9110 §7.6, §7.6.3).

    Args:
        request: the downstream request; `check_request` has accepted it.
        proxy: what the gateway adds about itself.
        execution_call: fetch for the cache: unconditional, and with gzip as the only coding.
        is_shared: others may get its response too, so that what this caller prefers is not passed on.
    """
    fields = request.fields
    signed = signature.signed_fields(fields)
    removed = _NOT_TO_EXECUTIONS if execution_call else NOT_FORWARDED
    if not is_shared:
        removed -= _PREFER
    if named := nominated(fields):
        removed |= named
    if execution_call:
        removed |= {name for name in names(fields) if name.startswith(CONDITIONAL_PREFIX)}
    kept = [field for field in fields if field[0].lower() not in removed]
    host = first(fields, b"host")
    own_host = host if host is not None and signature.is_signed(fields) else proxy.authority
    sent: list[Field] = [(b"Host", own_host), *kept]
    if execution_call:
        sent.append((b"Accept-Encoding", b"gzip" if accepts_gzip(fields) else b"identity"))
    if b"via" not in signed:
        sent.append((b"Via", proxy.via))
    present = names(fields)
    forwarded = (request.peer, request.scheme, host)
    for (name, written), value in zip(FORWARDED, forwarded, strict=True):
        if not value or name in signed:
            continue
        if name in present:
            _append(sent, name, value)
        else:
            sent.append((written, value))
    if first(fields, b"x-request-id") is None and b"x-request-id" not in signed:
        sent.append((b"X-Request-Id", request.request_id))
    return tuple(sent)


class FetchLines(msgspec.Struct, frozen=True, gc=False):
    """The field lines of fetches for requests that differ in request id, peer and scheme alone.

    Attributes:
        first: goes before what is kept of a request.
        kept: what is sent of each line of a request, each with CRLF; empty for nothing.
        last: goes behind it, before the peer.
        begin: all three, joined; with a request id what goes before that.
        behind_id: what goes between the request id and the peer; empty where the id is added at the end.
        host: goes behind the scheme.
    """

    first: bytes
    kept: tuple[bytes, ...]
    last: bytes
    begin: bytes
    behind_id: bytes
    host: bytes

    def of(self, request: Request) -> bytes:
        """Return all lines of the fetch for one of the requests, as `upstream_fields` has them."""
        own_id = request.request_id
        last = (request.peer, b"\r\nX-Forwarded-Proto: ", request.scheme, self.host)
        if self.behind_id:
            return b"".join((self.begin, own_id, self.behind_id, *last))
        return b"".join((self.begin, *last, b"X-Request-Id: ", own_id, b"\r\n"))

    def with_id(self, name: bytes, position: int) -> "FetchLines":
        """Return those for requests with an id, in a field of this name behind so many others."""
        begin = b"".join((self.first, *self.kept[:position], name, b": "))
        behind_id = b"".join((b"\r\n", *self.kept[position:], self.last))
        return FetchLines(self.first, self.kept, self.last, begin, behind_id, self.host)


def fetch_lines(fields: IndexedFields, proxy: ProxyIdentity) -> FetchLines | None:
    """Return the lines of fetches for requests with these fields and perhaps a request id.

    Returns:
        ``None`` when more than that differs, or they are signed.
    """
    host = first(fields, b"host")
    present = names(fields)
    if not host or b"authorization" in present or any(name in present for name, _ in FORWARDED):
        return None
    own_host, *sent = upstream_fields(
        Request("GET", b"", fields, b"", b"", 0, b""), proxy, execution_call=True
    )
    # Behind those of the request: Accept-Encoding and Via, then X-Forwarded-Host and X-Request-Id.
    kept, last = sent[:-4], sent[-4:-2]
    lines = [wire_lines((field,)) if field in kept else b"" for field in fields]
    before, behind = wire_lines((own_host,)), wire_lines(last) + b"X-Forwarded-For: "
    begin = b"".join((before, *lines, behind))
    return FetchLines(before, tuple(lines), behind, begin, b"", b"\r\nX-Forwarded-Host: %b\r\n" % host)


def _append(fields: list[Field], name: bytes, member: bytes) -> None:
    """Append a member to the last line of a list field that is present."""
    position = max(place for place, (key, _) in enumerate(fields) if key.lower() == name)
    key, value = fields[position]
    fields[position] = (key, value + b", " + member if value else member)
