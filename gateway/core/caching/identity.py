"""Identity and variant of a caller: the digests that separate the entries of callers."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

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
    """The caller of a request.

    Attributes:
        credential: digest of the credential: nobody is given what AOS has refused to another one.
        user: whom AOS serves and throttles: the same digest, or one for all tokens of a user.
        entry: owner of stored entries: the user, or one constant in shared scope.
        token: digest of the token, by which its user is known; empty where nobody asks for that.
    """

    credential: bytes
    user: bytes
    entry: bytes
    token: bytes = b""

    @property
    def is_one_of_many(self) -> bool:
        """Its user may have other tokens."""
        return self.user != self.credential


class TokenUsers(Protocol):
    """Knows the users of tokens."""

    def digest(self, token: bytes) -> bytes:
        """Return by what a token is known."""

    def user_of(self, digest: bytes, token: bytes) -> bytes | None:
        """Return the user of a token that is used now, as a digest; ``None`` where it is not known."""


def keyed(secret: bytes) -> bytes:
    """Return a BLAKE2b key (at most 64 bytes) for a secret of any length; empty for an empty one."""
    return secret if len(secret) <= 64 else blake2b(secret).digest()


class IdentityReader:
    """Derives the identity of a caller from its request, as a digest.

    Args:
        identity_headers: lower-case names of the fields, besides ``X-Auth-Token``, that identify a caller.
        secret: ``cache.secret``; an empty one makes unkeyed digests.
        shared: scope "shared": one owner for all entries.
        token_users: whose the tokens are; ``None``: each token is a caller of its own.

    Attributes:
        names: lower-case names of the fields that identify a caller.
        guarded: those names with ``-`` for ``_``; no other field's name may look like one of them.
    """

    def __init__(
        self,
        identity_headers: tuple[bytes, ...],
        secret: bytes,
        *,
        shared: bool,
        token_users: TokenUsers | None = None,
    ) -> None:
        self.names = tuple(sorted({TOKEN_FIELD, *identity_headers}))
        self._labelled = tuple((name, b"%d:%s" % (len(name), name)) for name in self.names)
        # Among labels and values in turn.
        self._token_position = 2 * self.names.index(TOKEN_FIELD) + 1
        self.guarded = frozenset(name.replace(b"_", b"-") for name in (*self.names, _AUTHORIZATION))
        self._key = keyed(secret)
        self._shared = shared
        self._token_users = token_users

    def identify(self, fields: Fields) -> Identity | Reason:
        """Return the identity in a request's end-to-end fields, or why it can't be derived safely.

        `Reason.SIGNED` for an access-key signature, `Reason.IDENTITY` for a missing, empty, repeated or
        disguised credential or a method override.
        """
        if signature.is_signed(fields):
            return Reason.SIGNED
        for lower in names(fields):
            plain = lower.replace(b"_", b"-")
            if plain in METHOD_OVERRIDES or lower == _AUTHORIZATION:
                return Reason.IDENTITY
            if plain in self.guarded and lower not in self.names:
                return Reason.IDENTITY
        parts: list[bytes] = []
        for name, label in self._labelled:
            lines = values(fields, name)
            if len(lines) > 1 or (name == TOKEN_FIELD and not (lines and lines[0])):
                return Reason.IDENTITY
            parts.append(label)
            parts.append(b"%d:%s" % (len(lines[0]), lines[0]) if lines else b"-")
        caller = self._digest(parts)
        users = self._token_users
        if users is None:
            return Identity(caller, caller, _SHARED if self._shared else caller)
        value = first(fields, TOKEN_FIELD) or b""
        token = users.digest(value)
        user = users.user_of(token, value)
        if user is not None:
            # No value of a field begins so.
            parts[self._token_position] = b"user:" + user
        owner = caller if user is None else self._digest(parts)
        return Identity(caller, owner, owner, token)

    def configured(self, *description: str) -> Identity:
        """Return the identity of the gateway's own credentials, by what tells them from others."""
        texts = [text.encode() for text in description]
        owner = self._digest([b"%d:%s" % (len(text), text) for text in texts], b"aosgw-own")
        return Identity(owner, owner, _SHARED if self._shared else owner)

    def _digest(self, parts: list[bytes], person: bytes = b"aosgw-caller") -> bytes:
        joined = b"".join(parts)
        return blake2b(joined, digest_size=_DIGEST_BYTES, key=self._key, person=person).digest()


class Variant(msgspec.Struct, frozen=True, gc=False):
    """The result of content negotiation.

    Attributes:
        general: digest of the negotiating fields; every ``Accept`` that prefers JSON counts as the same.
        accept: the ``Accept`` that prefers JSON, for responses that vary on it; empty for any other.
    """

    general: bytes
    accept: bytes

    @property
    def exact(self) -> bytes:
        """The variant with ``Accept`` as it was sent; never equal to the `general` of any variant."""
        return self.general + self.accept


def variant(fields: Fields) -> Variant | None:
    """Return a request's variant; ``None`` when one of its fields is longer than 64 bytes.

    Covers whether gzip is accepted, whether there is an ``Origin`` (a stored response may vary on it if the
    request had none), ``Accept``, ``Accept-Language`` and ``X-Language``.
    """
    coding = b"gzip" if accepts_gzip(fields) else b"identity"
    if first(fields, _ORIGIN) is not None:
        coding += b"|origin"
    parts = [coding]
    accept = b""
    for name in _VARIANT_FIELDS:
        lines = values(fields, name)
        if sum(map(len, lines)) > _VARIANT_FIELD_BYTES:
            return None
        part = b"|%d" % len(lines) + b"".join([b"%d:%s" % (len(value), value) for value in lines])
        if name == _ACCEPT and prefers_json(lines):
            accept, part = part, b"|json"
        parts.append(part)
    digest = blake2b(b"".join(parts), digest_size=16, person=b"aosgw-variant").digest()
    return Variant(digest, accept)


def prefers_json(accept: Sequence[bytes]) -> bool:
    """Tell whether lines of ``Accept``, or none, prefer no type to ``application/json`` (RFC 9110 §12.5.1).

    ``False`` also for a malformed or repeated range, or one with parameters that could select a kind of JSON.
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
    # The most specific matching range gives the weight.
    weight = next((weights[name] for name in _JSON_RANGES if name in weights), 0.0)
    return 0.0 < weight == max(weights.values(), default=0.0)
