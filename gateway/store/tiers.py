"""Memory and Redis as one store that forgets as designed: generations, debts, notes and counts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable

import msgspec

from gateway.clock import Clock
from gateway.core.entry import Entry
from gateway.core.key import EntryKey, KeySpace
from gateway.core.note import Note, write_note
from gateway.core.status import Reason
from gateway.metrics import Metrics
from gateway.store.base import Found, StoreError
from gateway.store.ledger import Debt, Ledger
from gateway.store.lookup import LookedUp, Lookup, Ticket
from gateway.store.memory import MemoryStore
from gateway.store.notes import Subscription
from gateway.store.queue import WriteQueue
from gateway.store.redis import Forget, RedisSettings, RedisStore, Write
from gateway.tasks import TaskSet

# As many as go well within the shortest sensible timeout, on a busy machine too.
_DEBTS_AT_ONCE = 128
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 0.2


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
        self.ledger = Ledger(settings.longest_ttl_s, settings.settle_s)
        self.memory = MemoryStore(settings.memory_bytes, clock) if settings.memory_bytes else None
        self.redis: RedisStore | None = None
        self.subscription: Subscription | None = None
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._on_forget = on_forget
        self._on_start_over = on_start_over
        self._replica = secrets.token_hex(8)
        self._tasks = TaskSet()
        self._writes: WriteQueue[Ticket] = WriteQueue()
        self._has_debts = asyncio.Event()
        self._keeps_nothing = False
        if settings.redis is not None:
            self.redis = RedisStore(
                settings.redis,
                keys=keys,
                secret=secret,
                clock=clock,
                metrics=metrics,
                on_connection_opened=self._connection_opened,
            )
            self.subscription = Subscription(
                settings.redis, keys.channel, clock, self._start_over, self._note_received
            )
        self.ledger.subscription_confirmed(clock.monotonic_s())

    def start(self) -> None:
        """Start what runs beside the requests."""
        if self.redis is not None and self.subscription is not None:
            self._tasks.start(self.redis.look_after(), "redis-look")
            self._tasks.start(self.subscription.run(), "redis-subscription")
            self._tasks.start(self._send_writes(self.redis), "redis-writes")
            self._tasks.start(self._pay_debts(self.redis), "redis-debts")
            self._tasks.start(self.redis.probe_while_open(), "redis-probe")

    def keep_nothing(self) -> None:
        """Keep and use no records until `keep_again`: what another process forgets goes unheard."""
        self._keeps_nothing = True
        if self.memory is not None:
            self.memory.retire()

    def keep_again(self) -> None:
        """Keep records, but none of what was fetched until now."""
        self._keeps_nothing = False
        if self.memory is not None:
            self.memory.limit_bytes = self._settings.memory_bytes
        self._start_over()

    @property
    def queued(self) -> int:
        """How many changes wait to be sent to Redis."""
        return len(self._writes)

    def ticket(self, key: EntryKey) -> Ticket:
        """Begin a look-up or a fill."""
        return Ticket(
            key=key,
            forgets=self.ledger.counts.read(key.stack),
            drops=self.ledger.drops.read(key.name),
            wall_s=self._clock.wall_s(),
            monotonic_s=self._clock.monotonic_s(),
        )

    def peek(self, key: EntryKey) -> Entry | None:
        """Look into process memory alone; never waits."""
        return self.memory.get(key.local) if self.memory is not None else None

    async def lookup(self, key: EntryKey) -> Lookup:
        """Look into memory, then into Redis; a copy found there is kept in memory."""
        if (entry := self.peek(key)) is not None:
            return Lookup(entry)
        if self.redis is None or self._is_kept_from_redis(key):
            return Lookup(None)
        ticket = self.ticket(key)
        try:
            found: Found | StoreError = await self.redis.lookup(key)
        except StoreError as error:
            found = error
        return self._seen(ticket, found)

    def ask_redis(self, key: EntryKey, told: Callable[[LookedUp], None]) -> bool:
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
        ticket = self.ticket(key)
        redis.lookup_soon(key, lambda found: told(LookedUp(ticket, self._seen(ticket, found))))
        return True

    def _is_kept_from_redis(self, key: EntryKey) -> bool:
        return self._owes(key) or self._writes.is_dropping(key.name)

    def _seen(self, ticket: Ticket, found: Found | StoreError) -> Lookup:
        if isinstance(found, StoreError):
            return Lookup(None, has_failed=True)
        if self._is_overtaken(ticket) or self._owes(ticket.key):
            return Lookup(None)
        if found.entry is not None:
            self._keep_in_memory(ticket, found.entry)
        return Lookup(found.entry, found.generation)

    async def prepare_fill(self, ticket: Ticket, lookup: Lookup) -> Ticket:
        """Make sure, before a fetch, that there is a generation to store under.

        Args:
            ticket: taken before the look-up.
            lookup: what it gave.

        Returns:
            The ticket with the generation; without one when Redis has none to give.
        """
        generation = lookup.generation
        if self.redis is None or lookup.has_failed or self._owes(ticket.key):
            return ticket
        if generation is None:
            with contextlib.suppress(StoreError):
                generation = await self.redis.mint(ticket.key)
        if self._is_overtaken(ticket) or self._owes(ticket.key):
            return ticket
        return msgspec.structs.replace(ticket, generation=generation)

    def store(self, ticket: Ticket, entry: Entry) -> Reason | None:
        """Keep a record in every tier that may have it; Redis gets it later, not on the caller's time.

        Returns:
            ``None`` when at least one tier took it, otherwise why none did.
        """
        if self._is_overtaken(ticket):
            self._metrics.not_stored["overtaken"] += 1
            return Reason.FORGOTTEN
        kept = self._keep_in_memory(ticket, entry)
        queued = self._queue_store(ticket, entry)
        return None if kept or queued else Reason.NO_TIER

    def drop(self, key: EntryKey) -> None:
        """Remove a caller's own entry; fills of it that began earlier are not stored any more."""
        self.ledger.drops.raise_one(key.name)
        if self.memory is not None:
            self.memory.discard(key)
        if self.redis is None:
            return
        if not self._writes.offer(self.ticket(key), Write(key, None, b"")):
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
        debts: list[Debt | None] = []
        now_s = self._clock.monotonic_s()
        for stack in stacks:
            debts.append(self.ledger.forget(stack, now_s, settles=settles, owes=self.redis is not None))
            self._forget_here(stack)
            self._metrics.forgotten[cause] += 1
        if self.redis is None:
            return True
        owed = [debt for debt in debts if debt is not None]
        try:
            paid = await self._pay(self.redis, owed)
        finally:
            if self.ledger.owed:
                self._has_debts.set()
        return paid and len(owed) == len(debts)

    async def close(self, timeout_s: float) -> None:
        """Send what is queued and owed, at most for ``timeout_s``, then let go of everything."""
        if self.redis is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._flush(self.redis)
        await self._tasks.cancel()
        if self.redis is not None:
            await self.redis.close()
        if self.memory is not None:
            await self.memory.close()

    def _owes(self, key: EntryKey) -> bool:
        return self._keeps_nothing or self.ledger.owes(key.stack, self._clock.monotonic_s())

    def _is_overtaken(self, ticket: Ticket) -> bool:
        ledger = self.ledger
        return (
            ledger.counts.read(ticket.key.stack) != ticket.forgets
            or ledger.drops.read(ticket.key.name) != ticket.drops
        )

    def _keep_in_memory(self, ticket: Ticket, entry: Entry) -> bool:
        if self.memory is None:
            return False
        life_s = entry.ttl_s(ticket.wall_s)
        if self.redis is not None:
            life_s = min(life_s, self._settings.memory_ttl_s)
        return self.memory.put(ticket.key, entry, ticket.monotonic_s + life_s)

    def _queue_store(self, ticket: Ticket, entry: Entry) -> bool:
        if self.redis is None or ticket.generation is None:
            return False
        if self._owes(ticket.key):
            return False
        if not self._writes.offer(ticket, Write(ticket.key, entry, ticket.generation)):
            self._metrics.not_stored["queue-full"] += 1
            return False
        return True

    async def _send_writes(self, redis: RedisStore) -> None:
        while True:
            await self._writes.wait()
            await self._send_some_writes(redis)

    async def _send_some_writes(self, redis: RedisStore) -> None:
        now_s = self._clock.monotonic_s()
        due: list[Write] = []
        taken = self._writes.take()
        for ticket, write in taken:
            is_void = self._is_overtaken(ticket) or self.ledger.owes(ticket.key.stack, now_s)
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
        self.ledger.owe(key.stack, self._clock.monotonic_s())
        self._has_debts.set()

    async def _pay_debts(self, redis: RedisStore) -> None:
        while True:
            await self._has_debts.wait()
            retry_s = _FIRST_RETRY_S
            while debts := self.ledger.debts(self._clock.monotonic_s(), _DEBTS_AT_ONCE):
                if await self._pay(redis, debts):
                    retry_s = _FIRST_RETRY_S
                    continue
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
            self._has_debts.clear()

    async def _pay(self, redis: RedisStore, debts: list[Debt]) -> bool:
        """Tell Redis; a debt is cleared only by both replies to its own sequence number."""
        if not debts:
            return True
        now_s = self._clock.monotonic_s()
        forgets = [
            Forget(
                self._keys.generation(debt.stack),
                write_note(
                    Note(debt.stack.decode(), max(0.0, now_s - debt.written_s), debt.settles, self._replica)
                )
                if debt.published
                else None,
            )
            for debt in debts
        ]
        try:
            confirmed = await redis.forget_all(forgets)
        except StoreError:
            return False
        for debt, is_paid in zip(debts, confirmed, strict=True):
            if is_paid:
                self.ledger.paid(debt)
        return all(confirmed)

    async def _flush(self, redis: RedisStore) -> None:
        while self._writes:
            await self._send_some_writes(redis)
        while debts := self.ledger.debts(self._clock.monotonic_s(), _DEBTS_AT_ONCE):
            if not await self._pay(redis, debts):
                await asyncio.sleep(_FIRST_RETRY_S)

    def _forget_here(self, stack: bytes) -> None:
        if self.memory is not None:
            self.memory.discard_stack(stack)
        self._on_forget(stack)

    def _connection_opened(self) -> None:
        self.ledger.connection_opened(self._clock.monotonic_s())
        if self.ledger.owed:
            self._has_debts.set()

    def _note_received(self, note: Note) -> None:
        if note.sender == self._replica:
            return
        stack = note.stack.encode()
        self.ledger.note(stack, self._clock.monotonic_s(), note.age_s, settles=note.settles)
        self._forget_here(stack)
        self._metrics.forgotten["note"] += 1

    def _start_over(self) -> None:
        self._metrics.redis_subscriptions += 1
        self.ledger.subscription_confirmed(self._clock.monotonic_s())
        if self.memory is not None:
            self.memory.clear()
        self._on_start_over()
