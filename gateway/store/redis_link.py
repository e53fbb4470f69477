"""The connections to Redis: a bounded pool that can be left for where the address leads then."""

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
    """Opens connections as they are needed, and keeps them.

    Args:
        settings: how to reach Redis.
        tasks: runs what closes connections.
        on_opened: called, without waiting, before a new connection carries a command.

    Attributes:
        client: what sends commands now; another one after each change of server or settings.
        settings: as given.
    """

    def __init__(self, settings: RedisSettings, tasks: TaskSet, on_opened: Callable[[], None]) -> None:
        self.settings = settings
        self._tasks = tasks
        self._on_opened = on_opened
        self.client = self._make_client()

    @property
    def connections(self) -> int:
        """How many connections carry a command."""
        # The pool has no public way to tell.
        return len(self.client.connection_pool._in_use_connections)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections that are opened from now on."""
        self.settings = settings
        # A pool opens the connections it knows with what they were made with, however often.
        former, self.client = self.client, self._make_client()
        self._tasks.start(self._retire(former), "redis-retire")

    def leave(self) -> None:
        """Close every connection: the next one is opened to where the address leads then."""
        former, self.client = self.client, self._make_client()
        self._tasks.start(former.connection_pool.disconnect(), "redis-leave")

    async def disconnect_idle(self) -> None:
        """Close what carries no command."""
        # Not the pool's own way, which waits: what is idle now may be in use by then.
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
        # The library's own tells only whether it was PONG.
        client.set_response_callback("PING", _as_it_is)
        return client

    async def _retire(self, client: aioredis.Redis) -> None:
        # What it still has under way ends or fails by then.
        await asyncio.sleep(self.settings.timeout_s)
        await client.aclose()
        await client.connection_pool.disconnect()

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
        except ResponseError as error:
            await connection.disconnect()
            # What is refused is the whole connection, and not one command.
            raise aioredis.ConnectionError from error
        except BaseException:
            # The library ends it after its own errors only; half set up it must not carry a command.
            await connection.disconnect()
            raise
        self._on_opened()


def _as_it_is(response: Any, **_: Any) -> Any:
    return response
