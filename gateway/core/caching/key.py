"""Keys of entries and generations: injective, versioned, one hash tag per stack."""

from functools import cached_property
from hashlib import blake2b

from gateway.core.aos.route import ExecutionRef, stack_key

# Increase it when the serialized form or what the key covers changes.
ENTRY_VERSION = 3
# Increase it when the form of a lease or of what is published under it changes.
LEASE_VERSION = 1
OWNER_BYTES = 24

FlightKey = tuple[bytes, bytes, bytes, bytes]
"""Caller, variant and raw ids."""


class EntryKey:
    """Where an entry is stored, and which request it answers.

    Keys for Redis are derived on first use, since a fetch that stores nothing needs none.

    Attributes:
        stack: the case-folded stack id, by which it is invalidated.
        local: key of the copy in memory: `KeySpace.owner`, and what follows ``/v2/stacks/`` in the target.
    """

    def __init__(
        self, space: "KeySpace", caller: bytes, variant: bytes, execution: ExecutionRef, owner: bytes
    ) -> None:
        self.stack = stack_key(execution.stack_id)
        self.local = owner + execution.stack_id + b"/actions/" + execution.action_id
        self._space = space
        self._parts = (space.upstream, caller, variant, execution.stack_id, execution.action_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntryKey) and self.local == other.local

    def __hash__(self) -> int:
        return hash(self.local)

    @cached_property
    def identity(self) -> bytes:
        """Upstream, caller, variant and raw ids, length-prefixed; stored inside the entry."""
        return _joined(*self._parts)

    @cached_property
    def name(self) -> bytes:
        """Redis key of the entry, ASCII."""
        digest = blake2b(self.identity, digest_size=24, person=b"aosgw-entry").hexdigest().encode("ascii")
        return b"%s:entry%d:%s:%s" % (self._space.prefix, ENTRY_VERSION, self._hash_tag, digest)

    @cached_property
    def generation(self) -> bytes:
        """Redis key of the stack's generation, ASCII."""
        return self._space.generation_name(self._hash_tag)

    def lease_names(self, generation: bytes, life_s: float) -> tuple[bytes, bytes]:
        """Return the Redis keys of the lease and of what is published under it, ASCII.

        They hold the generation and how long the lease lives: what belongs to others is not found, so what is
        left of a lease tells every replica its age.
        """
        what = self.identity + generation + b"%d" % round(life_s * 1000)
        digest = blake2b(what, digest_size=24, person=b"aosgw-lease").hexdigest()
        rest = b"%d:%s:%s" % (LEASE_VERSION, self._hash_tag, digest.encode("ascii"))
        return self._space.prefix + b":lease" + rest, self._space.prefix + b":live" + rest

    @cached_property
    def _hash_tag(self) -> bytes:
        return self._space.hash_tag(self.stack)


def upstream_identity(scheme: str, host: str, port: int, base_path: str) -> bytes:
    """Return the identity of an upstream, equal on all replicas that serve it.

    Args:
        scheme: ``http`` or ``https``.
        host: host name or address in any case.
        port: always explicit.
        base_path: path prefix without trailing slash, or empty.
    """
    parts = (scheme.lower(), host.lower(), str(port), base_path.rstrip("/"))
    return _joined(*(part.encode("utf-8") for part in parts))


def upstream_digest(upstream: bytes) -> bytes:
    """Return a 16-byte digest of an upstream identity."""
    return blake2b(upstream, digest_size=16, person=b"aosgw-upstream").digest()


class KeySpace:
    """Builds the keys of one gateway.

    Args:
        prefix: ``redis.prefix``.
        upstream: from `upstream_identity`.
    """

    def __init__(self, prefix: str, upstream: bytes) -> None:
        self.prefix = prefix.encode("ascii")
        self.upstream = upstream
        self.channel = b"%s:notes:%s" % (self.prefix, upstream_digest(upstream).hex().encode("ascii"))

    def generation(self, stack: bytes) -> bytes:
        """Return the key of a stack's generation, from prefix, upstream and folded id alone."""
        return self.generation_name(self.hash_tag(stack))

    def generation_name(self, hash_tag: bytes) -> bytes:
        """Return the key of the generation of the stack with this hash tag."""
        return b"%s:generation:%s" % (self.prefix, hash_tag)

    def owner(self, caller: bytes, variant: bytes) -> bytes:
        """Return the digest of caller and variant, `OWNER_BYTES` long, used in keys in memory."""
        joined = _joined(caller, variant)
        return blake2b(joined, digest_size=OWNER_BYTES, person=b"aosgw-owner").digest()

    def entry(
        self, caller: bytes, variant: bytes, execution: ExecutionRef, owner: bytes | None = None
    ) -> EntryKey:
        """Return the key of one caller's record of one execution in one variant.

        Args:
            caller: `Identity.entry`.
            variant: what was negotiated.
            execution: the record.
            owner: result of `owner` for caller and variant, if known already.
        """
        return EntryKey(self, caller, variant, execution, owner or self.owner(caller, variant))

    def flight(self, caller: bytes, variant: bytes, execution: ExecutionRef) -> FlightKey:
        """Return the key under which requests share a fetch, in every scope."""
        return caller, variant, execution.stack_id, execution.action_id

    def hash_tag(self, stack: bytes) -> bytes:
        """Return what puts all keys of a stack into one slot of a Redis Cluster."""
        joined = _joined(self.upstream, stack)
        return b"{%s}" % blake2b(joined, digest_size=16, person=b"aosgw-stack").hexdigest().encode("ascii")


def stack_of(local: bytes) -> bytes:
    """Return the case-folded stack id in a key in memory."""
    return stack_key(local[OWNER_BYTES:].partition(b"/")[0])


def _joined(*parts: bytes) -> bytes:
    """Join parts so that different lists give different bytes."""
    return b"".join([b"%d:%s" % (len(part), part) for part in parts])
