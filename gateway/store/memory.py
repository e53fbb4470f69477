"""The tier in process memory: what was not asked for goes first, within a byte bound."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.clock import Clock
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey, stack_of
from gateway.store.base import NOTHING, StoreResult

# What a copy takes beside its head and its body: key, dictionary slots, index and objects (measured).
ENTRY_OVERHEAD_BYTES = 600


# Of the bound, what is freed at once: each way to the oldest copy leads over the places of those removed.
_FREED_PART = 0.01
# How many are passed over at once: a longer way would hold up the event loop.
_MOST_SPARED = 1_000


class _Copy(msgspec.Struct, gc=False):
    """A copy of an entry.

    Attributes:
        entry: the entry.
        ends_s: monotonic time at which this copy ends.
        was_asked: since it was kept, or since it was last spared.
    """

    entry: Entry
    ends_s: float
    was_asked: bool = False


class MemoryStore:
    """Keeps entries in this process, under `EntryKey.local`.

    The oldest copy goes first, unless it was asked for: then it is spared once and becomes the youngest
    (the clock algorithm). Compared with a list by last use, that costs less memory, and a hit one assignment.

    Args:
        limit_bytes: bound of bodies, heads and overhead together.
        clock: tells when copies end.
    """

    def __init__(self, limit_bytes: int, clock: Clock) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.evictions = 0
        self._clock = clock
        self._is_current: Callable[[], bool] | None = None
        self._copies: dict[bytes, _Copy] = {}
        # The keys of each stack, by its hash: should two have the same, they are forgotten together. Most
        # stacks have one key, and a collection for each of those would be dear.
        self._by_stack: dict[int, bytes | dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def check_with(self, is_current: Callable[[], bool]) -> None:
        """Have copies served only while there is nothing to forget that has not been heard of.

        Args:
            is_current: tells whether that is so; never waits.
        """
        self._is_current = is_current

    def get(self, local: bytes, *, is_checked: bool = False) -> Entry | None:
        """Return the entry under `EntryKey.local` while its copy lasts, or ``None``; never waits.

        Args:
            local: the key.
            is_checked: there was nothing to forget when the request came.
        """
        copy = self._copies.get(local)
        if copy is None:
            return None
        now_s = self._clock.monotonic_s()
        if now_s >= copy.ends_s:
            self._remove(local)
            return None
        if self._is_current is not None and not is_checked and not self._is_current():
            return None
        copy.was_asked = True
        return copy.entry

    def put(self, key: EntryKey, entry: Entry, ends_s: float) -> bool:
        """Keep a copy until a monotonic time; ``False`` when it is over already or too large."""
        local = key.local
        self._remove(local)
        size_bytes = _size_bytes(entry)
        if size_bytes > self.limit_bytes or self._clock.monotonic_s() >= ends_s:
            return False
        if self.size_bytes + size_bytes > self.limit_bytes:
            self._make_room(size_bytes)
        self._copies[local] = _Copy(entry, ends_s)
        self._index(local)
        self.size_bytes += size_bytes
        return True

    def discard(self, local: bytes) -> None:
        """Remove the copy under a key of this process, if there is one."""
        self._remove(local)

    def discard_stack(self, stack: bytes) -> None:
        """Remove every copy of a case-folded stack id."""
        keys = self._by_stack.get(hash(stack), ())
        for local in [keys] if isinstance(keys, bytes) else list(keys):
            self._remove(local)

    def clear(self) -> None:
        """Remove everything."""
        self._copies.clear()
        self._by_stack.clear()
        self.size_bytes = 0

    def retire(self) -> None:
        """Remove everything and keep nothing more."""
        self.clear()
        self.limit_bytes = 0

    async def lookup(self, key: EntryKey) -> StoreResult:
        """Return the fresh entry under a key."""
        entry = self.get(key.local)
        return StoreResult(entry) if entry is not None else NOTHING

    async def store(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Keep an entry until its end; memory knows no generations, it is told what to forget."""
        del generation
        self.put(key, entry, self._clock.monotonic_s() + entry.ttl_s(self._clock.wall_s()))

    async def drop(self, key: EntryKey) -> None:
        """Remove one entry."""
        self.discard(key.local)

    async def forget(self, stack: bytes) -> None:
        """Remove every entry of a stack."""
        self.discard_stack(stack)

    async def close(self) -> None:
        """Remove everything."""
        self.clear()

    def _make_room(self, size_bytes: int) -> None:
        """Remove the oldest copies that nobody asked for, a hundredth of the bound at least."""
        most_bytes = self.limit_bytes - max(size_bytes, int(self.limit_bytes * _FREED_PART))
        while self.size_bytes > most_bytes:
            self._sweep(self.size_bytes - most_bytes)

    def _sweep(self, wanted_bytes: int) -> None:
        spared: list[bytes] = []
        removed: list[bytes] = []
        for local, copy in self._copies.items():
            if copy.was_asked and len(spared) < _MOST_SPARED:
                spared.append(local)
                continue
            removed.append(local)
            wanted_bytes -= _size_bytes(copy.entry)
            if wanted_bytes <= 0:
                break
        for local in removed:
            self._remove(local)
        for local in spared:
            self._copies[local] = copy = self._copies.pop(local)
            copy.was_asked = False
        self.evictions += len(removed)

    def _index(self, local: bytes) -> None:
        stack = hash(stack_of(local))
        keys = self._by_stack.get(stack)
        if keys is None:
            self._by_stack[stack] = local
        elif isinstance(keys, bytes):
            self._by_stack[stack] = {keys: None, local: None}
        else:
            keys[local] = None

    def _remove(self, local: bytes) -> None:
        copy = self._copies.pop(local, None)
        if copy is None:
            return
        self.size_bytes -= _size_bytes(copy.entry)
        stack = hash(stack_of(local))
        keys = self._by_stack[stack]
        if isinstance(keys, dict):
            del keys[local]
        if isinstance(keys, bytes) or not keys:
            del self._by_stack[stack]


def _size_bytes(entry: Entry) -> int:
    return len(entry.body) + len(entry.lines) + ENTRY_OVERHEAD_BYTES
