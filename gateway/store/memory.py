"""The tier in process memory, bounded in bytes: copies without hits are evicted first."""

from collections.abc import Callable

import msgspec

from gateway.clock import Clock
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey, stack_of

# Measured: key, dictionary slots, index and objects of a copy, beside its head and body.
ENTRY_OVERHEAD_BYTES = 600

# Share of the bound that is freed at once: a dictionary finds its oldest key by passing all removed ones.
_FREED_SHARE = 0.01
# Skipping more in one sweep would block the event loop.
_MAX_SPARED = 1_000


class _Copy(msgspec.Struct, gc=False):
    entry: Entry
    # Monotonic.
    ends_s: float
    # Since it was stored, or last spared from eviction.
    was_hit: bool = False


class MemoryStore:
    """Keeps entries in this process, under `EntryKey.local`.

    The oldest copy is evicted first, unless it was hit: then it is spared once and becomes the youngest
    (the clock algorithm). That takes less memory than a list by last use, and one assignment a hit.

    Args:
        limit_bytes: bound of bodies, heads and overhead together; 0 keeps nothing.
        clock: decides when copies end.
        is_current: whether every invalidation sent by other workers has been received, which never waits;
            copies are returned only then. ``None`` without other workers.
    """

    def __init__(self, limit_bytes: int, clock: Clock, is_current: Callable[[], bool] | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self.evictions = 0
        self._clock = clock
        self._is_current = is_current
        self._copies: dict[bytes, _Copy] = {}
        # The keys of each stack, by its hash: two stacks with the same are invalidated together. Most stacks
        # have one key, for which a collection would take more memory.
        self._by_stack: dict[int, bytes | dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def get(self, local: bytes, *, is_checked: bool = False) -> Entry | None:
        """Return the entry under `EntryKey.local` while its copy lasts, or ``None``; never waits.

        ``is_checked``: it was current when the request came.
        """
        copy = self._copies.get(local)
        if copy is None:
            return None
        now_s = self._clock.monotonic_s()
        if now_s >= copy.ends_s:
            self.discard(local)
            return None
        if self._is_current is not None and not is_checked and not self._is_current():
            return None
        copy.was_hit = True
        return copy.entry

    def put(self, key: EntryKey, entry: Entry, ends_s: float) -> bool:
        """Keep a copy until a monotonic time; ``False`` when that has passed or the entry is too large."""
        local = key.local
        self.discard(local)
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
        """Remove the copy under `EntryKey.local`, if there is one."""
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

    def discard_stack(self, stack: bytes) -> None:
        """Remove every copy of a case-folded stack id."""
        keys = self._by_stack.get(hash(stack), ())
        for local in [keys] if isinstance(keys, bytes) else list(keys):
            self.discard(local)

    def clear(self) -> None:
        self._copies.clear()
        self._by_stack.clear()
        self.size_bytes = 0

    def _make_room(self, size_bytes: int) -> None:
        """Remove the oldest copies without a hit, a hundredth of the bound at least."""
        most_bytes = self.limit_bytes - max(size_bytes, int(self.limit_bytes * _FREED_SHARE))
        while self.size_bytes > most_bytes:
            self._sweep(self.size_bytes - most_bytes)

    def _sweep(self, wanted_bytes: int) -> None:
        spared: list[bytes] = []
        removed: list[bytes] = []
        for local, copy in self._copies.items():
            if copy.was_hit and len(spared) < _MAX_SPARED:
                spared.append(local)
                continue
            removed.append(local)
            wanted_bytes -= _size_bytes(copy.entry)
            if wanted_bytes <= 0:
                break
        for local in removed:
            self.discard(local)
        for local in spared:
            self._copies[local] = copy = self._copies.pop(local)
            copy.was_hit = False
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


def _size_bytes(entry: Entry) -> int:
    return len(entry.body) + len(entry.lines) + ENTRY_OVERHEAD_BYTES
