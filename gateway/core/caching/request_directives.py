"""Request directives and conditions (RFC 9111 §5.2.1, RFC 9110 §13)."""

import re
from hashlib import blake2b

import msgspec

from gateway.core.caching.cache_status import Forward, Reason
from gateway.core.caching.freshness import parse_directives, pragma, seconds
from gateway.core.http.dates import date_s, single_date_s
from gateway.core.http.messages import Fields, names, values

_ENTITY_TAG = re.compile(rb'[\s,]*(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')
CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
"""Fields by which a request asks whether its caller has the record already."""


class RequestDirectives(msgspec.Struct, frozen=True, gc=False):
    """The request directives that the gateway obeys: all but ``max-stale``.

    Attributes:
        no_store: neither read nor write the cache.
        no_cache: do not answer from the cache.
        only_if_cached: do not go upstream.
        max_age_s: greatest acceptable age; ``None`` for any.
        min_fresh_s: least acceptable time to live.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: int | None = None
    min_fresh_s: int = 0

    def unmet(self, age_s: int, ttl_s: float) -> tuple[Forward, Reason | None] | None:
        """Return why an entry of this age and time to live is unacceptable; ``None`` when it is not."""
        if ttl_s <= 0:
            return Forward.STALE, None
        if self.max_age_s is not None and age_s > self.max_age_s:
            return Forward.REQUEST, Reason.REQUEST_MAX_AGE
        if ttl_s < self.min_fresh_s:
            return Forward.REQUEST, Reason.REQUEST_MIN_FRESH
        return None

    def oldest_s(self, most_s: float) -> float:
        """Return how many seconds ago, at most, the fetch of what does not stay fresh may have begun."""
        if self.no_cache or self.min_fresh_s:
            return 0.0
        return most_s if self.max_age_s is None else min(most_s, self.max_age_s)


NO_DIRECTIVES = RequestDirectives()


def read_directives(fields: Fields) -> RequestDirectives:
    """Read a request's ``Cache-Control``, or its ``Pragma`` when there is none.

    Malformed directives count as ``no-cache``.
    """
    lines = values(fields, b"cache-control")
    if not lines:
        return RequestDirectives(no_cache=True) if b"no-cache" in pragma(fields) else NO_DIRECTIVES
    directives = parse_directives(lines)
    if directives is None:
        return RequestDirectives(no_cache=True)
    max_age_s = seconds(directives[b"max-age"]) if b"max-age" in directives else None
    min_fresh_s = seconds(directives[b"min-fresh"]) if b"min-fresh" in directives else 0
    is_malformed = (b"max-age" in directives and max_age_s is None) or min_fresh_s is None
    return RequestDirectives(
        no_store=b"no-store" in directives,
        no_cache=b"no-cache" in directives or max_age_s == 0 or is_malformed,
        only_if_cached=b"only-if-cached" in directives,
        max_age_s=max_age_s,
        min_fresh_s=min_fresh_s or 0,
    )


def accepts_events(fields: Fields) -> bool:
    """Tell whether ``Accept`` names ``text/event-stream``: such a request wants what is new."""
    return any(b"text/event-stream" in value.lower() for value in values(fields, b"accept"))


def entity_tag(body: bytes) -> bytes:
    """Return the strong ``ETag`` of body bytes."""
    return b'"%s"' % blake2b(body, digest_size=16, person=b"aosgw-etag").hexdigest().encode("ascii")


def is_not_modified(request: Fields, etag: bytes | None, last_modified: bytes | None, now_s: float) -> bool:
    """Tell whether a caller already has the representation with these validators (RFC 9111 §4.3.2).

    ``If-None-Match`` is compared weakly and overrides ``If-Modified-Since``, which is compared with
    ``Last-Modified`` only: with ``Date``, clock differences could hide that a record has settled.

    Args:
        request: the request's end-to-end fields.
        etag: the response's ``ETag``; ``None`` without one.
        last_modified: its ``Last-Modified``; ``None`` without one.
        now_s: wall clock, for two-digit years.
    """
    if CONDITIONS.isdisjoint(names(request)):
        return False
    lines = values(request, b"if-none-match")
    if not lines:
        since_s = single_date_s(request, b"if-modified-since", now_s)
        modified_s = None if last_modified is None else date_s(last_modified, now_s)
        return since_s is not None and modified_s is not None and modified_s <= since_s
    if etag is None:
        return False
    listed = b",".join(lines).strip()
    if listed == b"*":
        return True
    opaque = etag.removeprefix(b"W/")
    position = 0
    while match := _ENTITY_TAG.match(listed, position):
        if match[1] == opaque:
            return True
        position = match.end()
    return False
