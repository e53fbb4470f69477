"""What a look-up in all tiers gave, and what it must remember from its start."""

from __future__ import annotations

import msgspec

from gateway.core.entry import Entry
from gateway.core.key import EntryKey


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """What a look-up or fill remembers from its start, to tell whether it was overtaken.

    Attributes:
        key: what it is about.
        forgets: the stack's forget count.
        drops: the entry's drop count.
        wall_s: wall clock.
        monotonic_s: monotonic clock; the age of a copy counts from here.
        generation: the stack's generation in Redis, read before the fetch; ``None`` means that
            nothing may be stored there.
    """

    key: EntryKey
    forgets: int
    drops: int
    wall_s: float
    monotonic_s: float
    generation: bytes | None = None


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """The answer of all tiers.

    Attributes:
        entry: the usable entry; ``None`` when there is none.
        generation: the stack's generation as Redis told it; ``None`` when absent or not asked.
        has_failed: Redis was asked and did not answer.
    """

    entry: Entry | None
    generation: bytes | None = None
    has_failed: bool = False


class LookedUp(msgspec.Struct, frozen=True, gc=False):
    """A look-up that was made before its request was read in full.

    Attributes:
        ticket: taken before it.
        lookup: what it gave.
    """

    ticket: Ticket
    lookup: Lookup
