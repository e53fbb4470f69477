"""Test kit of the stores: clocks to move, entries, and replicas on one Redis."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.clock import Clock
from gateway.config.model import CacheConfig
from gateway.core.aos.route import ExecutionRef, stack_key
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey, KeySpace, upstream_identity
from gateway.core.http.messages import Head
from gateway.store.breaker import BreakerState
from gateway.store.invalidations import Invalidations, Mark
from gateway.store.lookup import EarlyLookup, FillToken, LookupResult
from gateway.store.redis import RedisStore
from gateway.store.redis_connection import RedisSettings
from gateway.store.redis_node import Node
from gateway.store.redis_tier import RedisState
from gateway.store.tiers import Tiers
from gateway.store.write_queue import Write
from gateway.telemetry.metrics import Metrics

STACK = b"Stack-1"
FOLDED = stack_key(STACK)
UPSTREAM = upstream_identity("https", "aos.example", 443, "")
GENERATION_TTL_S = 7200.0
MINT_TTL_S = 120.0


class Times:
    """Real clocks that a test can move forward, unlike that of Redis."""

    def __init__(self) -> None:
        self.moved_s = 0.0
        self.clock = Clock(
            wall_s=lambda: time.time() + self.moved_s,
            monotonic_s=lambda: time.monotonic() + self.moved_s,
        )

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.moved_s += seconds


def key_of(
    prefix: str, caller: bytes = b"a", *, stack: bytes = STACK, action: bytes = b"action-1"
) -> EntryKey:
    """Return the key of one caller's record of one execution."""
    return KeySpace(prefix, UPSTREAM).entry(caller, b"variant", ExecutionRef(stack, action, False))


def entry_of(body: bytes = b'{"a": 1}', *, ttl_s: float = 60.0, now_s: float | None = None) -> Entry:
    """Return an entry that was fetched now."""
    fetched_s = time.time() if now_s is None else now_s
    fields = ((b"Content-Type", b"application/json"), (b"X-Repeated", b"1"), (b"x-repeated", b"\xff"))
    return Entry(Head(200, b"Fine", fields).lines(), body, fetched_s, fetched_s + ttl_s, 7)


def as_stored(entry: Entry | None) -> Entry | None:
    """Return an entry without the clock offset of the process that took it in."""
    return None if entry is None else msgspec.structs.replace(entry, clock_offset_s=-math.inf)


async def until(
    holds: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 5.0, pause_s: float = 0.005
) -> None:
    """Poll until something holds for which there is no event.

    Raises:
        TimeoutError: the deadline passed first.
    """
    ends_s = time.monotonic() + timeout_s
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        if time.monotonic() > ends_s:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        await asyncio.sleep(pause_s)


@asynccontextmanager
async def replying(reply: bytes) -> AsyncIterator[str]:
    """A server that sends the same bytes whenever it receives something; yields its address."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
            await writer.drain()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        # Also of a task that was cancelled before it began.
        task.add_done_callback(lambda _: writer.transport.abort())
        serving.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        # Whatever a broken connection raised in one of them.
        await asyncio.gather(*serving, return_exceptions=True)


def redis_settings(
    url: str, *, timeout_s: float = 2.0, max_connections: int = 8, **more: Any
) -> RedisSettings:
    """Return settings, by default with a timeout long enough for a busy machine."""
    return RedisSettings(url, timeout_s, max_connections, GENERATION_TTL_S, MINT_TTL_S, **more)


def write_of(key: EntryKey, entry: Entry | None, generation: bytes | None = None) -> Write:
    """Return a write of an entry, or its removal."""
    return Write(FillToken(key, 0, 0.0, 0.0, generation), entry)


class Opened:
    """Counts the connections that a store opened."""

    count = 0

    def __call__(self, mark: Mark) -> None:
        self.count += 1


@dataclass
class DirectRedis:
    """A `RedisStore` with its metrics, and its commands one at a time."""

    store: RedisStore
    metrics: Metrics
    opened: Opened

    @property
    def node(self) -> Node:
        """The only server."""
        [node] = self.store.link.nodes
        return node

    async def lookup(self, key: EntryKey) -> LookupResult:
        """Look up an entry."""
        return await self.store.lookup(key)

    async def put(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Store an entry."""
        await self.store.write([write_of(key, entry, generation)])

    async def drop(self, key: EntryKey) -> None:
        """Remove an entry."""
        await self.store.write([write_of(key, None)])

    async def invalidate(self, key: EntryKey) -> None:
        """Delete the generation of an entry's stack."""
        assert await self.store.invalidate([(key.stack, None)]) == [(True, False)]

    async def close(self) -> None:
        """Close the connections."""
        await self.store.close()


