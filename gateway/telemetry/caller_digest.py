"""Names a caller in the log: a short keyed digest of its credential."""

import secrets
from collections.abc import MutableMapping
from hashlib import blake2b

from gateway.core.caching.identity import TOKEN_FIELD, Identity, IdentityReader, keyed
from gateway.core.http.messages import Fields, values
from gateway.core.http.signature import access_keys

_DIGEST_BYTES = 6
# Inherited by workers and across a hot restart, so that the digests stay the same.
_VARIABLE = "_AOSGW_CALLER_KEY"


def digest_key(secret: bytes, environ: MutableMapping[str, str]) -> bytes:
    """Return the key of the digests: ``cache.secret``, or else a random value for this gateway's processes.

    That is left in the environment for child processes.
    """
    return secret or environ.setdefault(_VARIABLE, secrets.token_hex(32)).encode()


class CallerDigest:
    """Names callers for the log; the key is that of `digest_key`."""

    def __init__(self, identity_reader: IdentityReader, key: bytes) -> None:
        self._identity_reader = identity_reader
        self._key = keyed(key)

    def of(self, caller: Identity | Fields) -> str:
        """Return the digest of an identity, or of the credential in a request's fields; empty without one."""
        if isinstance(caller, Identity):
            return self._digest(caller.credential)
        found = self._identity_reader.identify(caller)
        if isinstance(found, Identity):
            return self._digest(found.credential)
        # Each signature is different, its access key is not.
        credentials = access_keys(caller) or (*values(caller, TOKEN_FIELD), *values(caller, b"authorization"))
        return self._digest(b"\n".join(credentials)) if any(credentials) else ""

    def _digest(self, credentials: bytes) -> str:
        return blake2b(credentials, digest_size=_DIGEST_BYTES, key=self._key, person=b"aosgw-log").hexdigest()
