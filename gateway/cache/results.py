"""Results of the cache: a response to one request, and the result of a shared fetch."""

import msgspec

from gateway.core.caching import policy
from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.entry import Entry
from gateway.core.http.messages import Head
from gateway.upstream.exchange import Exchange


class Response(msgspec.Struct, frozen=True):
    """A response to one request.

    Attributes:
        head: end-to-end head with everything the gateway adds.
        body: the whole body; ``None`` when it is streamed.
        exchange: the rest of a streamed body, closed by whoever sends it; ``None`` otherwise.
        prefix: the part of a streamed body that was read already.
        cache_status: what the cache did.
        upstream_s: seconds to the head of the upstream's response; ``None`` when there was none.
    """

    head: Head
    body: bytes | None
    cache_status: CacheStatus
    exchange: Exchange | None = None
    prefix: bytes = b""
    upstream_s: float | None = None


class Given(msgspec.Struct, frozen=True):
    """What another replica has fetched, or stored.

    Attributes:
        ends_s: monotonic time until which a request may have arrived to be given it.
        life_s: it was fetched at most so long before that; where it may still change.
        since_s: monotonic time since when whoever looked for it has waited.
    """

    entry: Entry
    ends_s: float
    life_s: float
    since_s: float = 0.0


class Fetched(msgspec.Struct, frozen=True):
    """The result of a flight.

    Attributes:
        eligible: the request that was sent.
        fetched_response: the response as far as it was read.
        decision: whether it is stored; ``None`` when it was too large to be decoded.
        is_stored: handed to at least one tier.
        reason: why not.
        exchange: the rest of a body too large to buffer; only the leader may read it.
        given: it was found in Redis instead; ``None`` when this process has fetched it.
    """

    eligible: Eligible
    fetched_response: policy.FetchedResponse
    decision: policy.StoreDecision | None
    is_stored: bool
    reason: Reason | None
    exchange: Exchange | None = None
    given: Given | None = None
