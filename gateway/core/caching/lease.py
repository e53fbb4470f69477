"""One fetch per interval among all replicas: the lease of a record, and what its replies mean.

A lease is a nonce in Redis that nobody renews. Who set it may fetch; as long as it exists, the fetch under
its nonce began less than the lease's life ago. So its result, published beside the lease, may be given to
requests that arrive within what was left of the lease when the nonce was seen there.
"""

import enum
import math

import msgspec

from gateway.core.caching.entry import Entry, RunningEntry, seal, unseal
from gateway.core.caching.key import EntryKey

NONCE_BYTES = 16
LARGEST_BYTES = 65_536
"""A larger body is not published."""

_VOID = b"void"
# Another replica's wall clock may be behind by so much.
_CLOCKS_S = 5.0


class Step(enum.Enum):
    """What to do after a reply."""

    HIT = "hit"  # The settled entry is there.
    LEAD = "lead"  # Fetch under this look-up's own nonce.
    TAKE_OVER = "take over"  # Overwrite what is too old, or no lease of the gateway's, then fetch.
    ANSWER = "answer"  # Another's fetch is the answer.
    ALONE = "alone"  # Another's fetch may not be shared: fetch without a lease.
    WAIT = "wait"  # Look again soon.
    CLAIM = "claim"  # The lease is over, or should be: try to get it.
    AGAIN = "again"  # Under the generation that the stack has now, or after minting one.


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What one look into Redis gave.

    Attributes:
        sent_s: monotonic time before it was sent.
        wall_s: wall clock at the same moment.
        lease: the nonce in the lease; ``None`` without one.
        published: the value beside it; ``None`` without one.
        generation: of the stack; ``None`` when absent.
        entry: the settled entry, if it is there and usable.
        left_s: how long the lease still lives, minus infinity when it is over, infinity when it lives on for
            ever; ``None`` when that was not asked.
    """

    sent_s: float
    wall_s: float
    lease: bytes | None
    published: bytes | None
    generation: bytes | None
    entry: Entry | None
    left_s: float | None = None


class LeaseLookup:
    """The steps of one look-up, from reply to reply.

    Args:
        life_s: how long a lease lives.
        accept: `Variant.accept` of the request.
        not_before_s: monotonic time before which the fetch of an answer must not have begun.

    Attributes:
        generation: of the stack, as far as it is known.
        nonce: its own; another one for each attempt.
        entry: the answer, once the step is `Step.ANSWER`.
        ends_s: monotonic time until which a request may have arrived to be given that.
    """

    def __init__(
        self,
        key: EntryKey,
        generation: bytes,
        life_s: float,
        *,
        secret: bytes,
        accept: bytes,
        not_before_s: float = -math.inf,
    ) -> None:
        self.key = key
        self.generation = generation
        self.life_s = life_s
        self.nonce = b""
        self.entry: Entry | None = None
        self.ends_s = -math.inf
        self._secret = secret
        self._accept = accept
        self._not_before_s = not_before_s
        # By nonce: how long after the reply it may be given, as monotonic and wall time.
        self._seen: dict[bytes, tuple[float, float]] = {}
        self._is_second = False

    @property
    def names(self) -> tuple[bytes, bytes]:
        """Redis keys of the lease, and of what is published under it."""
        return self.key.lease_names(self.generation, self.life_s)

    @property
    def latest_s(self) -> float:
        """Monotonic time until which a request may arrive to be given what has been seen to be under way."""
        return max(ends_s for ends_s, _ in self._seen.values()) if self._seen else -math.inf

    def use(self, generation: bytes) -> None:
        """Go on under the generation that the stack has now."""
        self.generation = generation
        self._seen.clear()

    def next_step(self, reply: Reply) -> Step:
        """Return what to do after a reply."""
        if reply.generation != self.generation:
            is_second, self._is_second = self._is_second, True
            return Step.ALONE if is_second else Step.AGAIN
        if reply.entry is not None:
            return Step.HIT if reply.entry.suits(self._accept) else Step.ALONE
        if reply.left_s is not None:
            if reply.lease == self.nonce:
                return Step.LEAD
            began_s = reply.sent_s + reply.left_s - self.life_s
            if reply.left_s > self.life_s or -math.inf < began_s < self._not_before_s:
                return Step.TAKE_OVER
        if reply.lease is not None and (reply.left_s is not None or reply.lease not in self._seen):
            # First seen by a look that did not ask for its life: it was alive then, nothing more is known.
            left_s = max(0.0, reply.left_s or 0.0)
            self._seen[reply.lease] = reply.sent_s + left_s, reply.wall_s + left_s
        published = reply.published
        if published is not None and (seen := self._seen.get(published[:NONCE_BYTES])) is not None:
            return self._given(published, *seen, reply.wall_s)
        # What outlives the time that it had left may be no lease of the gateway's: ask for its life.
        is_over = reply.lease is None or reply.sent_s > self._seen[reply.lease][0]
        return Step.CLAIM if is_over else Step.WAIT

    def _given(self, published: bytes, ends_s: float, ends_wall_s: float, wall_s: float) -> Step:
        nonce, sealed = published[:NONCE_BYTES], published[NONCE_BYTES:]
        if sealed == _VOID:
            return Step.ALONE
        name = self.names[1] + nonce
        entry = unseal(self.key, self.generation, sealed, self._secret, wall_s, name=name)
        if entry is None or entry.expires_s + _CLOCKS_S < wall_s or not entry.suits(self._accept):
            return Step.ALONE
        # Its times by Redis's clock and this replica's: the other's may differ. The Age is rounded up.
        self.entry = RunningEntry(
            lines=entry.lines,
            body=entry.body,
            fetched_s=wall_s - math.ceil(wall_s + self.life_s - ends_wall_s),
            expires_s=ends_wall_s,
            upstream_age_s=entry.upstream_age_s,
            accept=entry.accept,
        )
        self.ends_s = ends_s
        return Step.ANSWER


def publication(
    key: EntryKey, generation: bytes, life_s: float, nonce: bytes, entry: Entry | None, *, secret: bytes
) -> tuple[bytes, bytes]:
    """Return the Redis key and value of what was fetched under a nonce.

    Args:
        life_s: of the lease.
        entry: expires when the value does; ``None``: what was fetched may not be shared.
    """
    name = key.lease_names(generation, life_s)[1]
    if entry is None or len(entry.body) > LARGEST_BYTES:
        return name, nonce + _VOID
    return name, nonce + seal(key, generation, entry, secret, name=name + nonce)
