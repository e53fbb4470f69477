"""Asks Sentinels where the primary is, which changes with a failover."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import InvalidResponse

from gateway.clock import Clock
from gateway.config.redis_url import RedisPlace
from gateway.store.redis_connection import (
    Address,
    RedisSettings,
    ask,
    connection_arguments,
    server_address,
)
from gateway.store.redis_errors import error_text
from gateway.tasks import TaskSet
from gateway.telemetry.log_rate_limit import TokenBucket

# As many connections as are opened within it cost one question.
_REMEMBERED_S = 1.0
_ASK_S = 1.0
# Who has an answer waits so long for that of another Sentinel.
_OTHERS_S = 0.05
# Of Sentinels that contradict each other.
_LINES_PER_S = 0.1
_BURST = 6.0

_log = logging.getLogger("gateway")


class SentinelLocator:
    """Finds the primary of one service.

    Args:
        place: of the Sentinels.
        settings: of the primary, with users and passwords of both.

    Attributes:
        named: the primary that they named last.
        on_moved: called when they name another one than before.
    """

    def __init__(self, place: RedisPlace, settings: RedisSettings, tasks: TaskSet, clock: Clock) -> None:
        self.settings = settings
        self.on_moved: Callable[[], None] = lambda: None
        self._place = place
        self._tasks = tasks
        self._clock = clock
        self._asking: asyncio.Task[Address] | None = None
        self.named: Address | None = None
        self._named_until_s = 0.0
        self._failed: Address | None = None
        self._lines = TokenBucket(_LINES_PER_S, _BURST, clock.monotonic_s)

    async def address(self) -> Address:
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
        self._failed, self._named_until_s = self.named, 0.0

    async def _ask(self) -> Address:
        """Return what most Sentinels say: one that is cut off from the others names a former primary."""
        asked = {asyncio.ensure_future(self._ask_one(host, port)) for host, port in self._place.hosts}
        answers: Counter[Address] = Counter()
        failures: dict[str, None] = {}
        waiting = asked
        try:
            while waiting and 2 * max(answers.values(), default=0) <= len(asked):
                done, waiting = await asyncio.wait(
                    waiting, timeout=_OTHERS_S if answers else None, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    # The others are slow.
                    break
                for one in done:
                    try:
                        address = one.result()
                    except Exception as error:  # the parser raises anything when fed with garbage
                        failures[error_text(error, self.settings.sentinel_password)] = None
                        continue
                    if address is None:
                        failures[f"they do not know {self._place.service}"] = None
                    else:
                        answers[address] += 1
        finally:
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not answers:
            raise aioredis.ConnectionError(f"no Sentinel names a primary: {', '.join(failures)}")
        former = self.named
        self.named = max(answers, key=lambda one: (answers[one], one != self._failed, one == former))
        self._named_until_s = self._clock.monotonic_s() + _REMEMBERED_S
        if self.named != former:
            if self._lines.take():
                level = logging.INFO if former is None else logging.WARNING
                _log.log(level, "redis sentinel: the primary is %s:%d", *self.named)
            if former is not None:
                self.on_moved()
        return self.named

    async def _ask_one(self, host: str, port: int) -> Address | None:
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
                return server_address(primary.decode("ascii"), int(primary_port))
            case None:
                return None
        raise InvalidResponse
