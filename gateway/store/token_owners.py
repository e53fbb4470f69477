"""Whose tokens are, shared by the gateways of one Redis: read by those alone who know ``cache.secret``."""

import contextlib
import hmac
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from gateway.clock import Clock
from gateway.core.aos.iam_token import TokenOwner
from gateway.core.caching.identity import keyed
from gateway.core.caching.key import KeySpace
from gateway.store.redis import RedisStore
from gateway.store.redis_errors import StoreError

_VERSION = 1
_TAG_BYTES = 16
# Version, digest of the token, user, end.
_Stored = tuple[int, bytes, bytes, float]
_decoder = msgspec.msgpack.Decoder(_Stored)


@dataclass(frozen=True, repr=False)
class TokenOwners:
    """The users of tokens in Redis; what cannot be read there, or is not sealed, is not there.

    Attributes:
        iam_url: whose word it is.
        secret: ``cache.secret`` as bytes, not empty: who could write without it could say who is who.
    """

    store: RedisStore
    keys: KeySpace
    iam_url: str
    secret: bytes
    clock: Clock

    async def read(self, token: bytes) -> TokenOwner | None:
        """Return whose token it is, by its digest; ``None`` when that is not stored."""
        name, value = self._name(token), None
        with contextlib.suppress(StoreError):
            value = await self.store.get(name)
        if value is None or not hmac.compare_digest(
            value[-_TAG_BYTES:], self._tag(name, value[:-_TAG_BYTES])
        ):
            return None
        with contextlib.suppress(msgspec.DecodeError):
            version, digest, user, ends_s = _decoder.decode(value[:-_TAG_BYTES])
            if (version, digest) == (_VERSION, token) and ends_s > self.clock.wall_s():
                return TokenOwner(user, ends_s)
        return None

    async def write(self, token: bytes, owner: TokenOwner) -> None:
        """Store whose token it is, until its ``expires_s``."""
        name, life_s = self._name(token), owner.expires_s - self.clock.wall_s()
        content = msgspec.msgpack.encode((_VERSION, token, owner.user, owner.expires_s))
        if life_s > 0:
            with contextlib.suppress(StoreError):
                await self.store.put(name, content + self._tag(name, content), life_s)

    def _name(self, token: bytes) -> bytes:
        digest = self._digest(b"aosgw-owner-name", b"%d:%s" % (len(token), token) + self.iam_url.encode(), 24)
        return b"%s:owner%d:%s" % (self.keys.prefix, _VERSION, digest.hex().encode("ascii"))

    def _tag(self, name: bytes, content: bytes) -> bytes:
        return self._digest(b"aosgw-owner-tag", b"%d:%s" % (len(name), name) + content, _TAG_BYTES)

    def _digest(self, person: bytes, content: bytes, size: int) -> bytes:
        return blake2b(content, digest_size=size, key=keyed(self.secret), person=person).digest()
