"""The result of a look-up, and what is remembered from its start."""

import weakref

import msgspec

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey


class Fetches:
    """Shared by the fetches of one entry that are under way; ends with the last of them.

    Args:
        all_fetches: where those of each entry are found as long as one is under way.
        entry: `EntryKey.local` of the entry.

    Attributes:
        latest: the highest number among those that have ended.
    """

    __slots__ = ("__weakref__", "_all_fetches", "_entry", "latest")

    def __init__(self, all_fetches: "dict[bytes, weakref.ref[Fetches]]", entry: bytes) -> None:
        self.latest = 0
        self._all_fetches = all_fetches
        self._entry = entry
        all_fetches[entry] = weakref.ref(self)

    def __del__(self) -> None:
        # Half the price of a WeakValueDictionary.
        del self._all_fetches[self._entry]

    def end(self, fetch: int) -> bool:
        """End a fetch; ``False`` when one that began later has ended before it."""
        if fetch < self.latest:
            return False
        self.latest = fetch
        return True


class FillToken(msgspec.Struct, frozen=True, gc=False):
    """Taken before a look-up or fetch, to find out later whether its result is outdated.

    Attributes:
        since: the number of the last change before it.
        monotonic_s: the age of a copy counts from here.
        generation: the stack's generation in Redis, read before the fetch; ``None`` means that
            nothing may be stored there.
        fetches: shared with other fetches of the entry; ``None`` before its own begins.
        fetch: the number of its fetch; one that begins later has a higher one.
    """

    key: EntryKey
    since: int
    wall_s: float
    monotonic_s: float
    generation: bytes | None = None
    fetches: Fetches | None = None
    fetch: int = 0

    @property
    def is_overtaken(self) -> bool:
        """Whether a fetch that began later has ended before it."""
        return self.fetches is not None and self.fetch < self.fetches.latest

    def ends_in_order(self) -> bool:
        """End its fetch; ``False`` when one that began later has ended before it."""
        return self.fetches is None or self.fetches.end(self.fetch)


class LookupResult(msgspec.Struct, frozen=True, gc=False):
    """The result of a look-up.

    Attributes:
        entry: the usable entry; ``None`` when there is none.
        generation: the stack's generation in Redis; ``None`` when absent or not read.
        has_failed: Redis did not answer.
        is_absent: the entry is nowhere.
    """

    entry: Entry | None
    generation: bytes | None = None
    has_failed: bool = False
    is_absent: bool = False


ABSENT = LookupResult(None, is_absent=True)
FAILED = LookupResult(None, has_failed=True)


class EarlyLookup(msgspec.Struct, frozen=True, gc=False):
    """A look-up made before its request was read in full, and the token taken before it."""

    fill_token: FillToken
    lookup: LookupResult
