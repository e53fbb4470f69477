"""Who asks, in which variant: the digests that keep one caller's entries from another's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from gateway.core.caching.cache_status import Reason
from gateway.core.http import signature
from gateway.core.http.fields import accepts_gzip
from gateway.core.http.messages import Fields, first, names, values
from gateway.core.http.target import METHOD_OVERRIDES

TOKEN_FIELD = b"x-auth-token"
_AUTHORIZATION = b"authorization"
_ORIGIN = b"origin"
_ACCEPT = b"accept"
_VARIANT_FIELDS = (_ACCEPT, b"accept-language", b"x-language")
_PLAINLY_JSON = ([b"*/*"], [b"application/json"])
_JSON_RANGES = (b"application/json", b"application/*", b"*/*")
# A media range and its weight (RFC 9110 §12.5.1, §12.4.2); charset means nothing for JSON (RFC 8259 §11).
_MEDIA_RANGE = re.compile(
    rb"""[ \t]*([!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*
    (?:;[ \t]*charset="?utf-8"?[ \t]*)?
    (?:;[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?""",
    re.IGNORECASE | re.VERBOSE,
)
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


class IdentityReader:
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


class Variant(msgspec.Struct, frozen=True, gc=False):
    """What a caller negotiates.

    Attributes:
        general: digest of it, in which every ``Accept`` that prefers JSON is the same.
        accept: which of those it was, for what the upstream chooses by ``Accept``; empty for any other one.
    """

    general: bytes
    accept: bytes

    @property
    def exact(self) -> bytes:
        """What stands for all of it, ``Accept`` as it was sent; not what `general` is of any variant."""
        return self.general + self.accept


def variant(fields: Fields) -> Variant | None:
    """Return what a caller negotiates; ``None`` when a field of it is over 64 bytes.

    Covers gzip accepted or not, an ``Origin`` sent or not (what is stored may vary on it while there is
    none), ``Accept``, ``Accept-Language`` and ``X-Language``.
    """
    coding = b"gzip" if accepts_gzip(fields) else b"identity"
    if first(fields, _ORIGIN) is not None:
        coding += b"|origin"
    told = [coding]
    accept = b""
    for name in _VARIANT_FIELDS:
        found = values(fields, name)
        if sum(map(len, found)) > _VARIANT_FIELD_BYTES:
            return None
        lines = b"|%d" % len(found) + b"".join([b"%d:%s" % (len(value), value) for value in found])
        if name == _ACCEPT and prefers_json(found):
            accept, lines = lines, b"|json"
        told.append(lines)
    digest = blake2b(b"".join(told), digest_size=16, person=b"aosgw-variant").digest()
    return Variant(digest, accept)


def prefers_json(accept: Sequence[bytes]) -> bool:
    """Tell whether nothing is more welcome than ``application/json`` (RFC 9110 §12.5.1).

    Args:
        accept: the lines of ``Accept``; without any, everything is equally welcome.

    Returns:
        ``False`` also for what cannot be read, is said twice, or has parameters that could choose among
        kinds of JSON.
    """
    if not accept or accept in _PLAINLY_JSON:
        return True
    weights: dict[bytes, float] = {}
    for member in b",".join(accept).split(b","):
        if not member.strip(b" \t"):
            continue
        match = _MEDIA_RANGE.fullmatch(member)
        if match is None or match[1].lower() in weights:
            return False
        weights[match[1].lower()] = float(match[2] or 1)
    # The most specific range that matches tells how welcome it is.
    weight = next((weights[name] for name in _JSON_RANGES if name in weights), 0.0)
    return 0.0 < weight == max(weights.values(), default=0.0)
