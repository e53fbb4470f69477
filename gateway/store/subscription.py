"""Receives the invalidations of other replicas, and reports when some may have been missed."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis

from gateway.clock import Clock
from gateway.core.caching.invalidation_message import InvalidationMessage, read_message
from gateway.store.redis_connection import Listener, connection_arguments
from gateway.store.redis_errors import error_text
from gateway.store.redis_link import Link
from gateway.store.redis_node import Node
from gateway.telemetry.state_log import StateLog

_PING_S = 1.0
_SILENT_S = 2.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
# No request waits for it, so connecting may take longer than a look-up.
_CONNECT_S = 1.0


class Subscription:
    """Listens on the gateway's channel, and reconnects.

    Args:
        link: knows where to listen.
        channel: `KeySpace.channel`.
        on_confirmed: called each time the subscription is confirmed: earlier messages may have been missed.
        on_message: called with each message.

    Attributes:
        is_up: messages are received.
    """

    def __init__(
        self,
        link: Link,
        channel: bytes,
        clock: Clock,
        on_confirmed: Callable[[], None],
        on_message: Callable[[InvalidationMessage], None],
    ) -> None:
        self.is_up = False
        self._link = link
        self._node: Node | None = None
        self._is_confirmed = asyncio.Event()
        self._has_changed = asyncio.Event()
        self._leavings = 0
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

    def leave(self, node: Node) -> None:
        """Leave a server, if it is the one listened to."""
        if node is self._node:
            self.is_up = False
            self._leavings += 1

    def resume(self) -> None:
        """Look again for a server to listen to: there may be one now."""
        self._has_changed.set()

    async def run(self) -> None:
        """Listen until cancelled."""
        retry_s = _FIRST_RETRY_S
        while True:
            node = self._node = await self._server()
            leavings = self._leavings
            why = f"no message for {_SILENT_S:g} s"
            try:
                await self._listen(node, leavings)
            except Exception as error:  # the parser raises anything when fed with garbage
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # The connection failed while it was being cancelled.
                    raise asyncio.CancelledError from error
                why = error_text(error, node.settings.password)
            if leavings == self._leavings:
                self._state.down(why)
            retry_s = _FIRST_RETRY_S if self.is_up else min(retry_s * 2, _LAST_RETRY_S)
            self.is_up = False
            await asyncio.sleep(retry_s)

    async def _server(self) -> Node:
        while (node := self._link.subscribe_at()) is None:
            self._has_changed.clear()
            await self._has_changed.wait()
        return node

    async def _listen(self, node: Node, leavings: int) -> None:
        """Listen on one connection until it fails, is silent for too long, or `leave` was called."""
        arguments = connection_arguments(node.settings, _CONNECT_S, node.locator)
        client = aioredis.Redis.from_pool(aioredis.ConnectionPool(max_connections=1, **arguments))
        async with client, Listener(client.connection_pool) as subscription:
            await subscription.subscribe(self._channel)
            received_s = self._clock.monotonic_s()
            while leavings == self._leavings and self._clock.monotonic_s() - received_s < _SILENT_S:
                message = await subscription.get_message(timeout=_PING_S)
                if message is None:
                    await subscription.ping()
                    continue
                received_s = self._clock.monotonic_s()
                if leavings == self._leavings:
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
