"""A 429 of the upstream, kept to be repeated to the caller who got it."""

from collections.abc import Container

import msgspec

from gateway.core.caching.cache_status import CacheStatus
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.freshness import unmet_vary
from gateway.core.caching.identity import Variant
from gateway.core.http.fields import end_to_end
from gateway.core.http.messages import Fields, Head, first

LONGEST_BODY_BYTES = 16_384
"""Bound of a body that is kept, and of one that is read for what it asks."""

# What Python's objects take beside their bytes, about.
_OVERHEAD_BYTES = 512
_FIELD_OVERHEAD_BYTES = 128


class ThrottledResponse(msgspec.Struct, frozen=True, gc=False):
    """A 429 as it is kept.

    Attributes:
        head: end-to-end, without ``Retry-After``.
        body: as received; ``None`` when it answered a HEAD, or is too long or incomplete.
        variant: of the requests it is repeated to; ``None`` when nothing was negotiated.
    """

    head: Head
    body: bytes | None
    variant: Variant | None

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        fields = sum(len(name) + len(value) + _FIELD_OVERHEAD_BYTES for name, value in self.head.fields)
        return fields + len(self.body or b"") + _OVERHEAD_BYTES

    def suits(self, method: str, variant: Variant) -> bool:
        """Tell whether it may be repeated to a request of the caller who got it."""
        return (self.body is not None or method == "HEAD") and self.variant in (None, variant)

    def repeated(self, wait_s: int, via: bytes, cache_status: CacheStatus) -> Head:
        """Return its head with the seconds that are left to wait."""
        added = ((b"Retry-After", b"%d" % wait_s), (b"Via", via), (b"Cache-Status", cache_status.member()))
        return Head(self.head.status, self.head.reason, (*self.head.fields, *added))


def throttled_response(
    head: Head, body: bytes | None, eligible: Eligible, covered: Container[bytes]
) -> ThrottledResponse | None:
    """Return a 429 as it is kept, without anything of its request.

    Args:
        head: as received.
        body: the whole body as received; ``None`` without one.
        covered: lower-case names of the fields that identify a caller.

    Returns:
        ``None`` when it was chosen by a field that the caller's next request may send differently, or when
        the request forbids to store anything.
    """
    fields = end_to_end(head.fields)
    if eligible.directives.no_store or unmet_vary(fields, eligible.fields, covered) is not None:
        return None
    is_negotiated = any(first(fields, name) is not None for name in (b"content-encoding", b"vary"))
    kept = tuple(field for field in fields if field[0].lower() != b"retry-after")
    return ThrottledResponse(
        Head(head.status, head.reason, kept),
        body if body is not None and len(body) <= LONGEST_BODY_BYTES else None,
        eligible.variant if is_negotiated else None,
    )


def readable_body(fields: Fields, body: bytes | None) -> bytes:
    """Return the body of a 429 without its content coding; empty when it is too long or not readable."""
    if body is None or len(body) > LONGEST_BODY_BYTES:
        return b""
    plain = plain_body(fields, body, LONGEST_BODY_BYTES)
    return plain if isinstance(plain, bytes) else b""
