"""Sends pending invalidations to Redis, and through it to the other replicas, until they are confirmed."""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

import msgspec

from gateway.clock import Clock
from gateway.core.caching.invalidation_message import InvalidationMessage
from gateway.store.invalidations import Invalidations, PendingInvalidation
from gateway.store.redis import RedisStore
from gateway.store.redis_errors import StoreError

# As many as fit well within the shortest sensible timeout on a busy machine; between two such batches other
# commands have their turn.
_AT_ONCE = 128
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 0.2
_FIRST_REFUSED_S = 0.5
_LAST_REFUSED_S = 30.0
# At the end a wrong server may still be replaced by the right one for so long.
_LAST_TRIES_S = 1.0


class InvalidationSender:
    """Sends the pending invalidations of one replica.

    Attributes:
        replica: the sender's name in published messages.
    """

    def __init__(self, redis: RedisStore, invalidations: Invalidations, clock: Clock) -> None:
        self.replica = secrets.token_hex(8)
        self._redis = redis
        self._invalidations = invalidations
        self._clock = clock
        self._is_pending = asyncio.Event()
        self._is_refused = asyncio.Event()
        self._retries_refused = asyncio.Event()

    def wake(self) -> None:
        """Send what is pending, if anything is."""
        if self._invalidations.pending:
            self._is_pending.set()

    def retry_refused_now(self) -> None:
        """Send now what was refused: a check of Redis has succeeded again."""
        self._retries_refused.set()

    async def run(self) -> None:
        """Send what is pending until cancelled."""
        while True:
            await self._is_pending.wait()
            self._is_pending.clear()
            retry_s = _FIRST_RETRY_S
            while due := self._due():
                if await self.send(due):
                    retry_s = _FIRST_RETRY_S
                else:
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, _LAST_RETRY_S)

    async def run_refused(self) -> None:
        """Send again what Redis has refused, less and less often, until cancelled."""
        pause_s = _FIRST_REFUSED_S
        while True:
            await self._is_refused.wait()
            self._retries_refused.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._retries_refused.wait()
            pause_s = min(pause_s * 2, _LAST_REFUSED_S)
            while due := self._invalidations.due_refused(_AT_ONCE):
                if not await self.send(due):
                    break
            else:
                self._is_refused.clear()
                pause_s = _FIRST_REFUSED_S

    async def send(self, invalidations: Sequence[PendingInvalidation]) -> bool:
        """Send once, and return whether Redis confirmed all, the messages to be published included."""
        self._invalidations.begin_sending(invalidations)
        try:
            replies = await self._redis.invalidate(
                [(pending.stack, self._message(pending)) for pending in invalidations]
            )
        except BaseException as error:  # also when nobody waits any more
            for pending in invalidations:
                self._invalidations.failed(pending)
            if isinstance(error, StoreError):
                return False
            raise
        now_s = self._clock.monotonic_s()
        are_confirmed = True
        for pending, (is_deleted, is_published) in zip(invalidations, replies, strict=True):
            if is_deleted and (is_published or not pending.publishes):
                self._invalidations.confirmed(pending, now_s)
            else:
                are_confirmed = False
                self._invalidations.refused(pending, is_published=is_published)
                self._is_refused.set()
        # A connection opened meanwhile makes earlier ones pending again.
        self.wake()
        return are_confirmed

    async def flush(self) -> None:
        """Send until nothing is pending; does not wait for what Redis refuses."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + _LAST_TRIES_S
        while due := self._due():
            if await self.send(due):
                continue
            if self._redis.condition.refuses and loop.time() >= ends_s:
                return
            await asyncio.sleep(_FIRST_RETRY_S)

    def _due(self) -> list[PendingInvalidation]:
        return self._invalidations.due(self._clock.monotonic_s(), _AT_ONCE)

    def _message(self, pending: PendingInvalidation) -> bytes | None:
        if not pending.publishes:
            return None
        age_s = max(0.0, self._clock.monotonic_s() - pending.written_s)
        return msgspec.json.encode(
            InvalidationMessage(pending.stack.decode(), age_s, pending.settles, self.replica)
        )
