"""Writes waiting for Redis, bounded in number and bytes; no request waits for them."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable

import msgspec

from gateway.core.caching.entry import Entry
from gateway.store.lookup import FillToken

_MAX_BYTES = 33_554_432
_MAX_WRITES = 10_000
_AT_ONCE = 64


class Write(msgspec.Struct, frozen=True, gc=False):
    """An entry to store under the generation of its token; to remove, when ``entry`` is ``None``."""

    fill_token: FillToken
    entry: Entry | None

    @property
    def size_bytes(self) -> int:
        """What it counts for."""
        return len(self.entry.body) if self.entry is not None else 0


class WriteQueue:
    """First in, first out; the token of each write tells later whether it is outdated.

    Attributes:
        removing: names of entries whose removal is queued or under way, so that Redis may still have them.
    """

    def __init__(self) -> None:
        self._writes: deque[Write] = deque()
        self._size_bytes = 0
        self.removing: Counter[bytes] = Counter()
        self._is_filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._writes)

    def offer(self, write: Write) -> bool:
        """Add a write; ``False`` when there is no room for it."""
        if len(self._writes) >= _MAX_WRITES or self._size_bytes + write.size_bytes > _MAX_BYTES:
            return False
        self._writes.append(write)
        self._size_bytes += write.size_bytes
        if write.entry is None:
            self.removing[write.fill_token.key.name] += 1
        self._is_filled.set()
        return True

    async def wait(self) -> None:
        await self._is_filled.wait()

    def take(self) -> list[Write]:
        """Take the oldest writes, as many as go in one round trip."""
        taken = [self._writes.popleft() for _ in range(min(len(self._writes), _AT_ONCE))]
        self._size_bytes -= sum(write.size_bytes for write in taken)
        if not self._writes:
            self._is_filled.clear()
        return taken

    def done(self, taken: Iterable[Write]) -> None:
        """End what was taken: Redis has answered or failed."""
        self.removing -= Counter(write.fill_token.key.name for write in taken if write.entry is None)
