"""Writes waiting for Redis, bounded in number and bytes; no request waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable

from gateway.store.lookup import FillToken
from gateway.store.redis_commands import Write

_MAX_BYTES = 33_554_432
_MAX_WRITES = 10_000
_AT_ONCE = 64


class WriteQueue:
    """First in, first out; the token with each write tells later whether it is outdated."""

    def __init__(self) -> None:
        self._writes: deque[tuple[FillToken, Write]] = deque()
        self._size_bytes = 0
        self._removing: Counter[bytes] = Counter()
        self._is_filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._writes)

    def offer(self, fill_token: FillToken, write: Write) -> bool:
        """Add a write; ``False`` when there is no room for it."""
        size_bytes = _size_bytes(write)
        if len(self._writes) >= _MAX_WRITES or self._size_bytes + size_bytes > _MAX_BYTES:
            return False
        self._writes.append((fill_token, write))
        self._size_bytes += size_bytes
        if write.entry is None:
            self._removing[write.key.name] += 1
        self._is_filled.set()
        return True

    async def wait(self) -> None:
        """Wait until it is not empty."""
        await self._is_filled.wait()

    def take(self) -> list[tuple[FillToken, Write]]:
        """Take the oldest writes, as many as go in one round trip."""
        taken = [self._writes.popleft() for _ in range(min(len(self._writes), _AT_ONCE))]
        self._size_bytes -= sum(_size_bytes(write) for _, write in taken)
        if not self._writes:
            self._is_filled.clear()
        return taken

    def done(self, taken: Iterable[tuple[FillToken, Write]]) -> None:
        """End what was taken: Redis has answered or failed."""
        self._removing -= Counter(write.key.name for _, write in taken if write.entry is None)

    def is_removing(self, name: bytes) -> bool:
        """Whether an entry's removal is queued or under way, so that Redis may still have it."""
        return name in self._removing


def _size_bytes(write: Write) -> int:
    return len(write.entry.body) if write.entry is not None else 0
