"""What the log calls a caller: a short keyed digest of the credential, which cannot be turned back."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from hashlib import blake2b

from gateway.core.caching.identity import TOKEN_FIELD, Identity, IdentityReader, keyed
from gateway.core.http.messages import Fields, values
from gateway.core.http.signature import access_keys

_DIGEST_BYTES = 6
# Workers, and a process that takes over, inherit it, so that they call a caller the same.
_VARIABLE = "_AOSGW_CALLER_KEY"


def digest_key(secret: bytes, environ: MutableMapping[str, str]) -> bytes:
    """Return what keys the digests: ``cache.secret``, or a random value for this gateway's processes.

    Args:
        secret: ``cache.secret``; empty for none.
        environ: like `os.environ`, which processes that are started inherit; the value is left there.
    """
    return secret or environ.setdefault(_VARIABLE, secrets.token_hex(32)).encode()


class CallerDigest:
    """Names callers for the log.

    Args:
        recogniser: tells callers apart.
        key: see `digest_key`.
    """

    def __init__(self, identity_reader: IdentityReader, key: bytes) -> None:
        self._identity_reader = identity_reader
        self._key = keyed(key)

    def of(self, fields: Fields) -> str:
        """Return the digest of what a request shows; empty when it shows no credential."""
        found = self._identity_reader.identify(fields)
        if isinstance(found, Identity):
            return self.of_identity(found)
        # A signature differs from request to request, its access key does not.
        shown = access_keys(fields) or (*values(fields, TOKEN_FIELD), *values(fields, b"authorization"))
        return self._digest(b"\n".join(shown)) if any(shown) else ""

    def of_identity(self, identity: Identity) -> str:
        """Return the digest of a caller that was recognised."""
        return self._digest(identity.flight)

    def _digest(self, shown: bytes) -> str:
        return blake2b(shown, digest_size=_DIGEST_BYTES, key=self._key, person=b"aosgw-log").hexdigest()
