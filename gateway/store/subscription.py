"""Hears what other replicas forgot, and knows when it may have missed something."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from gateway.clock import Clock
from gateway.core.caching.invalidation_message import InvalidationMessage, read_message
from gateway.store.redis_connection import connection_arguments, password_of
from gateway.store.redis_errors import words_of
from gateway.store.redis_settings import RedisSettings
from gateway.telemetry.state_log import StateLog

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
        on_note: Callable[[InvalidationMessage], None],
    ) -> None:
        self.is_up = False
        self._first = asyncio.Event()
        self._may_listen = asyncio.Event()
        self._may_listen.set()
        self._departures = 0
        self._state = StateLog("redis subscription", clock)
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

    def leave(self) -> None:
        """Trust no word of this server any more, and listen to none before `come_back`."""
        self.is_up = False
        self._departures += 1
        self._may_listen.clear()

    def come_back(self) -> None:
        """Listen to the server that is there now."""
        self._may_listen.set()

    async def run(self) -> None:
        """Listen until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            await self._may_listen.wait()
            departures = self._departures
            why = f"no word for {_SILENT_S:g} s"
            try:
                await self._listen()
            except Exception as error:  # a parser that is fed with garbage raises whatever it meets
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # The connection failed on its way out of the cancellation.
                    raise asyncio.CancelledError from error
                why = words_of(error, password_of(self._settings.url))
            if departures == self._departures:
                self._state.down(why)
            retry_s = _FIRST_RETRY_S if self.is_up else min(retry_s * 2, _LAST_RETRY_S)
            self.is_up = False
            await asyncio.sleep(retry_s)

    async def _listen(self) -> None:
        """Listen on one connection until it fails or falls silent."""
        arguments = connection_arguments(self._settings.url, _CONNECT_S, self._settings.tls)
        client = aioredis.Redis.from_pool(aioredis.ConnectionPool(max_connections=1, **arguments))
        async with client, _PubSub(client.connection_pool) as subscription:
            departures = self._departures
            await subscription.subscribe(self._channel)
            heard_s = self._clock.monotonic_s()
            while departures == self._departures and self._clock.monotonic_s() - heard_s < _SILENT_S:
                message = await subscription.get_message(timeout=_PING_S)
                if message is None:
                    await subscription.ping()
                    continue
                heard_s = self._clock.monotonic_s()
                if departures == self._departures:
                    self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribe":
                self.is_up = True
                self._state.up()
                self._first.set()
                self._on_confirmed()
            case "message":
                data = message["data"]
                note = read_message(data) if isinstance(data, bytes) else None
                if note is not None:
                    self._on_note(note)
            case _:
                pass
