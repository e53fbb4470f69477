"""Changes to make in Redis, and what Redis confirmed of them."""

from __future__ import annotations

import msgspec

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey


class Write(msgspec.Struct, frozen=True, gc=False):
    """An entry to store under a generation; to remove, when ``entry`` is ``None``."""

    key: EntryKey
    entry: Entry | None
    generation: bytes


class Invalidate(msgspec.Struct, frozen=True, gc=False):
    """A generation to delete, and the message to publish; ``None`` publishes nothing."""

    generation_key: bytes
    message: bytes | None


class InvalidateReply(msgspec.Struct, frozen=True, gc=False):
    """What Redis confirmed of one `Invalidate`."""

    is_deleted: bool
    is_published: bool
