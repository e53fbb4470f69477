"""What a look-up in all tiers gave, and what it must remember from its start."""

from __future__ import annotations

import msgspec

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey


class Fetches:
    """The fetches of one entry that are under way: they share this, and it ends with the last of them.

    Attributes:
        latest: number of the one that began last among those that have been stored or refused.
    """

    __slots__ = ("__weakref__", "latest")

    def __init__(self) -> None:
        self.latest = 0

    def end(self, fetch: int) -> bool:
        """Note that a fetch ends; ``False`` when one that began later has ended before it."""
        if fetch < self.latest:
            return False
        self.latest = fetch
        return True


class FillToken(msgspec.Struct, frozen=True, gc=False):
    """What a look-up or fill remembers from its start, to tell whether it was overtaken.

    Attributes:
        key: what it is about.
        since: the number of the last change before it.
        wall_s: wall clock.
        monotonic_s: monotonic clock; the age of a copy counts from here.
        generation: the stack's generation in Redis, read before the fetch; ``None`` means that
            nothing may be stored there.
        fetches: what it shares with other fetches of the entry; ``None`` before its own begins.
        fetch: the number of its fetch: one that begins later has a higher one.
    """

    key: EntryKey
    since: int
    wall_s: float
    monotonic_s: float
    generation: bytes | None = None
    fetches: Fetches | None = None
    fetch: int = 0

    def ends_in_order(self) -> bool:
        """Note that its fetch ends now; ``False`` when one that began later has ended before it."""
        return self.fetches is None or self.fetches.end(self.fetch)


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """The answer of all tiers.

    Attributes:
        entry: the usable entry; ``None`` when there is none.
        generation: the stack's generation as Redis told it; ``None`` when absent or not asked.
        has_failed: Redis was asked and did not answer.
        is_absent: every tier was asked, and none has the entry.
    """

    entry: Entry | None
    generation: bytes | None = None
    has_failed: bool = False
    is_absent: bool = False


ABSENT = LookupResult(None, is_absent=True)


class EarlyLookup(msgspec.Struct, frozen=True, gc=False):
    """A look-up that was made before its request was read in full.

    Attributes:
        ticket: taken before it.
        lookup: what it gave.
    """

    fill_token: FillToken
    lookup: LookupResult
