"""Entries in Redis: one round trip a look-up, no hidden retries, no command cancelled half-way."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.clock import Clock
from gateway.core.caching.entry import GENERATION_BYTES, seal, unseal, verified_entries
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.store.invalidations import Mark
from gateway.store.lookup import ABSENT, FAILED, LookupResult
from gateway.store.redis_commands import Command
from gateway.store.redis_connection import RedisSettings
from gateway.store.redis_errors import StoreError, is_redirect
from gateway.store.redis_link import Link, link_to
from gateway.store.redis_lookups import OnResult
from gateway.store.redis_node import Node, NodeContext
from gateway.store.write_queue import Write
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_CLOSE_S = 1.0

T = TypeVar("T")


class RedisStore:
    """Keeps entries in Redis.

    Args:
        on_connection_opened, on_left, on_moved, on_recovered: see `NodeContext`.

    Attributes:
        link: leads to the server of each key.
    """

    def __init__(
        self,
        settings: RedisSettings,
        *,
        keys: KeySpace,
        secret: bytes,
        clock: Clock,
        metrics: Metrics,
        on_connection_opened: Callable[[Mark], None],
        on_left: Callable[[Node], None],
        on_moved: Callable[[], None],
        on_recovered: Callable[[], None],
    ) -> None:
        self._keys = keys
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._tasks = TaskSet()
        self._verified = verified_entries() if settings.keeps_verified else None
        context = NodeContext(
            clock=clock,
            metrics=metrics,
            tasks=self._tasks,
            prefix=keys.prefix,
            # In different slots of a Cluster: only a single, writable server deletes both in one command.
            check_names=tuple(keys.generation(name) for name in (b"", b"/")),
            result_of=self.result,
            on_connection_opened=on_connection_opened,
            on_left=on_left,
            on_moved=on_moved,
            on_recovered=on_recovered,
        )
        self.link: Link = link_to(settings, context)

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Return the usable entry and the stack's generation, or `FAILED`, within the timeout.

        All look-ups of one turn of the event loop go in one ``MGET``.
        """
        future: asyncio.Future[LookupResult] = asyncio.get_running_loop().create_future()

        def on_result(_: None, result: LookupResult) -> None:
            # The caller may have been cancelled.
            if not future.done():
                future.set_result(result)

        return await future if self.lookup_soon(key, on_result, None) else FAILED

    def lookup_soon(self, key: EntryKey, on_result: OnResult, beside: object) -> bool:
        """Look up like `lookup`, and call ``on_result(beside, result)`` once, later.

        ``False`` when the breaker is open.
        """
        node = self.link.node_of(key)
        if node is None or not node.condition.breaker.is_closed:
            return False
        node.lookups.add((key, on_result, beside))
        return True

    async def mint(self, key: EntryKey) -> bytes | None:
        """Return the stack's generation, a new one if there was none; ``None`` if Redis gave none."""

        with contextlib.suppress(StoreError):
            name, fresh = key.generation, secrets.token_bytes(GENERATION_BYTES)
            life_ms = milliseconds(self.link.settings.mint_ttl_s)
            _, generation = await self.run(
                "mint", name, ("SET", name, fresh, "NX", "PX", life_ms), ("GET", name)
            )
            return self.result(key, None, generation).generation
        return None

    async def write(self, writes: Sequence[Write]) -> None:
        """Send writes to one server in order, in one round trip, in time.

        Raises:
            StoreError: some may be missing.
        """
        if not writes:
            return
        node = self._node(writes[0].fill_token.key.generation)
        wall_s, monotonic_s = self._clock.wall_s(), self._clock.monotonic_s()
        commands: list[Command] = []
        for write in writes:
            key, generation, entry = write.fill_token.key, write.fill_token.generation, write.entry
            if entry is None:
                commands.append(("DEL", key.name))
            elif generation is not None and (left_s := entry.ttl_s(entry.now_s(wall_s, monotonic_s))) > 0:
                sealed = seal(key, generation, entry, self._secret)
                commands.append(("SET", key.name, sealed, "PX", milliseconds(left_s)))
                life_ms = milliseconds(self.link.settings.generation_ttl_s)
                commands.append(("PEXPIRE", key.generation, life_ms))
        # Sending nothing must not count as a success.
        if commands and any(isinstance(reply, Exception) for reply in await node.send("write", commands)):
            raise StoreError("answer")

    async def get(self, name: bytes) -> bytes | None:
        """Return a value of no entry; ``None`` when there is none.

        Raises:
            StoreError: the outcome is unknown.
        """
        node = self._node(name)
        value = await node.in_time("lookup", lambda: node.client.get(name))
        return value if isinstance(value, bytes) else None

    async def put(self, name: bytes, value: bytes, life_s: float) -> None:
        """Store a value of no entry for some seconds.

        Raises:
            StoreError: the outcome is unknown.
        """
        node = self._node(name)
        await node.in_time("write", lambda: node.client.set(name, value, px=milliseconds(life_s)))

    async def run(self, operation: str, name: bytes, *commands: Command) -> list[object]:
        """Send commands about keys of one hash tag in order, and return their replies.

        Args:
            name: any key of that hash tag.

        Raises:
            StoreError: the outcome is unknown, or Redis refused one.
        """
        return await self._node(name).run(operation, *commands)

    async def invalidate(self, messages: Sequence[tuple[bytes, bytes | None]]) -> list[tuple[bool, bool]]:
        """Delete generations at one server and publish messages, in one round trip.

        ``DEL`` and ``PUBLISH`` still work when Redis is full; ``SET`` and ``INCR`` do not.

        Args:
            messages: case-folded stack ids of one server, each with its message; ``None`` publishes
                nothing.

        Returns:
            For each, what Redis confirmed: that the generation is deleted, that the message is published.

        Raises:
            StoreError: the outcome is unknown.
        """
        if not messages:
            return []
        node = self._node(self._keys.generation(messages[0][0]))

        commands: list[Command] = []
        for stack, message in messages:
            commands.append(("DEL", self._keys.generation(stack)))
            if message is not None:
                commands.append(("PUBLISH", self._keys.channel, message))
        replies = await node.send("invalidate", commands)
        if any(isinstance(reply, Exception) and is_redirect(reply) for reply in replies):
            # A message counts only after its generation is deleted.
            raise StoreError("answer")
        confirmed = iter([isinstance(reply, int) for reply in replies])
        return [(next(confirmed), message is not None and next(confirmed)) for _, message in messages]

    async def close(self) -> None:
        """Let commands under way end, then close the connections."""
        await self._tasks.settle(_CLOSE_S)
        await self._tasks.cancel()
        await self.link.close()

    def split(self, items: Sequence[T], stack_of: Callable[[T], bytes]) -> Sequence[Sequence[T]]:
        """Split what is to be sent by its server; ``stack_of`` returns the case-folded stack id of each."""
        return self.link.split(items, lambda item: self._keys.generation(stack_of(item)))

    def slot_of(self, stack: bytes) -> int:
        """Return the slot of a stack's keys."""
        return self.link.slot(self._keys.generation(stack))

    def _node(self, name: bytes) -> Node:
        node = self.link.node_at(name)
        if node is None:
            raise StoreError("open")
        return node

    def result(self, key: EntryKey, sealed: object, generation: object) -> LookupResult:
        """Return what the values at an entry's key and at its stack's generation key mean."""
        if isinstance(sealed, Exception):
            return FAILED
        if not isinstance(generation, bytes) or len(generation) != GENERATION_BYTES:
            return ABSENT
        if isinstance(sealed, bytes):
            now_s = self._clock.wall_s()
            monotonic_s = self._clock.monotonic_s()
            entry = unseal(
                key, generation, sealed, self._secret, now_s, monotonic_s=monotonic_s, verified=self._verified
            )
            if entry is None:
                self._metrics.entries_invalid += 1
            elif entry.expires_s > now_s:
                return LookupResult(entry, generation)
        return LookupResult(None, generation, is_absent=True)


def milliseconds(seconds: float) -> int:
    """Return a time to live as Redis takes it."""
    return max(1, int(seconds * 1000))
