"""What Redis is asked to change, and what of it it confirmed."""

from __future__ import annotations

import msgspec

from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey


class Write(msgspec.Struct, frozen=True, gc=False):
    """One change to send: an entry to keep under a generation, or (``entry`` is ``None``) to remove."""

    key: EntryKey
    entry: Entry | None
    generation: bytes


class Forget(msgspec.Struct, frozen=True, gc=False):
    """One stack to forget: its generation key, and the note to publish (``None``: publish nothing)."""

    generation_key: bytes
    note: bytes | None


class Forgotten(msgspec.Struct, frozen=True, gc=False):
    """What Redis confirmed of one `Forget`."""

    is_deleted: bool
    is_published: bool
