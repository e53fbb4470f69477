"""Asks Sentinels where the primary is, which changes with a failover."""

import asyncio

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import InvalidResponse

from gateway.clock import Clock
from gateway.config.redis_url import RedisPlace
from gateway.store.redis_connection import RedisSettings, ask, connection_arguments
from gateway.store.redis_errors import error_text
from gateway.tasks import TaskSet

# As many connections as are opened within it cost one question.
_REMEMBERED_S = 1.0
_ASK_S = 1.0


class SentinelLocator:
    """Finds the primary of one service.

    Args:
        place: of the Sentinels.
        settings: of the primary, with users and passwords of both.

    Attributes:
        named: the primary that they named last.
    """

    def __init__(self, place: RedisPlace, settings: RedisSettings, tasks: TaskSet, clock: Clock) -> None:
        self.settings = settings
        self._place = place
        self._tasks = tasks
        self._clock = clock
        self._asking: asyncio.Task[tuple[str, int]] | None = None
        self.named: tuple[str, int] | None = None
        self._named_until_s = 0.0

    async def address(self) -> tuple[str, int]:
        """Return host and port of the primary.

        Raises:
            redis.exceptions.ConnectionError: no Sentinel knows it; the text has the words of all of them.
        """
        if self.named is not None and self._clock.monotonic_s() < self._named_until_s:
            return self.named
        if self._asking is None or self._asking.done():
            self._asking = self._tasks.start(self._ask(), "redis-sentinels", awaited=True)
        return await asyncio.shield(self._asking)

    def forget(self) -> None:
        """Ask anew next time: the primary may have changed."""
        self._named_until_s = 0.0

    async def _ask(self) -> tuple[str, int]:
        """Return what the first Sentinel says that knows the primary."""
        asked = [asyncio.ensure_future(self._ask_one(host, port)) for host, port in self._place.hosts]
        failures: dict[str, None] = {}
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    address = await answer
                except Exception as error:  # the parser raises anything when fed with garbage
                    failures[error_text(error, self.settings.sentinel_password)] = None
                    continue
                if address is not None:
                    self.named, self._named_until_s = address, self._clock.monotonic_s() + _REMEMBERED_S
                    return address
                failures[f"they do not know {self._place.service}"] = None
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise aioredis.ConnectionError(f"no Sentinel names a primary: {', '.join(failures)}")

    async def _ask_one(self, host: str, port: int) -> tuple[str, int] | None:
        at_sentinel = msgspec.structs.replace(self.settings, url=self._place.server_url(host, port))
        arguments = connection_arguments(at_sentinel, _ASK_S)
        arguments |= {
            "db": 0,
            "username": self.settings.sentinel_user or None,
            "password": self.settings.sentinel_password or None,
        }
        answer = await ask(arguments, _ASK_S, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._place.service)
        match answer:
            case [bytes(primary), bytes(primary_port)]:
                return primary.decode("ascii"), int(primary_port)
            case None:
                return None
        raise InvalidResponse
