"""Hears what other replicas forgot, and knows when it may have missed something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from gateway.clock import Clock
from gateway.core.note import Note, read_note
from gateway.store.redis import RedisSettings
from gateway.store.redis_connection import connection_arguments

_PING_S = 1.0
_SILENT_S = 2.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
# A subscription waits for others' writes, not for an answer: connecting may take longer than a look-up.
_CONNECT_S = 1.0


class _PubSub(aioredis.client.PubSub):
    """Never connects again by itself.

    The library does, and subscribes anew while connecting: before a Redis that accepts and resets it calls
    itself until the stack is full, hundreds of connections later, and loses the last of them.
    """

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        await conn.disconnect()


class Subscription:
    """Listens on the gateway's channel, reconnecting for ever.

    Args:
        settings: how to reach Redis.
        channel: from `KeySpace.channel`.
        clock: tells silence.
        on_confirmed: called each time the subscription stands anew: whatever was said before may
            have been missed.
        on_note: called with each note.
    """

    def __init__(
        self,
        settings: RedisSettings,
        channel: bytes,
        clock: Clock,
        on_confirmed: Callable[[], None],
        on_note: Callable[[Note], None],
    ) -> None:
        self.is_up = False
        self._first = asyncio.Event()
        self._settings = settings
        self._channel = channel
        self._clock = clock
        self._on_confirmed = on_confirmed
        self._on_note = on_note

    async def wait_first(self, timeout_s: float) -> None:
        """Wait until it stands for the first time, at most for ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._first.wait()

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context from the next connection on."""
        self._settings = settings

    async def run(self) -> None:
        """Listen until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            # A parser that is fed with garbage raises whatever it meets; listening must not end with it.
            with contextlib.suppress(Exception):
                await self._listen()
            retry_s = _FIRST_RETRY_S if self.is_up else min(retry_s * 2, _LAST_RETRY_S)
            self.is_up = False
            await asyncio.sleep(retry_s)

    async def _listen(self) -> None:
        """Listen on one connection until it fails or falls silent."""
        arguments = connection_arguments(self._settings.url, _CONNECT_S, self._settings.tls)
        client = aioredis.Redis.from_pool(aioredis.ConnectionPool(max_connections=1, **arguments))
        async with client, _PubSub(client.connection_pool) as subscription:
            await subscription.subscribe(self._channel)
            heard_s = self._clock.monotonic_s()
            while self._clock.monotonic_s() - heard_s < _SILENT_S:
                message = await subscription.get_message(timeout=_PING_S)
                if message is None:
                    await subscription.ping()
                    continue
                heard_s = self._clock.monotonic_s()
                self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribe":
                self.is_up = True
                self._first.set()
                self._on_confirmed()
            case "message":
                data = message["data"]
                note = read_note(data) if isinstance(data, bytes) else None
                if note is not None:
                    self._on_note(note)
            case _:
                pass
