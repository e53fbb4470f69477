"""What the cache gives: to a caller, and to all who joined a fetch."""

from __future__ import annotations

import msgspec

from gateway.core.caching import policy
from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.http.messages import Head
from gateway.upstream.exchange import Exchange


class Response(msgspec.Struct, frozen=True):
    """What a caller gets.

    Attributes:
        head: end-to-end head with everything the gateway adds.
        body: the whole body; ``None`` when it is streamed.
        exchange: the rest of a streamed body, to be closed by who takes it; ``None`` otherwise.
        prefix: what of a streamed body was read already.
        verdict: what the cache did.
        upstream_s: to the head of the upstream's answer; ``None`` when none was waited for.
    """

    head: Head
    body: bytes | None
    cache_status: CacheStatus
    exchange: Exchange | None = None
    prefix: bytes = b""
    upstream_s: float | None = None


class Fetched(msgspec.Struct, frozen=True):
    """The result of a flight.

    Attributes:
        arrival: the response as far as it was read.
        judgement: what became of it; ``None`` when it was too large to judge.
        is_stored: handed to at least one tier.
        reason: why not.
        exchange: the rest of a body too large to buffer; it belongs to the leader alone.
    """

    fetched_response: policy.FetchedResponse
    decision: policy.StoreDecision | None
    is_stored: bool
    reason: Reason | None
    exchange: Exchange | None = None
