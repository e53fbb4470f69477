"""An access key, with which each request is signed."""

import asyncio
from typing import Final

from gateway.clock import Clock
from gateway.config.model import Config
from gateway.core.aos.signing import AccessKey, sign
from gateway.core.http.messages import Fields, first, values

# Hashing more than this would hold up other requests.
_LARGE_BYTES = 65_536


class AccessKeySource:
    """Signs requests as they go out, for AOS accepts a signature for minutes only."""

    needs_body: Final = True
    since_s: Final = None
    is_unavailable: Final = False

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self.change(config)

    def description(self) -> tuple[str, ...]:
        return ("access-key", self._key.access_key)

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        # Not what a proxy on the way may change.
        signed = [("Host", (first(fields, b"host") or b"").decode("ascii"))]
        types = values(fields, b"content-type")
        if len(types) == 1 and types[0].isascii():
            signed.append(("Content-Type", types[0].decode("ascii")))
        arguments = (self._key, method, target.decode("ascii"), signed, body, self._clock.wall_s())
        added = sign(*arguments) if len(body) <= _LARGE_BYTES else await asyncio.to_thread(sign, *arguments)
        return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in added)

    async def renew(self, refused: Fields) -> bool:
        return False

    def change(self, config: Config) -> None:
        of = config.credentials
        token = of.security_token.reveal() or None
        self._key = AccessKey(of.access_key, of.secret_key.reveal(), token)

    async def close(self) -> None:
        pass
