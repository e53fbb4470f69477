"""Connections to the upstream that wait for their next request."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp.connector import Connection

from gateway.clock import Clock
from gateway.upstream.connection import UpstreamConnection

_IDLE_S = 60.0


class IdleConnections:
    """Keeps connections between two exchanges; the one used last is taken first.

    aiohttp's own pool can't be asked to look at a connection before it hands it out.

    Args:
        most: how many are kept; the oldest goes first.
        max_age_s: none is used again that was opened longer ago.
        clock: monotonic time.
    """

    def __init__(self, most: int, max_age_s: float, clock: Clock) -> None:
        self._most = most
        self._max_age_s = max_age_s
        self._clock = clock
        # With the monotonic time since which each is idle, oldest first.
        self._kept: deque[tuple[Connection, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> Connection | None:
        """Return a connection on which nothing has come since; ``None`` without one. Others are closed."""
        now_s = self._clock.monotonic_s()
        while self._kept:
            connection, _ = self._kept.pop()
            # None when it was closed meanwhile.
            protocol = connection.protocol
            if (
                isinstance(protocol, UpstreamConnection)
                and now_s - protocol.opened_s < self._max_age_s
                and protocol.is_quiet()
            ):
                return connection
            connection.close()
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose exchange has ended cleanly."""
        if len(self._kept) >= self._most:
            self._kept.popleft()[0].close()
        self._kept.append((connection, self._clock.monotonic_s()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self._close_old)

    def close(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
        while self._kept:
            self._kept.pop()[0].close()

    def _close_old(self) -> None:
        self._timer = None
        idle_since_s = self._clock.monotonic_s() - _IDLE_S
        while self._kept and self._kept[0][1] <= idle_since_s:
            self._kept.popleft()[0].close()
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self._close_old)


def protocol_of(connection: Connection) -> UpstreamConnection:
    """Return the protocol of a connection that is in use."""
    protocol = connection.protocol
    assert isinstance(protocol, UpstreamConnection)
    return protocol
