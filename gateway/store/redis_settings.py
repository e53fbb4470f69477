"""Settings of the connections to Redis."""

from __future__ import annotations

import ssl

import msgspec


class RedisSettings(msgspec.Struct, frozen=True):
    """How to reach Redis and how long to wait for it.

    Attributes:
        url: checked ``redis://``, ``rediss://`` or ``unix://`` URL.
        timeout_s: of one operation, connecting included.
        max_connections: bound of the pool.
        generation_ttl_s: how long a generation outlives the last store under it.
        mint_ttl_s: how long a new generation lives without a store.
        tls: for a ``rediss://`` URL.
    """

    url: str
    timeout_s: float
    max_connections: int
    generation_ttl_s: float
    mint_ttl_s: float
    tls: ssl.SSLContext | None = None