def direct_redis(
    url: str,
    prefix: str,
    *,
    clock: Clock | None = None,
    secret: bytes = b"",
    **settings: Any,
) -> DirectRedis:
    """Make a store on a Redis, with settings as `redis_settings` takes them."""
    metrics, opened = Metrics(), Opened()
    store = RedisStore(
        redis_settings(url, **settings),
        keys=KeySpace(prefix, UPSTREAM),
        secret=secret,
        clock=clock or Clock(),
        metrics=metrics,
        on_connection_opened=opened,
        on_left=lambda node: None,
        on_moved=lambda: None,
        on_recovered=lambda: None,
    )
    return DirectRedis(store, metrics, opened)


@dataclass
class Replica:
    """The tiers of one gateway, with a record of their callbacks.

    Attributes:
        detached: stacks whose fetches had to be detached, in order.
        started_over: when all fetches had to be.
    """

    tiers: Tiers
    metrics: Metrics
    times: Times
    prefix: str
    detached: list[bytes] = field(default_factory=list)
    started_over: list[float] = field(default_factory=list)

    @property
    def invalidations(self) -> Invalidations:
        """What is pending, settling and changed."""
        return self.tiers.invalidations

    @property
    def pending(self) -> int:
        """How many stacks wait for confirmation by Redis."""
        return self.invalidations.pending

    @property
    def state(self) -> RedisState:
        """The state of the Redis tier."""
        return self.tiers.redis_state()

    @property
    def is_subscribed(self) -> bool:
        """Whether invalidations by others are received."""
        return self.state.is_subscribed

    def key(self, caller: bytes = b"a", *, stack: bytes = STACK, action: bytes = b"action-1") -> EntryKey:
        """Return a key."""
        return key_of(self.prefix, caller, stack=stack, action=action)

    def entry(self, body: bytes = b'{"a": 1}', *, ttl_s: float = 60.0) -> Entry:
        """Return an entry that was fetched now, by this replica's clock."""
        return entry_of(body, ttl_s=ttl_s, now_s=self.times.clock.wall_s())

    async def begin_fill(self, key: EntryKey) -> FillToken:
        """Do what comes before a fetch."""
        fill_token = self.tiers.fill_token(key)
        return await prepare_fill(self.tiers, fill_token, await self.tiers.lookup(key))

    async def fill(self, key: EntryKey, entry: Entry | None = None) -> Entry:
        """Store an entry as fetches do, and wait until Redis has it.

        A connection opened meanwhile repeats the invalidations of the last ten minutes, and with them undoes
        what was stored since; the next fetch stores it again.
        """
        entry = entry or self.entry()
        ends_s = time.monotonic() + 5.0
        while True:
            fill_token = await self.begin_fill(key)
            is_stored = self.tiers.store(fill_token, entry) is None
            try:
                await self.in_redis(key, entry, timeout_s=0.5)
            except TimeoutError:
                assert time.monotonic() < ends_s
            else:
                if is_stored:
                    return entry
            await asyncio.sleep(0)

    def drop(self, key: EntryKey) -> None:
        """Remove an entry as a fetch does that begins now and shows that it is over."""
        fill_token = self.tiers.begin_fetch(self.tiers.fill_token(key))
        self.tiers.drop(fill_token, LookupResult(None), everywhere=True)

    async def in_redis(self, key: EntryKey, entry: Entry | None, timeout_s: float = 5.0) -> None:
        """Wait until a look-up in Redis finds an entry, or (``None``) no longer finds one."""
        redis = self.tiers.redis
        if redis is None:
            return

        async def is_there() -> bool:
            result = await redis.lookup(key)
            return as_stored(result.entry) == as_stored(entry) and not result.has_failed

        await until(is_there, "the entry in Redis to be as it was queued", timeout_s)

    async def confirmed(self, timeout_s: float = 5.0) -> None:
        """Wait until Redis has confirmed every invalidation."""
        await until(lambda: self.pending == 0, "the confirmation", timeout_s)

    async def subscribed(self) -> None:
        """Wait until invalidations by others are received."""
        await until(lambda: self.is_subscribed, "the subscription")

    async def found(self, key: EntryKey) -> bytes | None:
        """Return the body that a look-up finds."""
        entry = (await self.tiers.lookup(key)).entry
        return None if entry is None else entry.body

    def in_memory(self, key: EntryKey) -> bool:
        """Tell whether the memory tier has a copy."""
        return self.tiers.peek(key) is not None


