"""Response heads: of hits, fetched records and forwarded responses, and of the 304s in their place."""

import functools
import math

from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.caching.entry import Entry, RunningEntry
from gateway.core.caching.freshness import varies_on_accept
from gateway.core.caching.policy import FetchedResponse, StoreDecision
from gateway.core.caching.request_directives import CONDITIONS, is_not_modified
from gateway.core.http.fields import end_to_end, kept_fields, not_modified_fields
from gateway.core.http.messages import Field, Fields, Head, first, names, wire_lines
from gateway.core.http.request import own_request_id
from gateway.core.http.response_head import sent_on

_NOT_MODIFIED = (304, b"Not Modified")
_REQUEST_ID = b"x-request-id"
_ETAG = b"etag"
_TAGS = frozenset({_ETAG})
_RUNNING = b"; detail=running"
_LAST_MODIFIED = b"last-modified"
# About the exchange, not about the representation.
_OF_THE_EXCHANGE = frozenset({_REQUEST_ID, b"set-cookie"})


def entry_of(
    fetched_response: FetchedResponse, decision: StoreDecision, upstream_age_s: int, accept: bytes
) -> Entry:
    """Return the entry to store.

    Args:
        fetched_response: the whole response.
        decision: to store it.
        upstream_age_s: the received Age.
        accept: the `Variant.accept` of the request it answers.
    """
    head = fetched_response.head
    fields = kept_fields(head.fields)
    if decision.etag is not None and first(fields, _ETAG) is None:
        fields = (*fields, (b"ETag", decision.etag))
    if first(fields, b"content-length") is None:
        # Received in chunks; the response to a HEAD needs the length too.
        fields = (*fields, (b"Content-Length", b"%d" % len(fetched_response.body)))
    make = Entry if decision.is_settled else RunningEntry
    return make(
        lines=Head(head.status, head.reason, fields).lines(),
        body=fetched_response.body,
        fetched_s=fetched_response.fetched_s,
        expires_s=fetched_response.fetched_s + decision.ttl_s,
        upstream_age_s=upstream_age_s,
        accept=accept if varies_on_accept(head.fields) else b"",
    )


def hit_head(entry: Entry, request: Fields, request_id: bytes, via: bytes, now_s: float) -> Head:
    """Return the head of a hit: the entry's 200, or a 304 when the caller has it already.

    Args:
        entry: the entry that answers.
        request: the request's end-to-end fields.
        request_id: the request's own id.
        via: the gateway's ``Via`` member.
        now_s: wall clock.
    """
    added: tuple[Field, ...] = (
        (b"Age", b"%d" % entry.age_s(now_s)),
        (b"X-Request-Id", request_id),
        (b"Via", via),
        (b"Cache-Status", hit_status(entry, now_s).member()),
    )
    head = entry.head()
    etag, modified = first(head.fields, _ETAG), first(head.fields, _LAST_MODIFIED)
    if is_not_modified(request, etag, modified, now_s):
        return Head(*_NOT_MODIFIED, (*not_modified_fields(head.fields), *added))
    return Head(head.status, head.reason, (*head.fields, *added))


def hit_status(entry: Entry, now_s: float) -> CacheStatus:
    """Return the ``Cache-Status`` of a hit."""
    return CacheStatus(
        ttl_s=math.floor(entry.ttl_s(now_s)), reason=None if entry.is_settled else Reason.RUNNING
    )


def hit_bytes(entry: Entry, request_id: bytes, via: bytes, now_s: float) -> bytes:
    """Return the bytes of a hit for an unconditional GET over HTTP/1.1, with the same head as `hit_head`."""
    age_s = now_s - entry.fetched_s
    added = b"Age: %d\r\nX-Request-Id: %b\r\nVia: %b\r\nCache-Status: aos-gateway; hit; ttl=%d%b\r\n\r\n" % (
        # As `Entry.age_s` has it.
        entry.upstream_age_s + (age_s if age_s > 0 else 0),
        request_id,
        via,
        entry.expires_s - now_s,
        # Cheaper than to ask it; nothing else is as frequent.
        b"" if type(entry) is Entry else _RUNNING,
    )
    return b"".join((entry.lines, added, entry.body))


def fetched_head(
    fetched_response: FetchedResponse,
    decision: StoreDecision,
    via: bytes,
    cache_status: CacheStatus,
    *,
    is_conditional: bool = True,
) -> Head:
    """Return the head of a response that was buffered whole.

    A record without ``ETag`` gets one; if the caller has that record already, the response becomes a 304 that
    keeps the 200's request id and cookies.

    Args:
        is_conditional: false for a request that is known to have no condition.
    """
    head, etag, request = fetched_response.head, decision.etag, fetched_response.request
    has_own = head.has_any(_TAGS) and first(end_to_end(head.fields), _ETAG) is not None
    head = sent_on(head, _added(via, cache_status, None if has_own else etag))
    if not is_conditional or head.status != 200 or CONDITIONS.isdisjoint(names(request)):
        return head
    if not is_not_modified(request, etag, first(head.fields, _LAST_MODIFIED), fetched_response.fetched_s):
        return head
    kept = tuple(field for field in head.fields if field[0].lower() in _OF_THE_EXCHANGE)
    if first(kept, _REQUEST_ID) is None and (own := own_request_id(request)) is not None:
        kept = (*kept, (b"X-Request-Id", own))
    return Head(*_NOT_MODIFIED, (*not_modified_fields(head.fields), *kept, *_own(via, cache_status)))


def forwarded_head(head: Head, via: bytes, cache_status: CacheStatus) -> Head:
    """Return the head of a response that is streamed."""
    return sent_on(head, _added(via, cache_status))


@functools.lru_cache(4_096)
def _added(via: bytes, cache_status: CacheStatus, etag: bytes | None = None) -> bytes:
    own = _own(via, cache_status)
    return wire_lines(own if etag is None else ((b"ETag", etag), *own))


def _own(via: bytes, cache_status: CacheStatus) -> tuple[Field, ...]:
    return ((b"Via", via), (b"Cache-Status", cache_status.member()))
