"""A Redis Cluster: which of its primaries has a key, and who is a primary now.

Every server has its own `Node`, so that one that fails stops no other. The library's own client for a Cluster
is not used: it reads the slots again on the way of requests, and sends the parts of one pipeline at once, so
that an invalidation could be published before its generation is deleted.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError, InvalidResponse, RedisError

from gateway.config.redis_url import redis_place
from gateway.core.caching.key import EntryKey
from gateway.store.invalidations import Mark
from gateway.store.redis_connection import (
    Address,
    RedisSettings,
    ask,
    connection_arguments,
    server_address,
)
from gateway.store.redis_errors import error_text
from gateway.store.redis_node import Node, NodeContext
from gateway.tasks import TaskSet
from gateway.telemetry.state_log import StateLog

_log = logging.getLogger("gateway")

# No request waits for it.
_ASK_S = 1.0
_PAUSE_S = 1.0

# Of a node that does not know its own, or was not told its name.
_UNKNOWN_HOSTS = (None, b"", b"?")

T = TypeVar("T")


class ClusterLink:
    """The primaries of a Cluster; the slots are read anew when one of them fails or redirects."""

    def __init__(self, settings: RedisSettings, context: NodeContext) -> None:
        self.settings = settings
        self._place = redis_place(settings.url)
        self._context = context
        self._watching = TaskSet()
        self._watches: dict[Address, asyncio.Task[None]] = {}
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self.marks: Sequence[Mark] = [Mark()] * REDIS_CLUSTER_HASH_SLOTS
        self._is_outdated = asyncio.Event()
        self._is_outdated.set()
        self._state = StateLog("redis cluster", context.clock)

    @property
    def nodes(self) -> Sequence[Node]:
        return tuple(self._nodes.values())

    def slot(self, name: bytes) -> int:
        return key_slot(name)

    def node_of(self, key: EntryKey) -> Node | None:
        return self._slots[key_slot(key.generation)]

    def node_at(self, name: bytes) -> Node | None:
        return self._slots[key_slot(name)]

    def subscribe_at(self) -> Node | None:
        # A message reaches every node of a Cluster, so any will do.
        usable = [node for node in self.nodes if not node.condition.is_wrong]
        sound = [node for node in usable if node.condition.breaker.is_closed]
        return random.choice(sound or usable) if usable else None

    def split(self, items: Sequence[T], name_of: Callable[[T], bytes]) -> Sequence[Sequence[T]]:
        parts: dict[Node | None, list[T]] = {}
        for item in items:
            parts.setdefault(self.node_at(name_of(item)), []).append(item)
        return tuple(parts.values())

    def connect_with(self, settings: RedisSettings) -> None:
        self.settings, self._place = settings, redis_place(settings.url)
        for address, node in self._nodes.items():
            node.connect_with(self._at(address))

    async def run(self) -> None:
        try:
            while True:
                await self._is_outdated.wait()
                self._is_outdated.clear()
                await self._read_slots()
                if None in self._slots or not all(node.condition.breaker.is_closed for node in self.nodes):
                    self._is_outdated.set()
                await asyncio.sleep(_PAUSE_S)
        finally:
            await self._watching.cancel()

    async def close(self) -> None:
        for node in self.nodes:
            await node.client.aclose()

    async def _read_slots(self) -> None:
        """Read the slots anew, from a node that works if there is one."""
        known = sorted(self._nodes, key=lambda at: not self._nodes[at].condition.breaker.is_closed)
        try:
            ranges = await read_slots(self.settings, (*known, *self._place.hosts))
        except RedisError as error:
            self._state.down(error_text(error, self.settings.password))
            return
        self._take(ranges)
        missing = self._slots.count(None)
        if missing:
            self._state.down(f"{missing} slots are served by no node")
        else:
            self._state.up()

    def _take(self, ranges: Sequence[tuple[int, int, Address]]) -> None:
        """Use other nodes for the slots from now on."""
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, address in ranges:
            owners[first : last + 1] = [address] * (last + 1 - first)
        if owners == self._owners:
            return
        self._owners = owners
        former = self._nodes
        named = dict.fromkeys(at for at in owners if at is not None)
        self._nodes = {at: former.get(at) or self._make_node(at) for at in named}
        self._slots = slots = [None if at is None else self._nodes[at] for at in owners]
        for address, node in self._nodes.items():
            node.check_names = (self._name_at(node),)
            if address not in former:
                self._watches[address] = self._watching.start(node.watch(), f"redis-watch {address}")
        nowhere = Mark()
        self.marks = [nowhere if node is None else node.mark for node in slots]
        self._context.on_moved()
        for address, node in former.items():
            if address not in self._nodes:
                self._watches.pop(address).cancel()
                node.retire()
        if set(former) != set(self._nodes):
            names = ", ".join(f"{host}:{port}" for host, port in self._nodes)
            level = logging.WARNING if former else logging.INFO
            _log.log(level, "redis cluster: the primaries are %s", names or "none")

    def _make_node(self, address: Address) -> Node:
        host, port = address
        return Node(self._at(address), self._context, name=f"{host}:{port}", on_failure=self._is_outdated.set)

    def _at(self, address: Address) -> RedisSettings:
        return settings_at(self.settings, address)

    def _name_at(self, node: Node) -> bytes:
        """Return the name of a key in one of a node's slots."""
        names = (b"%s:check:{%d}" % (self._context.prefix, number) for number in itertools.count())
        return next(name for name in names if self.node_at(name) is node)


