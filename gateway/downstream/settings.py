"""What bounds a caller's connection."""

from __future__ import annotations

import msgspec

from gateway.core.http.forwarded import TrustedProxies


class ConnectionSettings(msgspec.Struct, frozen=True):
    """Bounds of a downstream connection; times in seconds.

    Attributes:
        header_timeout_s: from the first byte of a head, or the opening of the connection, to its end.
        body_timeout_s: how long a caller may take nothing of an answer.
        keepalive_timeout_s: how long an idle connection stays open.
        max_header_bytes: bound of a whole head.
        max_connections: bound of open connections.
        max_connections_per_peer: bound of those from one address; 0 sets none.
        trusted_proxies: whose ``X-Forwarded-For`` tells who asks.
    """

    header_timeout_s: float
    body_timeout_s: float
    keepalive_timeout_s: float
    max_header_bytes: int
    max_connections: int
    max_connections_per_peer: int
    trusted_proxies: TrustedProxies = TrustedProxies()
