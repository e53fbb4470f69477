"""How many callers may be connected, in all and from one address, and how the others are turned away."""

import asyncio
import contextlib
import logging
from collections import Counter

from gateway.config.model import ServerConfig
from gateway.core.http.framing import wire_head
from gateway.downstream.connection_origin import Origin
from gateway.errors import TooManyConnections, problem
from gateway.telemetry.access_log import AccessLog, Begun

_log = logging.getLogger("gateway.downstream.connection")
_MOST_LINGERING = 256
LINGER_S = 1.0
"""How long a connection is kept after its last answer: a reset could lose it (RFC 9112 §9.6)."""


class Admission:
    """Counts the open connections of a listener; other bounds do not end what is open."""

    def __init__(self, config: ServerConfig, access_log: AccessLog) -> None:
        self.config = config
        self._access_log = access_log
        self._by_peer: Counter[str] = Counter()
        self._lingering = 0

    def admit(self, peer: str | None, already_open: int) -> bool:
        """Count a new connection beside those open, or refuse it; on a Unix socket ``peer`` is ``None``."""
        _log.debug("connection from %s, %d are open", peer or "-", already_open)
        if already_open >= self.config.max_connections:
            return False
        if peer is not None and (most := self.config.max_connections_per_peer):
            if self._by_peer[peer] >= most:
                return False
            self._by_peer[peer] += 1
        return True

    def release(self, peer: str | None) -> None:
        """Release the place of a connection that was admitted."""
        _log.debug("end of a connection from %s", peer or "-")
        if peer is not None and peer in self._by_peer:
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]

    def turn_away(self, transport: asyncio.WriteTransport, request_id: bytes, origin: Origin) -> None:
        """Answer a connection that was not admitted and close it, a moment later unless many linger."""
        error = TooManyConnections()
        head, body = problem(error, request_id)
        lines, _, _ = wire_head(head, method="GET", body_bytes=len(body), http_11=True, keep_alive=False)
        answer = lines + body
        transport.write(answer)
        self._access_log.refused(error, request_id, origin.caller_address(()), Begun(), len(answer))
        if self._lingering >= _MOST_LINGERING or not transport.can_write_eof():
            transport.close()
            return
        self._lingering += 1
        with contextlib.suppress(OSError):
            transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, self._turned_away, transport)

    def _turned_away(self, transport: asyncio.WriteTransport) -> None:
        self._lingering -= 1
        transport.close()
