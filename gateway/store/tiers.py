"""Memory and Redis as one store. Everything that invalidates passes through here."""

import weakref
from collections.abc import Callable, Iterable

import msgspec

from gateway.clock import Clock
from gateway.config.model import CacheConfig
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.entry import Entry
from gateway.core.caching.invalidation_message import InvalidationMessage
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.invalidations import Invalidations
from gateway.store.lookup import ABSENT, EarlyLookup, Fetches, FillToken, LookupResult
from gateway.store.memory import MemoryStore
from gateway.store.peers import Invalidation, WorkerPeers
from gateway.store.redis_connection import RedisSettings
from gateway.store.redis_leases import RedisLeases
from gateway.store.redis_tier import RedisState, RedisTier
from gateway.store.token_owners import TokenOwners
from gateway.telemetry.metrics import Metrics


class Tiers:
    """The stores of one gateway.

    Args:
        longest_ttl_s: no entry lives longer.
        redis: how to reach Redis; ``None`` without it.
        on_invalidate: called for each invalidated stack, before the next ``await``.
        on_drop: called with `EntryKey.local` of an entry that AOS has refused to its caller.
        on_start_over: called when invalidations may have been missed.
        peers: the other workers; ``None`` without any.

    Attributes:
        memory: the tier in this process.
        redis: the tier in Redis; ``None`` without it.
        invalidations: which stacks have changed, are pending or settling.
    """

    def __init__(
        self,
        cache: CacheConfig,
        longest_ttl_s: float,
        redis: RedisSettings | None,
        *,
        keys: KeySpace,
        secret: bytes,
        clock: Clock,
        metrics: Metrics,
        on_invalidate: Callable[[bytes], None],
        on_drop: Callable[[bytes], None],
        on_start_over: Callable[[], None],
        peers: WorkerPeers | None = None,
    ) -> None:
        self.memory = MemoryStore(cache.memory_bytes, clock, None if peers is None else peers.is_current)
        self.redis: RedisTier | None = None
        self.invalidations = Invalidations(longest_ttl_s, cache.settle_s, has_redis=redis is not None)
        self._changes = self.invalidations.changes
        self._cache = cache
        self._clock = clock
        self._metrics = metrics
        self._on_invalidate = on_invalidate
        self._on_drop = on_drop
        self._on_start_over = on_start_over
        self._fetches: dict[bytes, weakref.ref[Fetches]] = {}
        self._peers = peers
        if redis is not None:
            self.redis = RedisTier(
                redis,
                self.invalidations,
                keys=keys,
                secret=secret,
                clock=clock,
                metrics=metrics,
                on_message=self._message_received,
                on_subscribed=self._start_over,
            )
        self.invalidations.subscription_confirmed(clock.monotonic_s())

    async def start(self, timeout_s: float) -> None:
        """Start the background tasks, and wait for the subscription at most for ``timeout_s``."""
        if self.redis is not None:
            await self.redis.start(timeout_s)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""
        if self.redis is not None:
            self.redis.connect_with(settings)

    def token_owners(self, iam_url: str) -> TokenOwners | None:
        """Return where the gateways of one Redis share the users of tokens; ``None`` without Redis."""
        return None if self.redis is None else self.redis.token_owners(iam_url)

    def leases(self) -> RedisLeases | None:
        """Return the leases of records that may change; ``None`` without Redis."""
        return None if self.redis is None else self.redis.leases()

    def redis_state(self) -> RedisState:
        return self.redis.state() if self.redis is not None else RedisState()

    def disable_memory(self) -> None:
        """Store and use nothing, in Redis neither, until `enable_memory`.

        For a process beside another that does not send it its invalidations.
        """
        self.invalidations.all_pending = True
        self._changes.next()
        self.retire_memory()

    def enable_memory(self) -> None:
        """Store again, but nothing that was fetched until now."""
        self.invalidations.all_pending = False
        self.memory.limit_bytes = self._cache.memory_bytes
        self._start_over()

    def retire_memory(self) -> None:
        """Keep no copies in memory any more: another process receives writes from now on."""
        self.memory.clear()
        self.memory.limit_bytes = 0

    def fill_token(self, key: EntryKey) -> FillToken:
        """Begin a look-up or a fill."""
        return FillToken(key, self._changes.number, self._clock.wall_s(), self._clock.monotonic_s())

    def peek(self, key: EntryKey) -> Entry | None:
        """Look into process memory alone; never waits."""
        return self.memory.get(key.local)

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Look into memory, then into Redis; a copy found there is kept in memory.

        Among several workers, invalidations sent until now are waited for first.
        """
        if self._peers is not None and not self._peers.is_current():
            if not await self._peers.wait_current():
                self.start_over()
            # More may have been sent meanwhile, but not before this look-up began.
            if (entry := self.memory.get(key.local, is_checked=True)) is not None:
                return LookupResult(entry)
        if (entry := self.peek(key)) is not None:
            return LookupResult(entry)
        if self.redis is None or not self.redis.may_have(key):
            return self._without_redis()
        fill_token = self.fill_token(key)
        return self._checked(fill_token, await self.redis.lookup(key))

    def lookup_soon(self, key: EntryKey, on_result: Callable[[EarlyLookup | None], None]) -> None:
        """Look up what memory does not have, without a task.

        Calls ``on_result`` once, perhaps before this returns; with ``None`` when only `lookup` can tell.
        """
        if self._peers is not None and not self._peers.is_current():
            on_result(None)
            return
        fill_token = self.fill_token(key)
        redis = self.redis
        if redis is None or not redis.may_have(key):
            on_result(EarlyLookup(fill_token, self._without_redis()))
        elif not redis.lookup_soon(key, self._looked_up, (fill_token, on_result)):
            on_result(None)

    def _looked_up(
        self, asked: tuple[FillToken, Callable[[EarlyLookup], None]], result: LookupResult
    ) -> None:
        fill_token, on_result = asked
        on_result(EarlyLookup(fill_token, self._checked(fill_token, result)))

    def _without_redis(self) -> LookupResult:
        # What Redis may not have is removed there before it is read again, unless all counts as pending.
        return LookupResult(None) if self.invalidations.all_pending else ABSENT

    def _checked(self, fill_token: FillToken, result: LookupResult) -> LookupResult:
        """Return what of a result from Redis is still valid; keep its entry in memory."""
        if result.has_failed:
            return result
        # Nothing begins to be pending without a change.
        if self._changes.number != fill_token.since and (
            self._changes.has_changed(fill_token.key.local, fill_token.since)
            or self.invalidations.is_void(fill_token)
        ):
            return LookupResult(None)
        if result.entry is not None and self.memory.limit_bytes:
            self._keep_in_memory(fill_token, result.entry)
        return result

    def take_in(self, fill_token: FillToken, entry: Entry, wall_s: float, monotonic_s: float) -> Entry:
        """Keep an entry from Redis in memory, unless its stack was invalidated since.

        Both clocks are those of the look-up that gave it.
        """
        entry = entry.taken_in(wall_s, monotonic_s)
        if not self.invalidations.is_void(fill_token):
            self._keep_in_memory(
                msgspec.structs.replace(fill_token, wall_s=wall_s, monotonic_s=monotonic_s), entry
            )
        return entry

    def keep_until(self, fill_token: FillToken, entry: Entry, ends_s: float) -> None:
        """Keep another replica's record in memory until a monotonic time, unless there is a newer one."""
        copy = self.peek(fill_token.key)
        is_older = copy is not None and (copy.is_settled or copy.fetched_s > entry.fetched_s)
        if not (is_older or self.invalidations.is_void(fill_token)):
            self.memory.put(fill_token.key, entry, ends_s)

    def lacks_generation(self, found: EarlyLookup) -> bool:
        """Whether a fill needs `mint` first: Redis was read, and the stack has no generation."""
        lookup = found.lookup
        return (
            self.redis is not None
            and lookup.generation is None
            and not lookup.has_failed
            and not self.invalidations.is_pending(found.fill_token.key.stack)
        )

    async def mint(self, key: EntryKey) -> bytes | None:
        """Return the generation of a stack, a new one if there was none; ``None`` if Redis gave none."""
        return await self.redis.mint(key) if self.redis is not None else None

    def begin_fetch(self, fill_token: FillToken, generation: bytes | None = None) -> FillToken:
        """Put a fetch that begins now in order with others of the same entry; `store` or `drop` ends it.

        The token is from before the look-up; without a generation from before the fetch Redis stores nothing.
        """
        if generation is not None and self.invalidations.is_void(fill_token):
            generation = None
        key = fill_token.key
        known = self._fetches.get(key.local)
        fetches = (known and known()) or Fetches(self._fetches, key.local)
        since, wall_s, monotonic_s = fill_token.since, fill_token.wall_s, fill_token.monotonic_s
        return FillToken(key, since, wall_s, monotonic_s, generation, fetches, self._changes.next())

    def store(self, fill_token: FillToken, entry: Entry) -> Reason | None:
        """Keep a record in every tier that may have it; the write to Redis is queued.

        ``None`` when at least one tier took it, otherwise why none did.
        """
        is_invalidated = self._changes.has_changed(fill_token.key.stack, fill_token.since)
        if is_invalidated or not fill_token.ends_in_order():
            self._metrics.not_stored["overtaken"] += 1
            return Reason.INVALIDATED
        entry = entry.taken_in(fill_token.wall_s, fill_token.monotonic_s)
        if self.redis is not None:
            # A look-up under way may still bring the entry that this one replaces.
            self._changes.change(fill_token.key.local)
        is_kept = self._keep_in_memory(fill_token, entry)
        is_queued = self.redis is not None and entry.is_settled and self.redis.store(fill_token, entry)
        return None if is_kept or is_queued else Reason.NOT_KEPT

    def drop(self, fill_token: FillToken, lookup: LookupResult, *, everywhere: bool) -> None:
        """Remove a caller's own entry, which a fetch has shown to be outdated.

        Fetches of it that began earlier are not stored any more. There is nothing to remove here when the
        look-up found it absent and nothing was stored since.

        Args:
            lookup: before the fetch.
            everywhere: other workers remove it also when there is nothing to remove here.
        """
        if not fill_token.ends_in_order():
            return
        key = fill_token.key
        kept = self.memory.get(key.local)
        is_absent = (
            lookup.is_absent and kept is None and not self._changes.has_changed(key.local, fill_token.since)
        )
        if not is_absent and self.redis is None:
            # Copies of a record that may change end by themselves in the other workers, and are in no Redis.
            copies = [copy for copy in (lookup.entry, kept) if copy is not None]
            if copies and not any(copy.is_settled for copy in copies):
                self._discard(key.local)
                is_absent = True
        if is_absent and not everywhere:
            return
        if everywhere:
            self._on_drop(key.local)
        if not is_absent:
            self._discard(key.local)
            if self.redis is not None:
                self.redis.remove(self.fill_token(key))
        if self._peers is not None:
            self._peers.send_uncounted(Invalidation(entry=key.local))

    def _discard(self, entry: bytes) -> None:
        self.memory.discard(entry)
        if self.redis is not None:
            # A look-up under way may still bring it.
            self._changes.change(entry)

    async def invalidate(self, stacks: Iterable[bytes], cause: str, *, settles: bool) -> bool:
        """Make every stored entry of these stacks unusable, on every replica.

        In this process that is done before the first wait, in Redis within ``redis.timeout_s``, or later if
        that fails.

        Args:
            stacks: case-folded ids.
            cause: ``write`` or ``purge``, for the metrics.
            settles: AOS may change the records for a while yet; false for a purge.

        Returns:
            Whether Redis, where there is one, confirmed it.
        """
        stacks = list(stacks)
        if self._peers is not None:
            self._peers.send([Invalidation(stack=stack, settles=settles) for stack in stacks])
        pending = []
        now_s = self._clock.monotonic_s()
        for stack in stacks:
            pending.append(self.invalidations.invalidate(stack, now_s, settles=settles))
            self._invalidate_here(stack, cause)
        return self.redis is None or await self.redis.invalidate(pending)

    def invalidations_received(self, invalidations: Iterable[Invalidation]) -> None:
        """Apply what another worker did, without a wait in between.

        The other one may not have reached Redis, so this one sends the invalidation too, and does not use
        Redis for that stack before it is confirmed.
        """
        now_s = self._clock.monotonic_s()
        for each in invalidations:
            if each.entry:
                self._on_drop(each.entry)
                self._discard(each.entry)
                known = self._fetches.get(each.entry)
                if known is not None and (fetches := known()) is not None:
                    # Void all begun until now: the order of two processes' fetches is unknown.
                    fetches.end(self._changes.next())
            else:
                self.invalidations.invalidate(each.stack, now_s, settles=each.settles, publishes=False)
                self._invalidate_here(each.stack, "message")
        if self.redis is not None:
            self.redis.send_pending()

    def start_over(self) -> None:
        """Discard every copy in memory: an invalidation by another worker may have been missed."""
        if self._peers is not None:
            self._peers.skip_missing()
        self._start_over()

    async def close(self, timeout_s: float) -> None:
        """Send what is queued and pending, at most for ``timeout_s``, then close everything."""
        if self.redis is not None:
            await self.redis.close(timeout_s)
        self.memory.clear()

    def _keep_in_memory(self, fill_token: FillToken, entry: Entry) -> bool:
        if not self.memory.limit_bytes:
            return False
        life_s = entry.ttl_s(entry.now_s(fill_token.wall_s, fill_token.monotonic_s))
        if self.redis is not None:
            life_s = min(life_s, self._cache.memory_ttl_s)
        return self.memory.put(fill_token.key, entry, fill_token.monotonic_s + life_s)

    def _invalidate_here(self, stack: bytes, cause: str) -> None:
        self.memory.discard_stack(stack)
        self._on_invalidate(stack)
        self._metrics.invalidations[cause] += 1

    def _message_received(self, message: InvalidationMessage) -> None:
        stack = message.stack.encode()
        now_s = self._clock.monotonic_s()
        self.invalidations.invalidated_elsewhere(stack, now_s, message.age_s, settles=message.settles)
        self._invalidate_here(stack, "message")

    def _start_over(self) -> None:
        self._metrics.redis_subscriptions += 1
        self.invalidations.subscription_confirmed(self._clock.monotonic_s())
        self.memory.clear()
        self._on_start_over()
