"""Who asks, in which variant: the digests that keep one caller's entries from another's."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from gateway.core import signature
from gateway.core.headers import accepts_gzip
from gateway.core.messages import Fields, first, names, values
from gateway.core.route import METHOD_OVERRIDES
from gateway.core.status import Reason

TOKEN_FIELD = b"x-auth-token"
_AUTHORIZATION = b"authorization"
_ORIGIN = b"origin"
_VARIANT_FIELDS = (b"accept", b"accept-language", b"x-language")
_VARIANT_FIELD_BYTES = 64
_DIGEST_BYTES = 32
_SHARED = b"shared"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Who a request comes from.

    Attributes:
        flight: digest of the credential; fetches are shared under it in every scope.
        entry: whom a stored entry belongs to: the same digest, or one constant in shared scope.
    """

    flight: bytes
    entry: bytes


def keyed(secret: bytes) -> bytes:
    """Return a BLAKE2b key (at most 64 bytes) for a secret of any length; empty stays empty."""
    return secret if len(secret) <= 64 else blake2b(secret).digest()


class Recogniser:
    """Tells one caller from another without keeping what they sent.

    Args:
        identity_headers: lower-case names beside ``X-Auth-Token`` that tell who a caller is.
        secret: ``cache.secret``; empty digests are unkeyed.
        shared: the scope: one owner for all entries.

    Attributes:
        names: lower-case names of the fields that tell who a caller is.
        guarded: what no other field may be named, nor look like: the names with ``-`` for ``_``.
    """

    def __init__(self, identity_headers: tuple[bytes, ...], secret: bytes, *, shared: bool) -> None:
        self.names = tuple(sorted({TOKEN_FIELD, *identity_headers}))
        self._labelled = tuple((name, b"%d:%s" % (len(name), name)) for name in self.names)
        self.guarded = frozenset(name.replace(b"_", b"-") for name in (*self.names, _AUTHORIZATION))
        self._key = keyed(secret)
        self._shared = shared

    def identify(self, fields: Fields) -> Identity | Reason:
        """Return who asks, or why that cannot be told safely.

        Args:
            fields: the request's end-to-end fields, as they will be sent upstream.

        Returns:
            `Reason.SIGNED` for an access-key signature, `Reason.IDENTITY` for a missing, empty,
            repeated or disguised credential or a method override.
        """
        if signature.is_signed(fields):
            return Reason.SIGNED
        for lower in names(fields):
            plain = lower.replace(b"_", b"-")
            if plain in METHOD_OVERRIDES or lower == _AUTHORIZATION:
                return Reason.IDENTITY
            if plain in self.guarded and lower not in self.names:
                return Reason.IDENTITY
        told: list[bytes] = []
        for name, label in self._labelled:
            found = values(fields, name)
            if len(found) > 1 or (name == TOKEN_FIELD and not (found and found[0])):
                return Reason.IDENTITY
            told.append(label)
            told.append(b"%d:%s" % (len(found[0]), found[0]) if found else b"-")
        caller = blake2b(
            b"".join(told), digest_size=_DIGEST_BYTES, key=self._key, person=b"aosgw-caller"
        ).digest()
        return Identity(flight=caller, entry=_SHARED if self._shared else caller)


def variant(fields: Fields) -> bytes | None:
    """Return the digest of what a caller negotiates; ``None`` when a field of it is over 64 bytes.

    Covers gzip accepted or not, an ``Origin`` sent or not (what is stored may vary on it while there is
    none), ``Accept``, ``Accept-Language`` and ``X-Language``.
    """
    coding = b"gzip" if accepts_gzip(fields) else b"identity"
    if first(fields, _ORIGIN) is not None:
        coding += b"|origin"
    told = [coding]
    for name in _VARIANT_FIELDS:
        found = values(fields, name)
        if sum(map(len, found)) > _VARIANT_FIELD_BYTES:
            return None
        told.append(b"|%d" % len(found))
        told += [b"%d:%s" % (len(value), value) for value in found]
    return blake2b(b"".join(told), digest_size=16, person=b"aosgw-variant").digest()
