"""Receives the invalidations of other replicas, and reports when some may have been missed."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from gateway.clock import Clock
from gateway.core.caching.invalidation_message import InvalidationMessage, read_message
from gateway.store.redis_connection import RedisSettings, connection_arguments
from gateway.store.redis_errors import error_text
from gateway.telemetry.state_log import StateLog

_PING_S = 1.0
_SILENT_S = 2.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
# No request waits for it, so connecting may take longer than a look-up.
_CONNECT_S = 1.0


class _PubSub(aioredis.client.PubSub):
    """Never reconnects by itself.

    The library reconnects and subscribes while connecting: with a server that accepts and resets, it recurses
    until the stack overflows, hundreds of connections later, and leaks the last of them.
    """

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        await conn.disconnect()


class Subscription:
    """Listens on the gateway's channel, and reconnects.

    Args:
        channel: `KeySpace.channel`.
        on_confirmed: called each time the subscription is confirmed: earlier messages may have been missed.
        on_message: called with each message.

    Attributes:
        is_up: messages are received.
        settings: of the next connection; another user, password or TLS context may be put here.
    """

    def __init__(
        self,
        settings: RedisSettings,
        channel: bytes,
        clock: Clock,
        on_confirmed: Callable[[], None],
        on_message: Callable[[InvalidationMessage], None],
    ) -> None:
        self.is_up = False
        self.settings = settings
        self._is_confirmed = asyncio.Event()
        self._may_connect = asyncio.Event()
        self._may_connect.set()
        self._pauses = 0
        self._state = StateLog("redis subscription", clock)
        self._channel = channel
        self._clock = clock
        self._on_confirmed = on_confirmed
        self._on_message = on_message

    async def wait_confirmed(self, timeout_s: float) -> None:
        """Wait for the first confirmation, at most for ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_confirmed.wait()

    def pause(self) -> None:
        """Leave this server, and connect to none before `resume`."""
        self.is_up = False
        self._pauses += 1
        self._may_connect.clear()

    def resume(self) -> None:
        """Connect to the server that the address leads to now."""
        self._may_connect.set()

    async def run(self) -> None:
        """Listen until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            await self._may_connect.wait()
            pauses = self._pauses
            why = f"no message for {_SILENT_S:g} s"
            try:
                await self._listen()
            except Exception as error:  # the parser raises anything when fed with garbage
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # The connection failed while it was being cancelled.
                    raise asyncio.CancelledError from error
                why = error_text(error, self.settings.password)
            if pauses == self._pauses:
                self._state.down(why)
            retry_s = _FIRST_RETRY_S if self.is_up else min(retry_s * 2, _LAST_RETRY_S)
            self.is_up = False
            await asyncio.sleep(retry_s)

    async def _listen(self) -> None:
        """Listen on one connection until it fails or is silent for too long."""
        arguments = connection_arguments(self.settings, _CONNECT_S)
        client = aioredis.Redis.from_pool(aioredis.ConnectionPool(max_connections=1, **arguments))
        async with client, _PubSub(client.connection_pool) as subscription:
            pauses = self._pauses
            await subscription.subscribe(self._channel)
            received_s = self._clock.monotonic_s()
            while pauses == self._pauses and self._clock.monotonic_s() - received_s < _SILENT_S:
                message = await subscription.get_message(timeout=_PING_S)
                if message is None:
                    await subscription.ping()
                    continue
                received_s = self._clock.monotonic_s()
                if pauses == self._pauses:
                    self._receive(message)

    def _receive(self, reply: dict[str, Any]) -> None:
        if reply["type"] == "subscribe":
            self.is_up = True
            self._state.up()
            self._is_confirmed.set()
            self._on_confirmed()
        elif reply["type"] == "message" and isinstance(data := reply["data"], bytes):
            message = read_message(data)
            if message is not None:
                self._on_message(message)
