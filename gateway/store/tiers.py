"""Memory and Redis as one store that forgets as designed: generations, debts, notes and changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

import msgspec

from gateway.clock import Clock
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.entry import Entry
from gateway.core.caching.invalidation_message import InvalidationMessage
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.base import StoreError, StoreResult
from gateway.store.invalidations import Invalidations, PendingInvalidation
from gateway.store.lookup import ABSENT, EarlyLookup, Fetches, FillToken, LookupResult
from gateway.store.memory import MemoryStore
from gateway.store.payments import Payments
from gateway.store.redis import RedisStore
from gateway.store.redis_changes import Write
from gateway.store.redis_settings import RedisSettings
from gateway.store.subscription import Subscription
from gateway.store.write_queue import WriteQueue
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics


class TierSettings(msgspec.Struct, frozen=True):
    """How the tiers are set up.

    Attributes:
        memory_bytes: bound of the memory tier; 0 for none.
        memory_ttl_s: life of a copy in memory while Redis is configured.
        longest_ttl_s: no entry outlives this.
        settle_s: how long after a write a stack's records may change.
        redis: how to reach Redis; ``None`` without it.
    """

    memory_bytes: int
    memory_ttl_s: float
    longest_ttl_s: float
    settle_s: float
    redis: RedisSettings | None


class Tiers:
    """The stores of one gateway, and the one place where forgetting happens.

    Args:
        settings: how they are set up.
        keys: builds the keys.
        secret: ``cache.secret`` as bytes.
        clock: both clocks.
        metrics: counts what is not stored and what is forgotten.
        on_forget: called in the same stretch for each forgotten stack: detach its flights.
        on_start_over: called when notes may have been missed: detach all flights.
    """

    def __init__(
        self,
        settings: TierSettings,
        *,
        keys: KeySpace,
        secret: bytes,
        clock: Clock,
        metrics: Metrics,
        on_forget: Callable[[bytes], None],
        on_start_over: Callable[[], None],
    ) -> None:
        self.invalidations = Invalidations(settings.longest_ttl_s, settings.settle_s)
        self.memory = MemoryStore(settings.memory_bytes, clock) if settings.memory_bytes else None
        self.redis: RedisStore | None = None
        self.subscription: Subscription | None = None
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._on_forget = on_forget
        self._on_start_over = on_start_over
        self._tasks = TaskSet()
        self._writes: WriteQueue[FillToken] = WriteQueue()
        self._fetches: WeakValueDictionary[bytes, Fetches] = WeakValueDictionary()
        self._payments: Payments | None = None
        self._keeps_nothing = False
        if settings.redis is not None:
            self.redis = RedisStore(
                settings.redis,
                keys=keys,
                secret=secret,
                clock=clock,
                metrics=metrics,
                on_connection_opened=self._connection_opened,
                on_left=self._redis_left,
                on_well=self._redis_well,
            )
            self.subscription = Subscription(
                settings.redis, keys.channel, clock, self._start_over, self._note_received
            )
            self._payments = Payments(self.redis, self.invalidations, keys, clock)
        self.invalidations.subscription_confirmed(clock.monotonic_s())

    def start(self) -> None:
        """Start what runs beside the requests."""
        if self.redis is not None and self.subscription is not None and self._payments is not None:
            self._tasks.start(self.redis.monitor(), "redis-look")
            self._tasks.start(self.subscription.run(), "redis-subscription")
            self._tasks.start(self._send_writes(self.redis), "redis-writes")
            self._tasks.start(self._payments.pay_on(), "redis-debts")
            self._tasks.start(self._payments.retry_refused(), "redis-refused")
            self._tasks.start(self.redis.probe_while_open(), "redis-probe")

    def disable_memory(self) -> None:
        """Keep and use no records until `enable_memory`: what another process forgets goes unheard."""
        self._keeps_nothing = True
        if self.memory is not None:
            self.memory.retire()

    def enable_memory(self) -> None:
        """Keep records, but none of what was fetched until now."""
        self._keeps_nothing = False
        if self.memory is not None:
            self.memory.limit_bytes = self._settings.memory_bytes
        self._start_over()

    @property
    def queued(self) -> int:
        """How many changes wait to be sent to Redis."""
        return len(self._writes)

    def fill_token(self, key: EntryKey) -> FillToken:
        """Begin a look-up or a fill."""
        return FillToken(
            key=key,
            since=self.invalidations.changes.number,
            wall_s=self._clock.wall_s(),
            monotonic_s=self._clock.monotonic_s(),
        )

    def peek(self, key: EntryKey) -> Entry | None:
        """Look into process memory alone; never waits."""
        return self.memory.get(key.local) if self.memory is not None else None

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Look into memory, then into Redis; a copy found there is kept in memory."""
        if (entry := self.peek(key)) is not None:
            return LookupResult(entry)
        if self.redis is None or self._is_kept_from_redis(key):
            # What is kept from Redis is gone from there before it is asked again, unless all is kept from it.
            return LookupResult(None) if self._keeps_nothing else ABSENT
        fill_token = self.fill_token(key)
        try:
            found: StoreResult | StoreError = await self.redis.lookup(key)
        except StoreError as error:
            found = error
        return self._seen(fill_token, found)

    def lookup_now(self, key: EntryKey) -> EarlyLookup | None:
        """Look up what memory doesn't have, where that needs no wait; ``None`` where it does."""
        if self.redis is not None and not self._is_kept_from_redis(key):
            return None
        return EarlyLookup(self.fill_token(key), ABSENT)

    def ask_redis(self, key: EntryKey, told: Callable[[EarlyLookup], None]) -> bool:
        """Look into Redis for what memory doesn't have, without a wait here.

        Args:
            key: what to look for.
            told: called once, later, with the result.

        Returns:
            Whether Redis is asked at all.
        """
        redis = self.redis
        if redis is None or not redis.breaker.is_closed or self._is_kept_from_redis(key):
            return False
        fill_token = self.fill_token(key)
        redis.lookup_soon(key, lambda found: told(EarlyLookup(fill_token, self._seen(fill_token, found))))
        return True

    def _is_kept_from_redis(self, key: EntryKey) -> bool:
        return self._owes(key.stack) or self._writes.is_dropping(key.name)

    def _seen(self, fill_token: FillToken, found: StoreResult | StoreError) -> LookupResult:
        if isinstance(found, StoreError):
            return LookupResult(None, has_failed=True)
        if self._has_changed(fill_token) or self._owes(fill_token.key.stack):
            return LookupResult(None)
        if found.entry is None:
            return LookupResult(None, found.generation, is_absent=True)
        entry = found.entry.taken_in(fill_token.wall_s, fill_token.monotonic_s)
        self._keep_in_memory(fill_token, entry)
        return LookupResult(entry, found.generation)

    def lacks_generation(self, found: EarlyLookup) -> bool:
        """Tell whether a fill needs `mint` first: Redis was asked, and the stack has no generation."""
        lookup = found.lookup
        return (
            self.redis is not None
            and lookup.generation is None
            and not lookup.has_failed
            and not self._owes(found.fill_token.key.stack)
        )

    async def mint(self, key: EntryKey) -> bytes | None:
        """Give a stack a generation, before a fetch; ``None`` when Redis has none to give."""
        if self.redis is None:
            return None
        try:
            return await self.redis.mint(key)
        except StoreError:
            return None

    def begin_fetch(self, fill_token: FillToken, generation: bytes | None = None) -> FillToken:
        """Put a fetch that begins now in order with others of the same entry; `store` or `drop` ends it.

        Args:
            fill_token: taken before the look-up.
            generation: of the stack, from before the fetch; ``None`` stores nothing in Redis.
        """
        key = fill_token.key
        if self._is_forgotten(fill_token) or self._owes(key.stack):
            generation = None
        fetches = self._fetches.get(key.local)
        if fetches is None:
            self._fetches[key.local] = fetches = Fetches()
        number = self.invalidations.changes.next()
        return msgspec.structs.replace(fill_token, generation=generation, fetches=fetches, fetch=number)

    def store(self, fill_token: FillToken, entry: Entry) -> Reason | None:
        """Keep a record in every tier that may have it; Redis gets it later, not on the caller's time.

        Returns:
            ``None`` when at least one tier took it, otherwise why none did.
        """
        if self._is_forgotten(fill_token) or not fill_token.ends_in_order():
            self._metrics.not_stored["overtaken"] += 1
            return Reason.FORGOTTEN
        entry = entry.taken_in(fill_token.wall_s, fill_token.monotonic_s)
        # A look-up that began before may bring what stood there until now.
        self.invalidations.changes.change(fill_token.key.local)
        kept = self._keep_in_memory(fill_token, entry)
        queued = self._queue_store(fill_token, entry)
        return None if kept or queued else Reason.NO_TIER

    def drop(self, fill_token: FillToken, lookup: LookupResult) -> None:
        """Remove a caller's own entry, which a fetch has shown to be over.

        Fetches of it that began earlier are not stored any more. Where it was seen absent and has not been
        stored since, there is nothing to remove.

        Args:
            ticket: of that fetch.
            lookup: what came before it.
        """
        key = fill_token.key
        is_absent = lookup.is_absent and not self.invalidations.changes.has_changed(
            key.local, fill_token.since
        )
        if fill_token.ends_in_order() and not is_absent:
            self._remove(key)

    def _remove(self, key: EntryKey) -> None:
        self.invalidations.changes.change(key.local)
        if self.memory is not None:
            self.memory.discard(key.local)
        if self.redis is None:
            return
        if not self._writes.offer(self.fill_token(key), Write(key, None, b"")):
            self._owe(key)

    async def forget(self, stacks: Iterable[bytes], cause: str, *, settles: bool) -> bool:
        """Make every stored entry of these stacks unusable, on every replica.

        What this process holds is gone before the first wait; Redis and with it the others are told
        next, for at most ``redis.timeout_s``, and again later if that fails.

        Args:
            stacks: case-folded ids.
            cause: ``write`` or ``purge``, for the metrics.
            settles: AOS may change the records for a while yet; false for a purge.

        Returns:
            Whether Redis, where there is one, was told.
        """
        debts: list[PendingInvalidation] = []
        now_s = self._clock.monotonic_s()
        for stack in stacks:
            debt = self.invalidations.forget(stack, now_s, settles=settles, owes=self._payments is not None)
            if debt is not None:
                debts.append(debt)
            self._forget_here(stack)
            self._metrics.forgotten[cause] += 1
        if self._payments is None:
            return True
        try:
            return await self._payments.pay(debts)
        finally:
            self._payments.wake()

    async def close(self, timeout_s: float) -> None:
        """Send what is queued and owed, at most for ``timeout_s``, then let go of everything."""
        if self.redis is not None and self._payments is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self._writes:
                        await self._send_some_writes(self.redis)
                    await self._payments.flush()
        await self._tasks.cancel()
        if self.redis is not None:
            await self.redis.close()
        if self.memory is not None:
            await self.memory.close()

    def _owes(self, stack: bytes) -> bool:
        return self._keeps_nothing or self.invalidations.owes(stack)

    def _is_forgotten(self, fill_token: FillToken) -> bool:
        return self.invalidations.changes.has_changed(fill_token.key.stack, fill_token.since)

    def _has_changed(self, fill_token: FillToken) -> bool:
        return self._is_forgotten(fill_token) or self.invalidations.changes.has_changed(
            fill_token.key.local, fill_token.since
        )

    def _keep_in_memory(self, fill_token: FillToken, entry: Entry) -> bool:
        if self.memory is None:
            return False
        life_s = entry.ttl_s(entry.now_s(fill_token.wall_s, fill_token.monotonic_s))
        if self.redis is not None:
            life_s = min(life_s, self._settings.memory_ttl_s)
        return self.memory.put(fill_token.key, entry, fill_token.monotonic_s + life_s)

    def _queue_store(self, fill_token: FillToken, entry: Entry) -> bool:
        if self.redis is None or fill_token.generation is None:
            return False
        if self._owes(fill_token.key.stack):
            return False
        if not self._writes.offer(fill_token, Write(fill_token.key, entry, fill_token.generation)):
            self._metrics.not_stored["queue-full"] += 1
            return False
        return True

    async def _send_writes(self, redis: RedisStore) -> None:
        while True:
            await self._writes.wait()
            await self._send_some_writes(redis)

    async def _send_some_writes(self, redis: RedisStore) -> None:
        due: list[Write] = []
        taken = self._writes.take()
        for fill_token, write in taken:
            is_void = self._is_forgotten(fill_token) or self._owes(fill_token.key.stack)
            if write.entry is None or not is_void:
                due.append(write)
        try:
            await redis.write(due)
        except StoreError:
            self._writes_failed(due)
        self._writes.answered(taken)

    def _writes_failed(self, writes: Iterable[Write]) -> None:
        for write in writes:
            if write.entry is not None:
                self._metrics.not_stored["redis-failed"] += 1
            else:
                self._owe(write.key)

    def _owe(self, key: EntryKey) -> None:
        # An entry that could not be removed must not be served: owe the whole stack instead.
        self.invalidations.owe(key.stack, self._clock.monotonic_s())
        self._wake_payments()

    def _forget_here(self, stack: bytes) -> None:
        if self.memory is not None:
            self.memory.discard_stack(stack)
        self._on_forget(stack)

    def _dropped_elsewhere(self, name: bytes) -> None:
        """Void what has begun until now: nobody can tell in which order two processes began."""
        self.invalidations.changes.change(name)
        if (fetches := self._fetches.get(name)) is not None:
            fetches.end(self.invalidations.changes.number)

    def _wake_payments(self) -> None:
        if self._payments is not None:
            self._payments.wake()

    def _connection_opened(self) -> None:
        self.invalidations.connection_opened(self._clock.monotonic_s())
        self._wake_payments()

    def _redis_left(self) -> None:
        if self.subscription is not None:
            self.subscription.leave()

    def _redis_well(self) -> None:
        if self.subscription is not None:
            self.subscription.come_back()
        if self._payments is not None:
            self._payments.retry_now()

    def _note_received(self, note: InvalidationMessage) -> None:
        if self._payments is not None and note.sender == self._payments.replica:
            return
        stack = note.stack.encode()
        self.invalidations.note(stack, self._clock.monotonic_s(), note.age_s, settles=note.settles)
        self._forget_here(stack)
        self._metrics.forgotten["note"] += 1

    def _start_over(self) -> None:
        self._metrics.redis_subscriptions += 1
        self.invalidations.subscription_confirmed(self._clock.monotonic_s())
        if self.memory is not None:
            self.memory.clear()
        self._on_start_over()
