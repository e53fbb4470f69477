"""The tier in process memory: least recently used entries go first, within a byte bound."""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import msgspec

from gateway.clock import Clock
from gateway.core.entry import Entry
from gateway.core.key import EntryKey
from gateway.store.base import NOTHING, Found

# An upper estimate of dictionary slots, key, index, entry and head objects of one copy.
ENTRY_OVERHEAD_BYTES = 1200


class _Copy(msgspec.Struct, frozen=True, gc=False):
    entry: Entry
    stack: bytes
    ends_s: float
    size_bytes: int


class MemoryStore:
    """Keeps entries in this process.

    Args:
        limit_bytes: bound of bodies, heads and overhead together.
        clock: tells when copies end.
    """

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.evictions = 0
        self._clock = clock
        self._copies: OrderedDict[bytes, _Copy] = OrderedDict()
        self._by_stack: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._copies)

    def get(self, key: EntryKey) -> Entry | None:
        """Return the fresh entry under a key, or ``None``; never waits."""
        copy = self._copies.get(key.name)
        if copy is None:
            return None
        if self._clock.monotonic_s() >= copy.ends_s:
            self._remove(key.name)
            return None
        self._copies.move_to_end(key.name)
        return copy.entry

    def put(self, key: EntryKey, entry: Entry, ends_s: float) -> bool:
        """Keep a copy until a monotonic time; ``False`` when it is over already or too large."""
        self._remove(key.name)
        size_bytes = _size_bytes(key, entry)
        if size_bytes > self.limit_bytes or self._clock.monotonic_s() >= ends_s:
            return False
        while self.size_bytes + size_bytes > self.limit_bytes:
            self._remove(next(iter(self._copies)))
            self.evictions += 1
        self._copies[key.name] = _Copy(entry, key.stack, ends_s, size_bytes)
        self._by_stack[key.stack].add(key.name)
        self.size_bytes += size_bytes
        return True

    def discard(self, key: EntryKey) -> None:
        """Remove the copy under a key, if there is one."""
        self._remove(key.name)

    def discard_stack(self, stack: bytes) -> None:
        """Remove every copy of a case-folded stack id."""
        for name in list(self._by_stack.get(stack, ())):
            self._remove(name)

    def clear(self) -> None:
        """Remove everything."""
        self._copies.clear()
        self._by_stack.clear()
        self.size_bytes = 0

    async def lookup(self, key: EntryKey) -> Found:
        """Return the fresh entry under a key."""
        entry = self.get(key)
        return Found(entry) if entry is not None else NOTHING

    async def store(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Keep an entry until its end; memory knows no generations, it is told what to forget."""
        del generation
        self.put(key, entry, self._clock.monotonic_s() + entry.ttl_s(self._clock.wall_s()))

    async def drop(self, key: EntryKey) -> None:
        """Remove one entry."""
        self.discard(key)

    async def forget(self, stack: bytes) -> None:
        """Remove every entry of a stack."""
        self.discard_stack(stack)

    async def close(self) -> None:
        """Remove everything."""
        self.clear()

    def _remove(self, name: bytes) -> None:
        copy = self._copies.pop(name, None)
        if copy is None:
            return
        self.size_bytes -= copy.size_bytes
        names = self._by_stack[copy.stack]
        names.discard(name)
        if not names:
            del self._by_stack[copy.stack]


def _size_bytes(key: EntryKey, entry: Entry) -> int:
    fields = sum(len(name) + len(value) for name, value in entry.head.fields)
    return len(entry.body) + fields + len(key.name) + ENTRY_OVERHEAD_BYTES
