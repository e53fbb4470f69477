"""Leases in Redis: who fetches a record that may change, and what was fetched."""

import math
import secrets
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey
from gateway.core.caching.lease import NONCE_BYTES, LeaseLookup, Reply, publication
from gateway.store.lookup import FillToken
from gateway.store.redis import RedisStore, milliseconds
from gateway.store.redis_commands import Command

_OPERATION = "lease"
_NO_END, _NO_KEY = -1, -2
_MOMENTS = {_NO_END: float("inf"), _NO_KEY: float("-inf")}


@dataclass(frozen=True, repr=False)
class RedisLeases:
    """Reads and writes the leases of one gateway; every method may raise `StoreError`.

    Attributes:
        secret: ``cache.secret`` as bytes.
    """

    store: RedisStore
    secret: bytes
    clock: Clock

    def lookup(
        self, key: EntryKey, generation: bytes, life_s: float, accept: bytes, not_before_s: float = -math.inf
    ) -> LeaseLookup:
        """Begin a look-up; see `LeaseLookup`."""
        return LeaseLookup(
            key, generation, life_s, secret=self.secret, accept=accept, not_before_s=not_before_s
        )

    async def claim(self, lookup: LeaseLookup) -> Reply:
        """Take the lease if nobody has it, and look."""
        lease = self._named_anew(lookup)
        # The life of what is read after it, not of a later lease: it may end in between.
        return await self._look(
            lookup,
            ("SET", lease, lookup.nonce, "NX", "PX", milliseconds(lookup.life_s)),
            ("PTTL", lease),
        )

    async def take_over(self, lookup: LeaseLookup) -> None:
        """Take the lease, whoever has it."""
        lease = self._named_anew(lookup)
        await self.store.run(
            _OPERATION, lease, ("SET", lease, lookup.nonce, "PX", milliseconds(lookup.life_s))
        )

    async def look(self, lookup: LeaseLookup) -> Reply:
        """Look alone."""
        return await self._look(lookup)

    async def publish(
        self, token: FillToken, generation: bytes, life_s: float, nonce: bytes, entry: Entry | None
    ) -> None:
        """Publish what was fetched under a nonce, unless there is something newer.

        Args:
            token: of the fetch.
            entry: ``None``: it may not be shared.
        """
        name, value = publication(token.key, generation, life_s, nonce, entry, secret=self.secret)
        names = token.key.lease_names(generation, life_s)
        [values] = await self.store.run(_OPERATION, name, ("MGET", *names))
        lease, published = values if isinstance(values, list) else (None, None)
        # With what is published under another lease gone, all would wait until that is over.
        is_newer_there = isinstance(published, bytes) and published[:NONCE_BYTES] == lease != nonce
        if not (is_newer_there or token.is_overtaken):
            await self.store.run(_OPERATION, name, ("SET", name, value, "PX", milliseconds(2 * life_s)))

    def _named_anew(self, lookup: LeaseLookup) -> bytes:
        lookup.nonce = secrets.token_bytes(NONCE_BYTES)
        return lookup.names[0]

    async def _look(self, lookup: LeaseLookup, *before: Command) -> Reply:
        key = lookup.key
        sent_s, wall_s = self.clock.monotonic_s(), self.clock.wall_s()
        *first, values = await self.store.run(
            _OPERATION, key.name, *before, ("MGET", key.name, *lookup.names, key.generation)
        )
        sealed, lease, published, generation = values if isinstance(values, list) else (None,) * 4
        found = self.store.result(key, sealed, generation)
        left_ms = first[-1] if first else None
        return Reply(
            sent_s=sent_s,
            wall_s=wall_s,
            lease=lease if isinstance(lease, bytes) else None,
            published=published if isinstance(published, bytes) else None,
            generation=found.generation,
            entry=found.entry,
            left_s=_MOMENTS.get(left_ms, left_ms / 1000) if isinstance(left_ms, int) else None,
        )
