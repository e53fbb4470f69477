"""Checks of a downstream request: line, target, Host, framing, expectations (RFC 9112 §3, §6)."""

import re

from gateway.core.http.errors import MessageError
from gateway.core.http.fields import nominated
from gateway.core.http.host import host_name
from gateway.core.http.messages import Fields, members, values
from gateway.core.http.target import origin_form

_DIGITS = re.compile(rb"[0-9]{1,18}")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REJECTED_METHODS = frozenset({"CONNECT", "TRACE"})
_LINE = re.compile(rb"[!-~]+ [^\x00- \x7f]+ HTTP/1\.[01]\r")
# Another HTTP version, or HTTP/0.9, which has no version in its line.
_OTHER_VERSION = re.compile(rb"[A-Z]+ (/[!-~]*|[!-~]+ HTTP/[0-9]\.[0-9])\r")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_BAD_LINE = "The request line is not a method, a target and a version, each separated by one space."
CARRIED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""For ``Allow``. Other methods that the parser knows are carried too."""
MAX_FIELDS = 512


def check_line(line: bytes) -> None:
    """Reject what isn't exactly a request line, without its line feed, of HTTP/1.1 or 1.0 (RFC 9112 §3).

    Raises:
        MessageError: 505 for another version, 400 for anything else.
    """
    if _LINE.fullmatch(line):
        return
    if _OTHER_VERSION.fullmatch(line):
        raise MessageError(505, "Only HTTP/1.1 and HTTP/1.0 are supported here.")
    raise MessageError(400, _BAD_LINE)


def own_request_id(fields: Fields) -> bytes | None:
    """Return the caller's own request id if it is fit for a log, else ``None``.

    The field is forwarded unchanged in any case; this is what the gateway itself repeats.
    """
    ids = values(fields, b"x-request-id")
    return ids[0] if len(ids) == 1 and is_plain_request_id(ids[0]) else None


def is_plain_request_id(request_id: bytes) -> bool:
    """Tell whether a request id is safe to repeat in logs and errors."""
    return _REQUEST_ID.fullmatch(request_id) is not None


def check_target(method: str, target: bytes) -> tuple[bytes, bytes | None]:
    """Reduce a target to origin-form.

    Returns:
        Path and query, or the ``*`` of an ``OPTIONS``, and the authority of an absolute-form target,
        ``None`` otherwise.

    Raises:
        MessageError: 405 for a method that is never carried, 400 for an unsupported target.
    """
    if method in _REJECTED_METHODS:
        raise MessageError(405, "CONNECT and TRACE are not carried.", allow=CARRIED_METHODS)
    reduced = origin_form(method, target)
    if reduced is None:
        raise MessageError(
            400, "The request target is not a path of visible ASCII characters without fragment."
        )
    return reduced


def check_host(fields: Fields, authority: bytes | None, *, http_11: bool) -> None:
    """Reject a missing, repeated, malformed or contradicted Host (RFC 9112 §3.2)."""
    hosts = values(fields, b"host")
    # RFC 9110 §7.2 allows an empty Host, but not an empty authority.
    named = [host for host in hosts if host] + ([] if authority is None else [authority])
    if any(host_name(host) is None for host in named):
        raise MessageError(400, "Host is not a host name with an optional port.")
    if len(hosts) > 1 or (http_11 and not hosts):
        raise MessageError(400, "A request needs exactly one Host field.")
    if authority is not None and hosts and hosts[0].lower() != authority.lower():
        raise MessageError(400, "Host and the target's authority differ.")


def persists(fields: Fields, *, http_11: bool) -> bool:
    """Tell whether the caller allows another request on its connection (RFC 9112 §9.3).

    ``close`` wins over ``keep-alive``; in HTTP/1.0 aiohttp does it the other way round.
    """
    options = nominated(fields)
    return b"close" not in options and (http_11 or b"keep-alive" in options)


def loggable_path(target: bytes) -> bytes:
    """Return what a log may show of a request target, valid or not: no query, fragment or userinfo."""
    reduced = origin_form("GET", target)
    # What precedes an "@" may be a password, unless it is part of a path.
    shown = target.rpartition(b"@")[2] if reduced is None else reduced[0]
    return re.split(rb"[?#]", shown, maxsplit=1)[0]


def body_bytes(fields: Fields, *, http_11: bool) -> int | None:
    """Return the length of a request's body: 0 for none, ``None`` for chunks, which HTTP/1.0 does not have.

    Raises:
        MessageError: 400 when the framing can be read in two ways.
    """
    lengths = values(fields, b"content-length")
    codings = [coding.lower() for coding in values(fields, b"transfer-encoding")]
    if len(lengths) > 1 or (lengths and not _DIGITS.fullmatch(lengths[0])):
        raise MessageError(400, "Content-Length is not one number.")
    if codings and (lengths or not http_11 or codings != [b"chunked"]):
        raise MessageError(400, "Transfer-Encoding is not chunked alone, or comes with Content-Length.")
    # Some servers treat underscores in a field name as hyphens.
    if any(b"_" in name and name.lower().replace(b"_", b"-") in _FRAMING for name, _ in fields):
        raise MessageError(400, "A field has almost the name of one that frames the body.")
    if codings:
        return None
    return int(lengths[0]) if lengths else 0


def expects_continue(fields: Fields) -> bool:
    """Tell whether the caller waits for ``100 Continue`` (RFC 9110 §10.1.1).

    Raises:
        MessageError: 417 for any other expectation.
    """
    expectations = {member.lower() for member in members(fields, b"expect")}
    if expectations - {b"100-continue"}:
        raise MessageError(417, "The only expectation that can be met is 100-continue.")
    return bool(expectations)
