"""The way to Redis, whichever kind it is: which server has a key, and which to subscribe at."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from gateway.config.redis_url import redis_place
from gateway.core.caching.key import EntryKey
from gateway.store.invalidations import Mark
from gateway.store.redis_cluster import ClusterLink
from gateway.store.redis_connection import Locator, RedisSettings
from gateway.store.redis_node import Node, NodeContext
from gateway.store.redis_sentinel import SentinelLocator

T = TypeVar("T")


class Link(Protocol):
    """Leads each key to its server; keys with the same hash tag are on the same one.

    Attributes:
        settings: as last given.
        nodes: the servers known now.
        marks: of the server of each slot.
    """

    settings: RedisSettings

    @property
    def nodes(self) -> Sequence[Node]: ...

    @property
    def marks(self) -> Sequence[Mark]: ...

    def slot(self, name: bytes) -> int:
        """Return the slot of a key, 0 where there are none; keys with the same hash tag share it."""

    def node_of(self, key: EntryKey) -> Node | None:
        """Return the server of an entry and of all else of its stack; ``None`` when none is known."""

    def node_at(self, name: bytes) -> Node | None:
        """Return the server of a key by its name; ``None`` when none is known."""

    def subscribe_at(self) -> Node | None:
        """Return the server to subscribe at; ``None`` while none is the right one."""

    def split(self, items: Sequence[T], name_of: Callable[[T], bytes]) -> Sequence[Sequence[T]]:
        """Split what is to be sent by its server, in order; ``name_of`` returns the key of each."""

    def connect_with(self, settings: RedisSettings) -> None:
        """Use another user, password or TLS context for connections opened from now on."""

    async def run(self) -> None:
        """Watch the servers until cancelled."""

    async def close(self) -> None:
        """Close the connections."""


def link_to(settings: RedisSettings, context: NodeContext) -> Link:
    """Return the link to the kind of Redis that a URL names."""
    match redis_place(settings.url).kind:
        case "cluster":
            return ClusterLink(settings, context)
        case "sentinel":
            return SentinelLink(settings, context)
        case "single":
            return SingleLink(settings, context)


class SingleLink:
    """A single server."""

    def __init__(self, settings: RedisSettings, context: NodeContext, locator: Locator | None = None) -> None:
        self.settings = settings
        self._node = Node(settings, context, locator)
        self.nodes: Sequence[Node] = (self._node,)
        self.marks: Sequence[Mark] = (self._node.mark,)

    def slot(self, name: bytes) -> int:
        del name
        return 0

    def node_of(self, key: EntryKey) -> Node:
        del key
        return self._node

    def node_at(self, name: bytes) -> Node:
        del name
        return self._node

    def subscribe_at(self) -> Node | None:
        return None if self._node.condition.is_wrong else self._node

    def split(self, items: Sequence[T], name_of: Callable[[T], bytes]) -> Sequence[Sequence[T]]:
        del name_of
        return (items,) if items else ()

    def connect_with(self, settings: RedisSettings) -> None:
        self.settings = settings
        self._node.connect_with(settings)

    async def run(self) -> None:
        await self._node.watch()

    async def close(self) -> None:
        await self._node.client.aclose()


class SentinelLink(SingleLink):
    """The primary that Sentinels name."""

    def __init__(self, settings: RedisSettings, context: NodeContext) -> None:
        self._locator = SentinelLocator(redis_place(settings.url), settings, context.tasks, context.clock)
        super().__init__(_at_primary(settings), context, self._locator)
        # Connections to two primaries would see invalidations each for itself.
        self._locator.on_moved = self._node.leave

    def connect_with(self, settings: RedisSettings) -> None:
        self._locator.settings = settings
        super().connect_with(_at_primary(settings))


def _at_primary(settings: RedisSettings) -> RedisSettings:
    place = redis_place(settings.url)
    # User, password and database are those of the primary, the host is not.
    return msgspec.structs.replace(settings, url=place.server_url(*place.hosts[0]))
