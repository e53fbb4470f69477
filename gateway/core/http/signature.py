"""Access-key signatures: signed fields must reach the upstream unchanged."""

from collections.abc import Iterator

from gateway.core.http.messages import Fields, values

_SCHEMES = frozenset(
    {
        b"sdk-hmac-sha256",
        b"sdk-hmac-sm3",
        b"sdk-ecdsa-p256-sha256",
        b"sdk-sm2-sm3",
        b"v11-hmac-sha256",
    }
)

_UNSIGNED: frozenset[bytes] = frozenset()

FIELDS = frozenset({b"authorization", b"x-sdk-date", b"x-sdk-content-sha256"})
"""Lower-case names of the fields that carry the signature."""


def is_signed(fields: Fields) -> bool:
    """Tell whether a request carries an access-key signature (``Authorization: SDK-…``)."""
    return any(_scheme(value) in _SCHEMES for value in values(fields, b"authorization"))


def signed_fields(fields: Fields) -> frozenset[bytes]:
    """Return the lower-case names in ``SignedHeaders``; empty for an unsigned request."""
    lines = values(fields, b"authorization")
    if not lines:
        return _UNSIGNED
    names: set[bytes] = set()
    for value in lines:
        for listed in _parameters(value, b"signedheaders"):
            names.update(name.strip().lower() for name in listed.split(b";"))
    return frozenset(names - {b""})


def access_keys(fields: Fields) -> tuple[bytes, ...]:
    """Return the access keys named in signatures; empty for an unsigned request."""
    return tuple(
        access for value in values(fields, b"authorization") for access in _parameters(value, b"access")
    )


def _parameters(value: bytes, name: bytes) -> Iterator[bytes]:
    """Yield the values of a signature's parameters with this lower-case name."""
    if _scheme(value) not in _SCHEMES:
        return
    for part in value.partition(b" ")[2].split(b","):
        key, _, parameter = part.strip().partition(b"=")
        if key.lower() == name:
            yield parameter


def _scheme(value: bytes) -> bytes:
    return value.partition(b" ")[0].lower()
