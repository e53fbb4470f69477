"""What every store can do, and how it says that it could not."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey


class StoreError(Exception):
    """A store did not do what it was asked; not the same as an absent entry.

    Attributes:
        kind: a short name for metrics: ``timeout``, ``connection``, ``answer``, or ``open`` when
            it was not asked at all.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class StoreResult(msgspec.Struct, frozen=True, gc=False):
    """The answer to a look-up.

    Attributes:
        entry: the usable entry; ``None`` when there is none.
        generation: the stack's generation in Redis; ``None`` when absent or not kept here.
    """

    entry: Entry | None
    generation: bytes | None = None


NOTHING = StoreResult(None)


class Store(Protocol):
    """A place for entries. Absent is ``None``; failed is `StoreError`."""

    async def lookup(self, key: EntryKey) -> StoreResult:
        """Return the fresh entry under a key, and the stack's generation where one is kept."""

    async def store(self, key: EntryKey, entry: Entry, generation: bytes) -> None:
        """Keep an entry until its end; it is usable while its stack has this generation."""

    async def drop(self, key: EntryKey) -> None:
        """Remove one entry."""

    async def forget(self, stack: bytes) -> None:
        """Make every entry of a case-folded stack id unusable."""

    async def close(self) -> None:
        """Let go of everything; the store is not used again."""