def settings_at(settings: RedisSettings, address: Address) -> RedisSettings:
    """Return the settings of one server of those that a URL leads to."""
    return msgspec.structs.replace(settings, url=redis_place(settings.url).server_url(*address))


async def read_slots(
    settings: RedisSettings, addresses: Iterable[Address]
) -> Sequence[tuple[int, int, Address]]:
    """Return first slot, last slot and primary of each range, from the first node that knows all slots.

    Without such a node from the one that knows most: a node that was reset, or has lost its file, knows none.

    Raises:
        redis.exceptions.ConnectionError: none of them says; the text has the words of all.
    """
    failures: dict[str, None] = {}
    known: list[Sequence[tuple[int, int, Address]]] = []
    for address in dict.fromkeys(addresses):
        at_node = settings_at(settings, address)
        try:
            reply = await ask(connection_arguments(at_node, _ASK_S), _ASK_S, "CLUSTER", "SLOTS")
            ranges = _ranges(reply, address[0])
        except Exception as error:  # the parser raises anything when fed with garbage
            failures[error_text(error, at_node.password)] = None
            continue
        if _slots_of(ranges) >= REDIS_CLUSTER_HASH_SLOTS:
            return ranges
        known.append(ranges)
    if known:
        return max(known, key=_slots_of)
    raise ConnectionError(f"no node tells the slots: {', '.join(failures)}")


def _slots_of(ranges: Sequence[tuple[int, int, Address]]) -> int:
    """Return how many slots are served."""
    return sum(last + 1 - first for first, last, _ in ranges)


def _ranges(reply: object, asked: str) -> list[tuple[int, int, Address]]:
    """Return first and last slot, host and port of each range's primary from the reply to ``CLUSTER SLOTS``.

    https://redis.io/docs/latest/commands/cluster-slots/

    Args:
        asked: the host that stands for itself where the node does not know its own.
    """
    ranges = []
    for one in reply if isinstance(reply, list) else [None]:
        match one:
            case [int(first), int(last), [host, int(port), *_], *_] if (
                0 <= first <= last < REDIS_CLUSTER_HASH_SLOTS and isinstance(host, bytes | None)
            ):
                if not port:
                    # Nobody has told that node's address: it was reset, or is gone for good.
                    continue
                name = asked if host in _UNKNOWN_HOSTS else host.decode("ascii")
                ranges.append((first, last, server_address(name, port)))
            case _:
                raise InvalidResponse
    return ranges