def replica(
    url: str | None,
    prefix: str,
    *,
    memory_bytes: int = 1 << 20,
    memory_ttl_s: float = 30.0,
    longest_ttl_s: float = 86400.0,
    settle_s: float = 600.0,
    timeout_s: float = 2.0,
    secret: bytes = b"",
    more: Mapping[str, Any] | None = None,
) -> Replica:
    """Make the tiers of one gateway; nothing runs yet; ``more`` settings are of Redis."""
    metrics, times = Metrics(), Times()
    detached: list[bytes] = []
    started_over: list[float] = []
    tiers = Tiers(
        CacheConfig(memory_bytes=memory_bytes, memory_ttl_s=memory_ttl_s, settle_s=settle_s),
        longest_ttl_s,
        redis_settings(url, timeout_s=timeout_s, **(more or {})) if url is not None else None,
        keys=KeySpace(prefix, UPSTREAM),
        secret=secret,
        clock=times.clock,
        metrics=metrics,
        on_invalidate=detached.append,
        on_drop=lambda _: None,
        on_start_over=lambda: started_over.append(times.clock.monotonic_s()),
    )
    return Replica(tiers, metrics, times, prefix, detached, started_over)


def is_left(one: Replica) -> bool:
    """Whether no request waits for Redis, and no invalidation is received."""
    state = one.state
    return not state.is_up and state.breaker is not BreakerState.CLOSED and not state.is_subscribed


def is_used(one: Replica) -> bool:
    """Whether look-ups are sent to Redis, and invalidations received."""
    state = one.state
    return state.is_up and state.breaker is BreakerState.CLOSED and state.is_subscribed


def lines_about(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    """The log lines that begin with some words."""
    return [message for message in caplog.messages if message.startswith(beginning)]


def documented_rights(prefix: str) -> list[list[str]]:
    """What follows ``ACL SETUSER NAME`` in the handbook: for servers, for Sentinels."""
    text = Path("deploy/README.md").read_text("utf-8")
    rules = re.findall(r"^ACL SETUSER aos-gateway on >PASSWORD (.+)$", text, re.MULTILINE)
    return [["on", ">secret", *rule.replace("aosgw:", f"{prefix}:").split()] for rule in rules]


async def prepare_fill(tiers: Tiers, fill_token: FillToken, lookup: LookupResult) -> FillToken:
    """Do what comes before a fetch: see that there is a generation, then begin."""
    generation = lookup.generation
    if tiers.lacks_generation(EarlyLookup(fill_token, lookup)):
        generation = await tiers.mint(fill_token.key)
    return tiers.begin_fetch(fill_token, generation)
