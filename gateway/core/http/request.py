"""What a downstream message must be before it is a request (RFC 9112 §3, §6)."""

from __future__ import annotations

import ipaddress
import re

from gateway.core.http.errors import MessageError
from gateway.core.http.fields import nominated
from gateway.core.http.messages import Fields, members, values
from gateway.core.http.target import origin_form

_DIGITS = re.compile(rb"[0-9]{1,18}")
# uri-host and port of RFC 3986 §3.2, without userinfo. No comma, though a name may have one: two Host
# fields that something in front has joined look like that.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]+)(?::([0-9]{0,5}))?")
_MAX_PORT = 65535
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_LINE = re.compile(rb"[!-~]+ [^\x00- \x7f]+ HTTP/1\.[01]\r")
# Another version of HTTP, or HTTP/0.9, which names none.
_OTHER_VERSION = re.compile(rb"[A-Z]+ (/[!-~]*|[!-~]+ HTTP/[0-9]\.[0-9])\r")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_BAD_LINE = "The request line is not a method, a target and a version with one blank between two."
CARRIED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""For ``Allow``: the methods of APIs; others are carried too, if the parser knows them."""
HTTP_1 = 1
MAX_FIELDS = 512


def check_line(line: bytes) -> None:
    """Refuse what isn't exactly a request line of HTTP/1.1 or 1.0 (RFC 9112 §3).

    Args:
        line: up to its line feed, which is left out.

    Raises:
        Refusal: 505 for another version, 400 for anything else.
    """
    if _LINE.fullmatch(line):
        return
    if _OTHER_VERSION.fullmatch(line):
        raise MessageError(505, "This address speaks HTTP/1.1 and HTTP/1.0 only.")
    raise MessageError(400, _BAD_LINE)


def check_version(major: int) -> None:
    """Refuse any HTTP but 1.x (505)."""
    if major != HTTP_1:
        raise MessageError(505, "This address speaks HTTP/1.1 and HTTP/1.0 only.")


def check_fields(fields: Fields) -> None:
    """Refuse more field lines than anybody needs (431)."""
    if len(fields) > MAX_FIELDS:
        raise MessageError(431, "The request has too many header fields.")


def own_request_id(fields: Fields) -> bytes | None:
    """Return the id a caller gave its request, fit for a log; ``None`` when it gave none that is.

    What travels upstream stays as it came; this is what the gateway itself repeats.
    """
    given = values(fields, b"x-request-id")
    return given[0] if len(given) == 1 and is_plain_request_id(given[0]) else None


def is_plain_request_id(given: bytes) -> bool:
    """Tell whether a request's id can be repeated in a log and in an error as it is."""
    return _REQUEST_ID.fullmatch(given) is not None


def check_target(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """Reduce a target to origin-form.

    Returns:
        Path and query, or the ``*`` of an ``OPTIONS``, and the authority of an absolute-form target,
        ``None`` otherwise.

    Raises:
        Refusal: 405 for a method that is never carried, 400 for a target that cannot be.
    """
    if method in _REFUSED_METHODS:
        raise MessageError(405, "CONNECT and TRACE are not carried.", allow=CARRIED_METHODS)
    reduced = origin_form(method, target)
    if reduced is None:
        raise MessageError(
            400, "The request target is not a path of visible ASCII characters without fragment."
        )
    return reduced


def check_host(fields: Fields, authority: bytes | None, *, http_11: bool) -> None:
    """Refuse a missing, repeated, malformed or contradicted Host (RFC 9112 §3.2)."""
    hosts = values(fields, b"host")
    # An empty one is allowed by RFC 9110 §7.2, but not in a target.
    named = [host for host in hosts if host] + ([] if authority is None else [authority])
    if not all(map(_is_host, named)):
        raise MessageError(400, "Host is not a host name with an optional port.")
    if len(hosts) > 1 or (http_11 and not hosts):
        raise MessageError(400, "A request needs exactly one Host field.")
    if authority is not None and hosts and hosts[0].lower() != authority.lower():
        raise MessageError(400, "Host and the target's authority differ.")


def _is_host(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or b"0") > _MAX_PORT:
        return False
    if match[1].startswith(b"["):
        try:
            ipaddress.IPv6Address(match[1][1:-1].decode("ascii"))
        except ValueError:
            return False
    return True


def persists(fields: Fields, *, http_11: bool) -> bool:
    """Tell whether a caller lets its connection carry another request (RFC 9112 §9.3).

    ``close`` wins over ``keep-alive``, which aiohttp does the other way round for HTTP/1.0.
    """
    options = nominated(fields)
    return b"close" not in options and (http_11 or b"keep-alive" in options)


def loggable_path(target: bytes) -> bytes:
    """Return what a log may show of any request target: no query, fragment or userinfo.

    Args:
        target: as received, refused ones too.
    """
    reduced = origin_form("GET", target)
    # Whatever stands in front of an "@" may be a password, unless it is part of a path.
    shorten = target.rpartition(b"@")[2] if reduced is None else reduced[0]
    return re.split(rb"[?#]", shorten, maxsplit=1)[0]


def body_bytes(fields: Fields, *, http_11: bool) -> int | None:
    """Return the length of a request's body: 0 for none, ``None`` when it comes in chunks.

    Args:
        fields: field lines as received.
        http_11: HTTP/1.0 knows no transfer coding.

    Raises:
        Refusal: the framing can be read in two ways.
    """
    lengths = values(fields, b"content-length")
    codings = [coding.lower() for coding in values(fields, b"transfer-encoding")]
    if len(lengths) > 1 or (lengths and not _DIGITS.fullmatch(lengths[0])):
        raise MessageError(400, "Content-Length is not one number.")
    if codings and (lengths or not http_11 or codings != [b"chunked"]):
        raise MessageError(400, "Transfer-Encoding is not chunked alone, or stands beside Content-Length.")
    # Some servers take a field with underscores for the real one.
    if any(b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING for name, _ in fields):
        raise MessageError(400, "A field is named almost like one that frames the body.")
    if codings:
        return None
    return int(lengths[0]) if lengths else 0


def expects_continue(fields: Fields) -> bool:
    """Tell whether the caller waits for ``100 Continue`` (RFC 9110 §10.1.1).

    Raises:
        Refusal: 417 for any other expectation.
    """
    expectations = {member.lower() for member in members(fields, b"expect")}
    if expectations - {b"100-continue"}:
        raise MessageError(417, "The only expectation that can be met is 100-continue.")
    return bool(expectations)
