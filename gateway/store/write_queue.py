"""Changes on their way to Redis, bounded in number and bytes: nobody waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from gateway.store.redis_changes import Write

_MOST_BYTES = 33_554_432
_MOST_WRITES = 10_000
_AT_ONCE = 64

T = TypeVar("T")


class WriteQueue(Generic[T]):
    """First in, first out; each change goes with what tells later whether it is still wanted."""

    def __init__(self) -> None:
        self._writes: deque[tuple[T, Write]] = deque()
        self._size_bytes = 0
        self._dropping: Counter[bytes] = Counter()
        self._is_filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._writes)

    def offer(self, fill_token: T, write: Write) -> bool:
        """Take a change, or return ``False`` when there is no room for it."""
        size_bytes = _size_bytes(write)
        if len(self._writes) >= _MOST_WRITES or self._size_bytes + size_bytes > _MOST_BYTES:
            return False
        self._writes.append((fill_token, write))
        self._size_bytes += size_bytes
        if write.entry is None:
            self._dropping[write.key.name] += 1
        self._is_filled.set()
        return True

    async def wait(self) -> None:
        """Wait until there is something to send."""
        await self._is_filled.wait()

    def take(self) -> list[tuple[T, Write]]:
        """Return the oldest changes, as many as go in one round trip."""
        taken = [self._writes.popleft() for _ in range(min(len(self._writes), _AT_ONCE))]
        self._size_bytes -= sum(_size_bytes(write) for _, write in taken)
        if not self._writes:
            self._is_filled.clear()
        return taken

    def answered(self, taken: Iterable[tuple[T, Write]]) -> None:
        """Note that Redis has answered, or failed, for what was taken."""
        self._dropping -= Counter(write.key.name for _, write in taken if write.entry is None)

    def is_dropping(self, name: bytes) -> bool:
        """Tell whether an entry's removal is queued or under way: Redis may still have it."""
        return name in self._dropping


def _size_bytes(write: Write) -> int:
    return len(write.entry.body) if write.entry is not None else 0
