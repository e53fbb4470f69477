"""The connection pool of Redis, bounded and replaceable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from gateway.store.redis_connection import connection_arguments
from gateway.store.redis_settings import RedisSettings
from gateway.tasks import TaskSet


class Link:
    """Opens connections on demand, and keeps them.

    Args:
        settings: how to reach Redis.
        tasks: run the closing of connections.
        on_opened: called before a new connection carries a command.

    Attributes:
        client: sends commands; replaced with the server or the settings.
        settings: as last given.
    """

    def __init__(self, settings: RedisSettings, tasks: TaskSet, on_opened: Callable[[], None]) -> None:
        self.settings = settings
        self._tasks = tasks
        self._on_opened = on_opened
        self.client = self._make_client()

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        # The pool has no public attribute for it.
        return len(self.client.connection_pool._in_use_connections)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""
        self.settings = settings
        # A pool reopens its connections with the arguments they were made with.
        former, self.client = self.client, self._make_client()
        self._tasks.start(self._retire(former), "redis-retire")

    def close_all(self) -> None:
        """Close every connection; the next one resolves the address again."""
        former, self.client = self.client, self._make_client()
        self._tasks.start(former.connection_pool.disconnect(), "redis-close")

    async def disconnect_idle(self) -> None:
        """Close connections that carry no command."""
        # Not with the pool's own method: it waits, and what is idle now may be in use by then.
        for connection in list(self.client.connection_pool._available_connections):
            await connection.disconnect()

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def _make_client(self) -> aioredis.Redis:
        settings = self.settings
        pool = aioredis.BlockingConnectionPool(
            max_connections=settings.max_connections,
            timeout=settings.timeout_s,
            redis_connect_func=self._on_connect,
            **connection_arguments(settings.url, settings.timeout_s, settings.tls),
        )
        client = aioredis.Redis.from_pool(pool)
        # The library's own only returns whether it was PONG.
        client.set_response_callback("PING", _unchanged)
        return client

    async def _retire(self, client: aioredis.Redis) -> None:
        # Commands under way end within the timeout.
        await asyncio.sleep(self.settings.timeout_s)
        await client.aclose()
        await client.connection_pool.disconnect()

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
        except ResponseError as error:
            await connection.disconnect()
            # The connection is refused, not one command.
            raise aioredis.ConnectionError from error
        except BaseException:
            # The library closes it after its own errors only; half set up it must not carry a command.
            await connection.disconnect()
            raise
        self._on_opened()


def _unchanged(response: Any, **_: Any) -> Any:
    return response
