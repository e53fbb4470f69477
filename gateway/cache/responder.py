"""Makes responses: from an entry, from a fetch, or streamed through from the upstream."""

from dataclasses import dataclass

import msgspec

from gateway.cache import cache_log
from gateway.cache.fetcher import Fetcher
from gateway.cache.results import Fetched, Given, Response
from gateway.cache.single_flight import SingleFlight
from gateway.core.caching import policy, responses
from gateway.core.caching.cache_status import CacheStatus, Reason, fetched_status
from gateway.core.caching.eligibility import Eligible, may_share
from gateway.core.caching.entry import Entry
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Head, Request
from gateway.core.http.proxy_identity import upstream_fields
from gateway.errors import FetchError
from gateway.upstream.upstream import RequestBody

# Looked up once: see `gateway.core.http.response_reader`.
_WAITED = Reason.WAITED


@dataclass(frozen=True, repr=False)
class Responder:
    """Makes the responses of one gateway.

    Attributes:
        flights: whose deadline holds for what is forwarded too.
        fetcher: its upstream, its proxy's name and its counters are used.
    """

    flights: SingleFlight[Fetched]
    fetcher: Fetcher

    async def forward(
        self,
        request: Request,
        body: RequestBody | None,
        cache_status: CacheStatus,
        eligible: Eligible | None = None,
    ) -> Response:
        """Stream a request and its response through, alone; ``eligible`` is ``None`` where it is a bypass."""
        fields = upstream_fields(
            request,
            self.fetcher.proxy,
            execution_call=eligible is not None,
            is_shared=request.method != "HEAD",
        )
        sending = self.fetcher.upstream.send(request.method, request.target, fields, body, lent=request.lent)
        try:
            exchange = await (sending if eligible is None else self.flights.in_time(sending))
        except GatewayError as error:
            with_member(error, cache_status)
            raise
        if cache_status.reason is not Reason.ROUTE:
            cache_status = msgspec.structs.replace(cache_status, fwd_status=exchange.head.status)
        if eligible is not None:
            self.fetcher.heed(eligible, exchange.head, None)
        elif exchange.head.status == 401:
            self.fetcher.refused(request.fields)
        head = responses.forwarded_head(exchange.head, self.fetcher.proxy.via, cache_status)
        return Response(head, None, cache_status, exchange, upstream_s=exchange.head_s)

    def hit(self, request: Request, eligible: Eligible, entry: Entry, now_s: float) -> Response:
        self.fetcher.top_executions.hit(eligible.execution, entry)
        cache_log.decided(request, "hit, fresh for another %d s", entry.ttl_s(now_s))
        head = responses.hit_head(entry, eligible.fields, request.request_id, self.fetcher.proxy.via, now_s)
        return Response(head, entry.body, responses.hit_status(entry, now_s))

    def fetched(
        self, fetched: Fetched, eligible: Eligible, cache_status: CacheStatus, *, collapsed: bool
    ) -> Response:
        """Answer with a fetch, which is another's where it was ``collapsed``."""
        fetched_response, decision = fetched.fetched_response, fetched.decision
        has_waited = cache_status.reason is _WAITED
        cache_status = fetched_status(
            cache_status.forward,
            fetched_response.head.status,
            None,
            fetched.is_stored,
            collapsed,
            cache_status.reason if has_waited else fetched.reason or cache_status.reason,
        )
        if decision is None:
            head = responses.forwarded_head(fetched_response.head, self.fetcher.proxy.via, cache_status)
            return Response(
                head, None, cache_status, fetched.exchange, fetched_response.body, fetched_response.upstream_s
            )
        if collapsed:
            if decision.is_record:
                self.fetcher.top_executions.shared(eligible.execution)
            # Everybody who joined asked for himself whether he has it already.
            fetched_response = msgspec.structs.replace(fetched_response, request=eligible.fields)
        head = responses.fetched_head(
            fetched_response,
            decision,
            self.fetcher.proxy.via,
            cache_status,
            is_conditional=eligible.fetch_lines is None,
        )
        return Response(head, fetched_response.body, cache_status, upstream_s=fetched_response.upstream_s)

    def given(
        self, request: Request, fetched: Fetched, given: Given, eligible: Eligible, cache_status: CacheStatus
    ) -> Response:
        """Answer with what another replica has fetched: a hit while it is fresh, else collapsed."""
        clock, entry = self.fetcher.clock, given.entry
        now_s = entry.now_s(clock.wall_s(), clock.monotonic_s())
        if entry.ttl_s(now_s) > 0:
            return self.hit(request, eligible, entry, now_s)
        response = self.fetched(fetched, eligible, cache_status, collapsed=True)
        return aged(response, int(now_s - entry.fetched_s))

    def why_not_shared(self, eligible: Eligible, fetched: Fetched) -> Reason | None:
        """Return why a request that joined a fetch has to be forwarded by itself all the same."""
        if fetched.exchange is not None:
            return Reason.TOO_LARGE
        if not may_share(eligible, fetched.fetched_response, self.fetcher.rules.identity_headers):
            return Reason.VARY
        return None


def preferred(response: Response, wait_s: int | None) -> Response:
    """Say that a preference was applied (RFC 7240 §3); ``None`` was not."""
    if wait_s is None:
        return response
    head = response.head
    fields = (*head.fields, (b"Preference-Applied", b"wait=%d" % wait_s), (b"Vary", b"Prefer"))
    return msgspec.structs.replace(response, head=Head(head.status, head.reason, fields))


def aged(response: Response, age_s: int) -> Response:
    """Say how old a response is that was not fetched for its request alone (RFC 9111 §5.1)."""
    if age_s <= 0:
        return response
    head = response.head
    received_s = policy.received_age_s(head)
    fields = tuple(field for field in head.fields if field[0].lower() != b"age")
    fields = (*fields, (b"Age", b"%d" % (received_s + age_s)))
    return msgspec.structs.replace(response, head=Head(head.status, head.reason, fields))


def because(cache_status: CacheStatus, reason: Reason) -> CacheStatus:
    return msgspec.structs.replace(cache_status, reason=cache_status.reason or reason)


def with_member(error: GatewayError, cache_status: CacheStatus) -> GatewayError:
    """Let an error tell what the cache did before it, or why nothing was forwarded."""
    reason = error.reason if isinstance(error, FetchError) else None
    error.cache_member = (cache_status if reason is None else CacheStatus(reason=reason)).member()
    return error
