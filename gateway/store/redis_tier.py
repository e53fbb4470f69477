"""The tier in Redis and what keeps it in step: queued writes, pending invalidations, the subscription."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.clock import Clock
from gateway.core.caching.entry import Entry
from gateway.core.caching.invalidation_message import InvalidationMessage
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.breaker import BreakerState
from gateway.store.invalidation_sender import InvalidationSender
from gateway.store.invalidations import Invalidations, Mark, PendingInvalidation
from gateway.store.lookup import FillToken
from gateway.store.redis import RedisStore
from gateway.store.redis_connection import RedisSettings
from gateway.store.redis_errors import StoreError
from gateway.store.redis_leases import RedisLeases
from gateway.store.redis_node import Node
from gateway.store.subscription import Subscription
from gateway.store.token_owners import TokenOwners
from gateway.store.write_queue import Write, WriteQueue
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics


class RedisState(msgspec.Struct, frozen=True):
    """State of the tier, for metrics and ``/readyz``.

    Attributes:
        is_configured: there is such a tier; otherwise the rest means nothing.
        is_up: the last operation succeeded.
        nodes: by the address of each server in use, whether it is used: its breaker is closed, and the last
            operation succeeded.
        is_subscribed: invalidations by other replicas are received.
        connections: those that carry a command.
        pending_invalidations: stacks whose invalidation Redis has not confirmed.
    """

    is_configured: bool = False
    is_up: bool = False
    nodes: Mapping[str, bool] = {}
    breaker: BreakerState = BreakerState.CLOSED
    breaker_openings: int = 0
    is_subscribed: bool = False
    connections: int = 0
    max_connections: int = 0
    pending_invalidations: int = 0
    queued_writes: int = 0


class RedisTier:
    """Redis as one tier; nothing of a stack is read or stored there while its invalidation is pending.

    Args:
        on_message: called with each invalidation by another replica.
        on_subscribed: called when the subscription is confirmed: messages may have been missed until then.

    Attributes:
        lookup, lookup_soon, mint: see `RedisStore`.
        send_pending: `InvalidationSender.wake`.
    """

    def __init__(
        self,
        settings: RedisSettings,
        invalidations: Invalidations,
        *,
        keys: KeySpace,
        secret: bytes,
        clock: Clock,
        metrics: Metrics,
        on_message: Callable[[InvalidationMessage], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._invalidations = invalidations
        self._clock = clock
        self._metrics = metrics
        self._on_message = on_message
        self._keys = keys
        self._secret = secret
        self._tasks = TaskSet()
        self._writes = WriteQueue()
        self._store = store = RedisStore(
            settings,
            keys=keys,
            secret=secret,
            clock=clock,
            metrics=metrics,
            on_connection_opened=self._connection_opened,
            on_left=self._left,
            on_moved=self._moved,
            on_recovered=self._server_recovered,
        )
        invalidations.slot_of = store.slot_of
        invalidations.moved(store.link.marks, clock.monotonic_s())
        self._subscription = Subscription(
            store.link, keys.channel, clock, on_subscribed, self._message_received
        )
        self.lookup, self.lookup_soon, self.mint = store.lookup, store.lookup_soon, store.mint
        self._sender = InvalidationSender(store, invalidations, clock)
        self.send_pending = self._sender.wake

    async def start(self, timeout_s: float) -> None:
        """Start the background tasks, and wait for the subscription at most for ``timeout_s``."""
        self._tasks.start(self._store.link.run(), "redis-link")
        self._tasks.start(self._subscription.run(), "redis-subscription")
        self._tasks.start(self._send_writes(), "redis-writes")
        self._tasks.start(self._sender.run(), "redis-invalidations")
        self._tasks.start(self._sender.run_refused(), "redis-refused")
        await self._subscription.wait_confirmed(timeout_s)

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""
        self._store.link.connect_with(settings)

    def token_owners(self, iam_url: str) -> TokenOwners:
        """Return where the users of tokens are shared, in this IAM's word."""
        return TokenOwners(self._store, self._keys, iam_url, self._secret, self._clock)

    def leases(self) -> RedisLeases:
        """Return the leases of records that may change."""
        return RedisLeases(self._store, self._secret, self._clock)

    def state(self) -> RedisState:
        nodes = self._store.link.nodes
        breakers = [node.condition.breaker for node in nodes]
        return RedisState(
            is_configured=True,
            is_up=bool(nodes) and all(node.condition.is_up for node in nodes),
            nodes={
                node.address: node.condition.is_up and node.condition.breaker.is_closed
                for node in nodes
                if node.address
            },
            breaker=next((one.state for one in breakers if not one.is_closed), BreakerState.CLOSED),
            breaker_openings=sum(one.openings for one in breakers),
            is_subscribed=self._subscription.is_up,
            connections=sum(node.connections for node in nodes),
            max_connections=sum(node.settings.max_connections for node in nodes),
            pending_invalidations=self._invalidations.pending,
            queued_writes=len(self._writes),
        )

    def may_have(self, key: EntryKey) -> bool:
        """Whether a look-up is allowed: the entry is not being removed and its stack not invalidated."""
        return not (self._invalidations.is_pending(key.stack) or key.name in self._writes.removing)

    def store(self, fill_token: FillToken, entry: Entry) -> bool:
        """Queue an entry; ``False`` when it may not be stored or there is no room for it."""
        if fill_token.generation is None or self._invalidations.is_pending(fill_token.key.stack):
            return False
        is_queued = self._writes.offer(Write(fill_token, entry))
        if not is_queued:
            self._metrics.not_stored["queue-full"] += 1
        return is_queued

    def remove(self, fill_token: FillToken) -> None:
        """Queue the removal of an entry."""
        if not self._writes.offer(Write(fill_token, None)):
            self._removal_failed(fill_token.key)

    async def invalidate(self, invalidations: Sequence[PendingInvalidation]) -> bool:
        """Send invalidations, for at most the timeout; return whether all are confirmed, retry the rest."""
        try:
            return await self._sender.send(invalidations)
        finally:
            self._sender.wake()

    async def close(self, timeout_s: float) -> None:
        """Send what is queued and pending, at most for ``timeout_s``, then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._writes:
                    await self._send_some_writes()
                await self._sender.flush()
        await self._tasks.cancel()
        await self._store.close()

    async def _send_writes(self) -> None:
        while True:
            await self._writes.wait()
            await self._send_some_writes()

    async def _send_some_writes(self) -> None:
        taken = self._writes.take()
        is_void = self._invalidations.is_void
        due = [write for write in taken if write.entry is None or not is_void(write.fill_token)]
        parts = self._store.link.split(due, lambda write: write.fill_token.key.generation)
        await asyncio.gather(*map(self._write, parts))
        self._writes.done(taken)

    async def _write(self, writes: Sequence[Write]) -> None:
        try:
            await self._store.write(writes)
        except StoreError:
            for write in writes:
                if write.entry is None:
                    self._removal_failed(write.fill_token.key)
                else:
                    self._metrics.not_stored["redis-failed"] += 1

    def _removal_failed(self, key: EntryKey) -> None:
        # The entry must not be served: invalidate its whole stack.
        self._invalidations.removal_failed(key.stack, self._clock.monotonic_s())
        self._sender.wake()

    def _message_received(self, message: InvalidationMessage) -> None:
        if message.sender != self._sender.replica:
            self._on_message(message)

    def _connection_opened(self, mark: Mark) -> None:
        self._invalidations.connection_opened(self._clock.monotonic_s(), mark)
        self._sender.wake()

    def _left(self, node: Node) -> None:
        self._subscription.leave(node)

    def _moved(self) -> None:
        self._invalidations.moved(self._store.link.marks, self._clock.monotonic_s())
        self._sender.wake()
        self._server_recovered()

    def _server_recovered(self) -> None:
        self._subscription.resume()
        self._sender.retry_refused_now()
