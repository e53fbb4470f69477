"""The outcome of one store's look-up, and the error of a store that failed."""

from __future__ import annotations

import msgspec

from gateway.core.caching.entry import Entry


class StoreError(Exception):
    """A store failed; not the same as an absent entry.

    Attributes:
        kind: for metrics: ``timeout``, ``connection``, ``answer``, or ``open`` when the breaker was.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class StoreResult(msgspec.Struct, frozen=True, gc=False):
    """The result of a look-up.

    Attributes:
        entry: the usable entry; ``None`` when there is none.
        generation: the stack's generation in Redis; ``None`` when absent.
    """

    entry: Entry | None
    generation: bytes | None = None
