"""The stored entry, and its serialized form with a tag over key and content."""

import hmac
import math
from hashlib import blake2b
from typing import ClassVar

import msgspec

from gateway.core.caching.identity import keyed
from gateway.core.caching.key import ENTRY_VERSION, EntryKey
from gateway.core.caching.recent import Recent
from gateway.core.http.messages import Head

_TAG_BYTES = 32
_FUTURE_S = 5.0
GENERATION_BYTES = 16


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stored record, its head in the form in which it is sent.

    Attributes:
        lines: status line and stored field lines, ETag and Content-Length included, each with CRLF.
        body: body bytes as the upstream sent them.
        fetched_s: wall clock at the start of the fetch.
        expires_s: wall clock at which it becomes stale.
        upstream_age_s: the Age it was received with.
        accept: the `Variant.accept` that selected it; empty unless the response varies on ``Accept``.
        is_settled: the record will not change.
        clock_offset_s: how far the wall clock was ahead of this process's monotonic clock when the entry
            was taken in; not stored.
    """

    lines: bytes
    body: bytes
    fetched_s: float
    expires_s: float
    upstream_age_s: int
    accept: bytes = b""
    clock_offset_s: float = -math.inf

    is_settled: ClassVar[bool] = True

    def taken_in(self, wall_s: float, monotonic_s: float) -> "Entry":
        """Return the entry bound to this process's clocks, as they were when the fetch or look-up began."""
        # A start in the future, by another replica's clock, counts as now.
        offset_s = max(wall_s, self.fetched_s) - monotonic_s
        return msgspec.structs.replace(self, clock_offset_s=offset_s)

    def now_s(self, wall_s: float, monotonic_s: float) -> float:
        """Return the wall clock time to use for the entry's freshness.

        The later of both clocks, so that setting the wall clock back does not extend its life.
        """
        steady_s = monotonic_s + self.clock_offset_s
        return wall_s if wall_s > steady_s else steady_s

    def suits(self, accept: bytes) -> bool:
        """Tell whether it matches a request with this `Variant.accept` (RFC 9111 §4.1)."""
        return not self.accept or self.accept == accept

    def head(self) -> Head:
        """Return the stored head, without the fields that a hit adds."""
        status_line, *lines = self.lines.removesuffix(b"\r\n").split(b"\r\n")
        _, status, reason = status_line.split(b" ", 2)
        fields = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))
        return Head(int(status), reason, fields)

    def age_s(self, now_s: float) -> int:
        """Return its ``Age``, whole seconds (RFC 9111 §4.2.3)."""
        return self.upstream_age_s + max(0, math.floor(now_s - self.fetched_s))

    def ttl_s(self, now_s: float) -> float:
        """Return the seconds for which it stays fresh; zero or less when it is stale."""
        return self.expires_s - now_s


class RunningEntry(Entry, frozen=True, gc=False):
    """The record of an execution that may still change, kept in memory for a moment."""

    is_settled: ClassVar[bool] = False


# Version, identity of the key, generation; then of the entry fetched_s, expires_s, upstream_age_s, accept,
# lines, body.
_Stored = tuple[int, bytes, bytes, float, float, int, bytes, bytes, bytes]
# By name, bytes whose tag is right, and what they hold.
Verified = Recent[tuple[bytes, _Stored]]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Stored)


def seal(
    key: EntryKey, generation: bytes, entry: Entry, secret: bytes, *, name: bytes | None = None
) -> bytes:
    """Return the serialized form of an entry.

    Args:
        key: whose it is; name and identity become part of the tag.
        generation: the stack's generation, read before the fetch.
        secret: ``cache.secret``; an empty one makes an unkeyed tag, which detects accidents only.
        name: where it will be stored; ``None``: at the name of the key.
    """
    stored: _Stored = (
        ENTRY_VERSION,
        key.identity,
        generation,
        entry.fetched_s,
        entry.expires_s,
        entry.upstream_age_s,
        entry.accept,
        entry.lines,
        entry.body,
    )
    content = _encoder.encode(stored)
    return content + _tag(name or key.name, content, secret)


def verified_entries() -> Verified:
    """Return where `unseal` keeps what it has verified, bounded in bytes, those of its parts too."""
    return Recent(lambda known: 2 * len(known[0]))


def unseal(
    key: EntryKey,
    generation: bytes,
    sealed: bytes,
    secret: bytes,
    now_s: float,
    *,
    name: bytes | None = None,
    monotonic_s: float = math.inf,
    verified: Verified | None = None,
) -> Entry | None:
    """Return the entry in serialized bytes, or ``None`` when they can't be trusted.

    Rejected are: a wrong tag, another version, key, identity or generation, invalid times, and a fetch more
    than 5 s in the future. A stale entry is returned; see `Entry.ttl_s`.

    Args:
        key: whose it should be.
        generation: of the stack now.
        sealed: what was found.
        secret: see `seal`.
        now_s: wall clock.
        name: where it was found; ``None``: at the name of the key.
        monotonic_s: of the same moment: the entry is taken in with both; without it, it is not.
        verified: what was unsealed before, with this secret: the same bytes need no second tag.
    """
    name = name or key.name
    known = None if verified is None else verified.get(name)
    if known is not None and known[0] == sealed:
        stored = known[1]
    else:
        content, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(name, content, secret)):
            return None
        try:
            stored = _decoder.decode(content)
        except msgspec.DecodeError:
            return None
        if verified is not None:
            verified.put(name, (sealed, stored))
    version, identity, of, fetched_s, expires_s, age_s, accept, lines, body = stored
    if version != ENTRY_VERSION or identity != key.identity or of != generation or age_s < 0:
        return None
    if not (-math.inf < fetched_s <= now_s + _FUTURE_S and -math.inf < expires_s < math.inf):
        return None
    offset_s = (now_s if now_s > fetched_s else fetched_s) - monotonic_s
    return Entry(lines, body, fetched_s, expires_s, age_s, accept, offset_s)


def _tag(name: bytes, content: bytes, secret: bytes) -> bytes:
    tag = blake2b(digest_size=_TAG_BYTES, key=keyed(secret), person=b"aosgw-tag")
    tag.update(b"%d:%s" % (len(name), name))
    tag.update(content)
    return tag.digest()
