"""Tells Redis, and through it the other replicas, what is owed, until it confirms that."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

from gateway.clock import Clock
from gateway.core.caching.invalidation_message import InvalidationMessage, write_message
from gateway.core.caching.key import KeySpace
from gateway.store.base import StoreError
from gateway.store.invalidations import Invalidations, PendingInvalidation
from gateway.store.redis import RedisStore
from gateway.store.redis_changes import Forget

# As many as go well within the shortest sensible timeout, on a busy machine too; between two such slices
# others have their turns.
_AT_ONCE = 128
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 0.2
_FIRST_REFUSED_S = 0.5
_LAST_REFUSED_S = 30.0
# A server that is the wrong one may be replaced by the right one meanwhile.
_LAST_TRIES_S = 1.0


class Payments:
    """Sends the debts of one ledger.

    Args:
        redis: whom to tell.
        ledger: what is owed.
        keys: builds the keys.
        clock: tells the age of writes.

    Attributes:
        replica: the name under which notes are published.
    """

    def __init__(self, redis: RedisStore, invalidations: Invalidations, keys: KeySpace, clock: Clock) -> None:
        self.replica = secrets.token_hex(8)
        self._redis = redis
        self._ledger = invalidations
        self._keys = keys
        self._clock = clock
        self._is_owed = asyncio.Event()
        self._is_refused = asyncio.Event()
        self._is_well = asyncio.Event()

    def wake(self) -> None:
        """Look for something to pay."""
        if self._ledger.owed:
            self._is_owed.set()

    def retry_now(self) -> None:
        """Try again what was refused: Redis has changed its mind about something."""
        self._is_well.set()

    async def pay_on(self) -> None:
        """Pay what is owed whenever there is something; runs on."""
        while True:
            await self._is_owed.wait()
            self._is_owed.clear()
            retry_s = _FIRST_RETRY_S
            while debts := self._due():
                if await self.pay(debts):
                    retry_s = _FIRST_RETRY_S
                    continue
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)

    async def retry_refused(self) -> None:
        """Try again what Redis has refused, less and less often; runs on."""
        pause_s = _FIRST_REFUSED_S
        while True:
            await self._is_refused.wait()
            self._is_well.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_well.wait()
            pause_s = min(pause_s * 2, _LAST_REFUSED_S)
            while debts := self._ledger.refused_debts(_AT_ONCE):
                if not await self.pay(debts):
                    break
            else:
                self._is_refused.clear()
                pause_s = _FIRST_REFUSED_S

    async def pay(self, debts: Sequence[PendingInvalidation]) -> bool:
        """Tell Redis once, and return whether all was confirmed.

        A debt is cleared only by both replies to its own sequence number.
        """
        unknown = list(debts)
        self._ledger.send(debts)
        try:
            forgotten = await self._redis.forget_all([self._forget(debt) for debt in debts])
            unknown.clear()
        except StoreError:
            return False
        finally:
            for debt in unknown:
                self._ledger.failed(debt)
        now_s = self._clock.monotonic_s()
        are_paid = True
        for debt, reply in zip(debts, forgotten, strict=True):
            if reply.is_deleted and (reply.is_published or not debt.published):
                self._ledger.paid(debt, now_s)
            else:
                are_paid = False
                self._ledger.refuse(debt, is_told=reply.is_published)
                self._is_refused.set()
        # A connection opened on the way may have missed what was sent before it.
        self.wake()
        return are_paid

    async def flush(self) -> None:
        """Pay what can be paid; what Redis refuses is not waited for."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + _LAST_TRIES_S
        while debts := self._due():
            if await self.pay(debts):
                continue
            if self._redis.condition.refuses and loop.time() >= ends_s:
                return
            await asyncio.sleep(_FIRST_RETRY_S)

    def _due(self) -> list[PendingInvalidation]:
        return self._ledger.debts(self._clock.monotonic_s(), _AT_ONCE)

    def _forget(self, debt: PendingInvalidation) -> Forget:
        note = None
        if debt.published:
            age_s = max(0.0, self._clock.monotonic_s() - debt.written_s)
            note = write_message(InvalidationMessage(debt.stack.decode(), age_s, debt.settles, self.replica))
        return Forget(self._keys.generation(debt.stack), note)
