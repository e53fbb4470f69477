"""Keys of entries and generations: injective, versioned, one hash tag per stack."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from gateway.core.aos.route import ExecutionRef, stack_key

# Increase it when the serialized form or what the key covers changes.
ENTRY_VERSION = 3
OWNER_BYTES = 24


class EntryKey(msgspec.Struct, frozen=True):
    """Where an entry is stored, and which request it answers.

    Attributes:
        name: Redis key of the entry, ASCII.
        generation: Redis key of the stack's generation, ASCII.
        stack: the case-folded stack id, by which it is invalidated.
        identity: upstream, caller, variant and raw ids, length-prefixed; stored inside the entry.
        local: key of the copy in memory: `KeySpace.owner` and `local_path`.
    """

    name: bytes
    generation: bytes
    stack: bytes
    identity: bytes
    local: bytes


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
        self._prefix = prefix.encode("ascii")
        self._upstream = upstream
        self.channel = b"%s:notes:%s" % (self._prefix, upstream_digest(upstream).hex().encode("ascii"))

    def generation(self, stack: bytes) -> bytes:
        """Return the key of a stack's generation, from prefix, upstream and folded id alone."""
        return b"%s:generation:%s" % (self._prefix, self._tag(stack))

    def owner(self, caller: bytes, variant: bytes) -> bytes:
        """Return the digest of caller and variant, `OWNER_BYTES` long, used in keys in memory."""
        joined = _joined(caller, variant)
        return blake2b(joined, digest_size=OWNER_BYTES, person=b"aosgw-owner").digest()

    def entry(self, caller: bytes, variant: bytes, execution: ExecutionRef) -> EntryKey:
        """Return the key of one caller's record of one execution in one variant."""
        stack = stack_key(execution.stack_id)
        identity = _joined(self._upstream, caller, variant, execution.stack_id, execution.action_id)
        digest = blake2b(identity, digest_size=24, person=b"aosgw-entry").hexdigest().encode("ascii")
        tag = self._tag(stack)
        return EntryKey(
            name=b"%s:entry%d:%s:%s" % (self._prefix, ENTRY_VERSION, tag, digest),
            generation=b"%s:generation:%s" % (self._prefix, tag),
            stack=stack,
            identity=identity,
            local=self.owner(caller, variant) + local_path(execution),
        )

    def flight(self, caller: bytes, variant: bytes, execution: ExecutionRef) -> bytes:
        """Return the key under which requests share a fetch, in every scope."""
        return _joined(caller, variant, execution.stack_id, execution.action_id)

    def _tag(self, stack: bytes) -> bytes:
        joined = _joined(self._upstream, stack)
        return b"{%s}" % blake2b(joined, digest_size=16, person=b"aosgw-stack").hexdigest().encode("ascii")


def local_path(execution: ExecutionRef) -> bytes:
    """Return what follows ``/v2/stacks/`` in the target of this execution."""
    return execution.stack_id + b"/actions/" + execution.action_id


def stack_of(local: bytes) -> bytes:
    """Return the case-folded stack id in a key in memory."""
    return stack_key(local[OWNER_BYTES:].partition(b"/")[0])


def _joined(*parts: bytes) -> bytes:
    """Join parts so that different lists give different bytes."""
    return b"".join([b"%d:%s" % (len(part), part) for part in parts])
