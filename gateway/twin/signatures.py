"""Checks the signatures of access keys (SDK-HMAC-SHA256), as the API gateway in front of AOS does.

Its own reading of the scheme: it shares no code with what signs in the gateway.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

MAX_SKEW_S: Final = 900.0

_AUTHORIZATION = re.compile(
    rb"SDK-HMAC-SHA256 Access=(?P<key>[^, ]+), *"
    rb"SignedHeaders=(?P<names>[^, ]+), *Signature=(?P<hex>[0-9a-f]{64})"
)
_DATE = re.compile(rb"[0-9]{8}T[0-9]{6}Z")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_RESERVED = re.compile(rb"[^A-Za-z0-9._~-]")
_UNSIGNED: Final = b"UNSIGNED-PAYLOAD"

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access key.

    Attributes:
        security_token: what a temporary key's requests have to carry; None for a permanent key.
        project: whose stacks its requests see.
    """

    access_key: _Text
    secret_key: _Text
    security_token: str | None = None
    project: str = "twin"

    def __repr__(self) -> str:
        """Show its name alone."""
        return f"Key({self.access_key!r})"


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came: method, path and query, each field line, body."""

    method: str
    target: bytes
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes


class UnauthorizedError(Exception):
    """A request that AOS would not accept as anybody's; the text says why."""


def access_key_of(fields: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return the access key that a request names; None when it is not signed."""
    lines = [value for name, value in fields if name.lower() == b"authorization"]
    if len(lines) != 1 or not lines[0].startswith(b"SDK-HMAC-SHA256 "):
        return None
    match = _AUTHORIZATION.fullmatch(lines[0])
    return match["key"].decode("latin-1") if match else ""


def check(request: Signed, keys: Mapping[str, Key], now_s: float) -> Key:
    """Return the key that has signed a request, or raise `UnauthorizedError`, whose text names no secret."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in request.fields:
        values.setdefault(name.lower(), []).append(value.strip(b" \t"))
    match = _AUTHORIZATION.fullmatch(b"".join(values.get(b"authorization", [])))
    if match is None:
        raise UnauthorizedError("the Authorization field is malformed")
    key = keys.get(match["key"].decode("latin-1"))
    if key is None:
        raise UnauthorizedError("the access key does not exist")
    names = match["names"].split(b";")
    if names != sorted(set(names)) or not {b"host", b"x-sdk-date"} <= set(names):
        raise UnauthorizedError("SignedHeaders must be in order, with host and x-sdk-date")
    if any(len(values.get(name, [])) != 1 for name in names):
        raise UnauthorizedError("each signed field must be there once")
    token = None if key.security_token is None else [key.security_token.encode()]
    if values.get(b"x-security-token") != token or (token and b"x-security-token" not in names):
        raise UnauthorizedError("the security token is wrong or not signed")
    (date,) = values[b"x-sdk-date"]
    if not abs(now_s - _seconds(date)) <= MAX_SKEW_S:
        raise UnauthorizedError("the time of the signature is more than 15 minutes off")
    path, _, query = request.target.partition(b"?")
    heads = b"".join(b"%b:%b\n" % (name, values[name][0]) for name in names)
    digest = _payload(request.body, values.get(b"x-sdk-content-sha256", []))
    lines = (request.method.encode(), _path(path), _query(query), heads, match["names"], digest)
    hashed = hashlib.sha256(b"\n".join(lines)).hexdigest().encode()
    text = b"\n".join((b"SDK-HMAC-SHA256", date, hashed))
    expected = hmac.new(key.secret_key.encode(), text, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), match["hex"]):
        raise UnauthorizedError("the signature does not match")
    return key


def _seconds(date: bytes) -> float:
    """Return the Unix time of an X-Sdk-Date; NaN, which is near to nothing, when it is none."""
    try:
        if not _DATE.fullmatch(date):
            return float("nan")
        return datetime.strptime(date.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return float("nan")


def _payload(body: bytes, stated: list[bytes]) -> bytes:
    """Return what stands for the body; a stated digest is no better than the body's own."""
    return _UNSIGNED if body and stated == [_UNSIGNED] else hashlib.sha256(body).hexdigest().encode()


def _decoded(raw: bytes) -> bytes:
    octets = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), raw)
    return octets.decode("utf-8", "replace").encode()


def _encoded(octets: bytes) -> bytes:
    return _RESERVED.sub(lambda reserved: b"%%%02X" % ord(reserved[0]), octets)


def _path(raw: bytes) -> bytes:
    path = b"/".join(_encoded(segment) for segment in _decoded(raw).split(b"/"))
    return path if path.endswith(b"/") else path + b"/"


def _query(raw: bytes) -> bytes:
    pairs = [item.replace(b"+", b" ").partition(b"=") for item in raw.split(b"&") if item]
    decoded = sorted((_decoded(name), _decoded(value)) for name, _, value in pairs)
    return b"&".join(b"%b=%b" % (_encoded(name), _encoded(value)) for name, value in decoded)
