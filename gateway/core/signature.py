"""Requests signed with an access key: what is signed must arrive as it was signed."""

from __future__ import annotations

from gateway.core.messages import Fields, values

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
"""Fields that carry the signature itself."""


def is_signed(fields: Fields) -> bool:
    """Tell whether a request carries an access-key signature (``Authorization: SDK-…``)."""
    return any(_scheme(value) in _SCHEMES for value in values(fields, b"authorization"))


def signed_fields(fields: Fields) -> frozenset[bytes]:
    """Return the lower-case names in ``SignedHeaders``; empty for an unsigned request."""
    given = values(fields, b"authorization")
    if not given:
        return _UNSIGNED
    names: set[bytes] = set()
    for value in given:
        if _scheme(value) not in _SCHEMES:
            continue
        for part in value.partition(b" ")[2].split(b","):
            key, _, listed = part.strip().partition(b"=")
            if key.lower() == b"signedheaders":
                names.update(name.strip().lower() for name in listed.split(b";"))
    return frozenset(names - {b""})


def _scheme(value: bytes) -> bytes:
    return value.partition(b" ")[0].lower()
