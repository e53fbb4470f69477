"""Connections to the upstream that wait for their next exchange."""

import asyncio
from collections import deque

from gateway.clock import Clock
from gateway.upstream.connection import UpstreamConnection

_IDLE_S = 60.0


class IdleConnections:
    """Keeps connections between two exchanges; the one used last is taken first.

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
        self._kept: deque[tuple[UpstreamConnection, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, now_s: float) -> UpstreamConnection | None:
        """Return a connection on which nothing has come since; ``None`` without one. Others are closed."""
        while self._kept:
            connection, _ = self._kept.pop()
            if now_s - connection.opened_s < self._max_age_s and connection.is_quiet():
                return connection
            connection.close()
        return None

    def keep(self, connection: UpstreamConnection) -> None:
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
            self._timer = None
        while self._kept:
            self._kept.pop()[0].close()

    def _close_old(self) -> None:
        self._timer = None
        idle_since_s = self._clock.monotonic_s() - _IDLE_S
        while self._kept and self._kept[0][1] <= idle_since_s:
            self._kept.popleft()[0].close()
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_S, self._close_old)
