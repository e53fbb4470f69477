"""The one place where decisions meet I/O: look up, fetch once, judge, store, answer."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Executor

import msgspec

from gateway.cache import cache_log
from gateway.cache.hints import Hints
from gateway.cache.results import Fetched, Response
from gateway.cache.single_flight import Flight, Flights
from gateway.cache.throttle import Throttle
from gateway.clock import Clock
from gateway.core.aos import route
from gateway.core.caching import policy
from gateway.core.caching import responses as answers
from gateway.core.caching.cache_status import CacheStatus, Forward, Reason
from gateway.core.caching.eligibility import Bypass, Eligible, eligibility, may_share
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.core.caching.request_directives import read_directives
from gateway.core.caching.retry_after import retry_after_s
from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import BodyFraming
from gateway.core.http.messages import Head, Request, first, names
from gateway.core.http.proxy_identity import ProxyIdentity, check_request, upstream_fields
from gateway.core.http.target import is_write
from gateway.errors import FetchError, NotCached, Throttled, UpstreamError
from gateway.store.lookup import EarlyLookup, LookupResult
from gateway.store.tiers import Tiers
from gateway.telemetry.top_executions import TopExecutions
from gateway.upstream.exchange import Exchange
from gateway.upstream.upstream import RequestBody, Upstream


class Cache:
    """Answers requests from the tiers or from the upstream.

    Args:
        rules: what is stored, and how long.
        recogniser: tells callers apart.
        keys: builds the keys.
        hop: what the gateway says about itself.
        tiers: the stores.
        flights: the shared fetches.
        upstream: AOS.
        throttle: callers whom AOS asked to wait.
        clock: wall time for entries.
        judges: threads for what would hold up the event loop.
        sightings: notes which executions are asked for.
    """

    def __init__(
        self,
        *,
        rules: policy.Rules,
        identity_reader: IdentityReader,
        keys: KeySpace,
        proxy: ProxyIdentity,
        tiers: Tiers,
        flights: Flights[Fetched],
        upstream: Upstream,
        throttle: Throttle,
        clock: Clock,
        executor: Executor,
        top_executions: TopExecutions,
    ) -> None:
        self._rules = rules
        self._identity_reader = identity_reader
        self._keys = keys
        self._proxy = proxy
        self._tiers = tiers
        self._flights = flights
        self._upstream = upstream
        self._throttle = throttle
        self._clock = clock
        self._executor = executor
        self._top_executions = top_executions
        self._hints = Hints(rules)

    async def answer(
        self, request: Request, body: RequestBody | None, early_lookup: EarlyLookup | None = None
    ) -> Response:
        """Answer one request.

        Args:
            request: what was asked.
            body: its body; ``None`` without one.
            looked_up: a look-up made for it already; ``None`` when none was.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        check_request(request, self._proxy)
        eligible = eligibility(request, self._identity_reader)
        if isinstance(eligible, Bypass):
            cache_log.decided(request, "bypasses the cache: %s", eligible.reason)
            return await self._bypass(request, body, eligible)
        return await self.fetch(request, eligible, early_lookup)

    async def _bypass(self, request: Request, body: RequestBody | None, bypass: Bypass) -> Response:
        cache_status = CacheStatus(forward=bypass.forward, reason=bypass.reason)
        if bypass.is_reading and read_directives(request.fields).only_if_cached:
            raise _with_member(NotCached(), cache_status)
        if not is_write(request.method, names(request.fields)):
            return await self._forward(request, body, cache_status, execution_call=False)
        stacks = route.written_stacks(request.target)
        try:
            answer = await self._forward(request, body, cache_status, execution_call=False)
        except BaseException as error:
            # Unknown outcome: it may have been done. What certainly never left changes nothing.
            if not (isinstance(error, UpstreamError) and not error.was_sent):
                await self._forget(stacks)
            raise
        if not 400 <= answer.head.status < 500:
            await self._forget(stacks)
        return answer

    async def _forget(self, stacks: frozenset[bytes]) -> None:
        if stacks:
            cache_log.invalidates(stacks)
            await self._tiers.forget(stacks, "write", settles=True)

    async def _forward(
        self, request: Request, body: RequestBody | None, cache_status: CacheStatus, *, execution_call: bool
    ) -> Response:
        """Stream a request and its response through, alone."""
        fields = upstream_fields(request, self._proxy, execution_call=execution_call)
        sending = self._upstream.send(request.method, request.target, fields, body)
        try:
            exchange = await (self._flights.alone(sending) if execution_call else sending)
        except GatewayError as error:
            _with_member(error, cache_status)
            raise
        if cache_status.reason is not Reason.ROUTE:
            cache_status = msgspec.structs.replace(cache_status, fwd_status=exchange.head.status)
        head = answers.forwarded_head(exchange.head, self._proxy.via, cache_status)
        return Response(head, None, cache_status, exchange, upstream_s=exchange.head_s)

    async def fetch(
        self,
        request: Request,
        eligible: Eligible,
        early_lookup: EarlyLookup | None,
        key: EntryKey | None = None,
    ) -> Response:
        """Answer the execution call of a caller that can be recognised again.

        Args:
            request: `check_request` has accepted it.
            planned: what `eligibility` makes of it.
            looked_up: a look-up made for it already; ``None`` when none was.
            key: of its entry, where it is known.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        variant = eligible.variant.general
        if key is None:
            key = self._keys.entry(eligible.identity.entry, variant, eligible.execution)
        directives = eligible.directives
        if directives.no_store:
            return await self._alone(request, eligible, key)
        forward = Forward.REQUEST
        reason: Reason | None = Reason.REQUEST_NO_CACHE
        if directives.no_cache:
            found = EarlyLookup(self._tiers.fill_token(key), LookupResult(None))
        else:
            found, entry = await self._look_up(key, early_lookup)
            absent = Forward.URI_MISS
            if entry is not None and not entry.suits(eligible.variant.accept):
                # It was chosen by another Accept; what is chosen by this one has a place of its own.
                absent = Forward.VARY_MISS
                variant = eligible.variant.exact
                key = self._keys.entry(eligible.identity.entry, variant, eligible.execution)
                found, entry = await self._look_up(key, None)
            forward, reason = absent, Reason.STORE_FAILED if found.lookup.has_failed else None
            if entry is not None:
                now_s = entry.now_s(self._clock.wall_s(), self._clock.monotonic_s())
                why_not = directives.unmet(entry.age_s(now_s), entry.ttl_s(now_s))
                if why_not is None:
                    return self._hit(request, eligible, entry, now_s)
                forward, reason = why_not
        cache_log.decided(request, "no entry to serve: %s", reason or "none is stored")
        cache_status = CacheStatus(forward=forward, reason=reason)
        if directives.only_if_cached:
            raise _with_member(NotCached(), cache_status)
        self._hold_back(eligible, cache_status)
        if request.method == "HEAD":
            return await self._head(request, eligible, found, cache_status)
        # Nothing waits from the look into memory to the flight: a fetch is found either way.
        flight_key = self._keys.flight(eligible.identity.flight, variant, eligible.execution)
        flight = None
        if forward is not Forward.REQUEST:
            flight = self._flights.joinable(flight_key)
        try:
            if flight is not None:
                cache_log.decided(request, "joins a fetch under way")
                fetched = await self._flights.join(flight)
                if fetched.exchange is not None:
                    return await self._forward(
                        request, None, _because(cache_status, Reason.TOO_LARGE), execution_call=True
                    )
                if not may_share(eligible, fetched.fetched_response, self._rules.identity_headers):
                    return await self._forward(
                        request, None, _because(cache_status, Reason.VARY), execution_call=True
                    )
                return self._fetched(fetched, eligible, cache_status, collapsed=True)

            async def fly(flight: Flight[Fetched]) -> Fetched:
                result = await self._fill(request, eligible, found, flight)
                cache_log.fetched(request, result)
                return result

            fetched = await self._flights.lead(flight_key, key.stack, fly)
        except GatewayError as error:
            _with_member(error, cache_status)
            raise
        return self._fetched(fetched, eligible, cache_status, collapsed=False)

    async def _look_up(
        self, key: EntryKey, early_lookup: EarlyLookup | None
    ) -> tuple[EarlyLookup, Entry | None]:
        """Look into all tiers, unless that was done already; return what that gave, and the entry."""
        if early_lookup is None or early_lookup.fill_token.key != key:
            fill_token = self._tiers.fill_token(key)
            early_lookup = EarlyLookup(fill_token, await self._tiers.lookup(key))
        # Between a look-up in Redis and here another request's fetch may have ended.
        return early_lookup, early_lookup.lookup.entry or self._tiers.peek(key)

    async def _fill(
        self,
        request: Request,
        eligible: Eligible,
        early_lookup: EarlyLookup,
        flight: Flight[Fetched] | None,
    ) -> Fetched:
        """Fetch a record, judge it, and store it if it may be."""
        fill_token = early_lookup.fill_token
        if flight is not None:
            fill_token = await self._tiers.prepare_fill(fill_token, early_lookup.lookup)
        else:
            fill_token = self._tiers.begin_fetch(fill_token)
        fetched_s = self._clock.wall_s()
        fields = upstream_fields(request, self._proxy, execution_call=True)
        exchange = await self._upstream.send("GET", request.target, fields, None)
        self._heed(eligible, exchange.head)
        try:
            body = await self._buffer(exchange)
        except BaseException:
            exchange.close()
            raise
        fetched_response = policy.FetchedResponse(
            head=exchange.head,
            body=body,
            complete=exchange.framing is not BodyFraming.CLOSE,
            request=eligible.fields,
            action_id=eligible.execution.action_id,
            fetched_s=fetched_s,
            upstream_s=exchange.head_s,
        )
        if len(body) > self._rules.max_body_bytes:
            if policy.drops_own_entry(exchange.head.status, None):
                self._tiers.drop(fill_token, early_lookup.lookup)
            if flight is not None and not flight.leader_waits:
                exchange.close()
            return Fetched(fetched_response, None, False, Reason.TOO_LARGE, exchange)
        exchange.close()
        decision = await self._decide_store(fetched_response, fill_token.key)
        self._top_executions.fetched(eligible.execution, fetched_response, decision)
        if decision.reason is not None:
            self._hints.refused(fetched_response, decision)
            if policy.drops_own_entry(exchange.head.status, decision):
                self._tiers.drop(fill_token, early_lookup.lookup)
            return Fetched(fetched_response, decision, False, decision.reason)
        if flight is None:
            return Fetched(fetched_response, decision, False, None)
        entry = answers.entry_of(
            fetched_response, decision, policy.received_age_s(exchange.head), eligible.variant.accept
        )
        refusal = self._tiers.store(fill_token, entry)
        return Fetched(fetched_response, decision, refusal is None, refusal)

    async def _decide_store(
        self, fetched_response: policy.FetchedResponse, key: EntryKey
    ) -> policy.StoreDecision:
        """Judge here, or in a thread what would hold up everybody else.

        A write that comes meanwhile raises the stack's forget count, so the record isn't stored.
        """
        now_s = self._clock.monotonic_s()
        decide_store = functools.partial(
            policy.decide_store,
            fetched_response,
            self._rules,
            settling=self._tiers.invalidations.is_settling(key.stack, now_s),
            uncertain=self._tiers.invalidations.is_uncertain(now_s),
        )
        if not policy.is_heavy(fetched_response):
            return decide_store()
        return await asyncio.get_running_loop().run_in_executor(self._executor, decide_store)

    def _hold_back(self, eligible: Eligible, cache_status: CacheStatus) -> None:
        """Answer for the upstream while it wants to hear nothing of this caller."""
        wait_s = self._throttle.wait_s(eligible.identity.flight)
        if wait_s is not None:
            raise _with_member(Throttled(wait_s), cache_status)

    def _heed(self, eligible: Eligible, head: Head) -> None:
        """Remember a 429's Retry-After for the caller it was told to."""
        if head.status == 429:
            wait_s = retry_after_s(head.fields, self._clock.wall_s())
            if wait_s is not None:
                self._throttle.hold(eligible.identity.flight, wait_s)

    async def _buffer(self, exchange: Exchange) -> bytes:
        """Read a body whole, or one piece beyond ``max_body_bytes``."""
        limit = self._rules.max_body_bytes
        pieces: list[bytes] = []
        size = 0
        while size <= limit and (piece := await exchange.read()):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def _alone(self, request: Request, eligible: Eligible, key: EntryKey) -> Response:
        """Fetch for a caller who wants the cache neither read nor written."""
        cache_status = CacheStatus(forward=Forward.REQUEST, reason=Reason.REQUEST_NO_STORE)
        if eligible.directives.only_if_cached:
            raise _with_member(NotCached(), cache_status)
        self._hold_back(eligible, cache_status)
        early_lookup = EarlyLookup(self._tiers.fill_token(key), LookupResult(None))
        if request.method == "HEAD":
            return await self._head(request, eligible, early_lookup, cache_status)
        try:
            fill = self._fill(request, eligible, early_lookup, None)
            fetched = await self._flights.alone(fill)
        except GatewayError as error:
            _with_member(error, cache_status)
            raise
        return self._fetched(fetched, eligible, cache_status, collapsed=False)

    async def _head(
        self, request: Request, eligible: Eligible, early_lookup: EarlyLookup, cache_status: CacheStatus
    ) -> Response:
        """Forward a HEAD alone; it stores nothing, but may tell that an entry is over."""
        fill_token = self._tiers.begin_fetch(early_lookup.fill_token)
        answer = await self._forward(request, None, _because(cache_status, Reason.HEAD), execution_call=True)
        self._heed(eligible, answer.head)
        if answer.head.status in policy.DROPPING_STATUSES or self._is_outdated(fill_token.key, answer.head):
            self._tiers.drop(fill_token, early_lookup.lookup)
        return answer

    def _is_outdated(self, key: EntryKey, head: Head) -> bool:
        """Tell whether a HEAD's answer shows that the copy in memory is another one (RFC 9111 §4.3.5)."""
        etag = first(head.fields, b"etag")
        entry = self._tiers.peek(key) if head.status == 200 and etag is not None else None
        return entry is not None and first(entry.head().fields, b"etag") != etag

    def _hit(self, request: Request, eligible: Eligible, entry: Entry, now_s: float) -> Response:
        self._top_executions.hit(eligible.execution, entry)
        cache_log.decided(request, "hit, fresh for another %d s", entry.ttl_s(now_s))
        head = answers.hit_head(entry, eligible.fields, request.request_id, self._proxy.via, now_s)
        return Response(head, entry.body, CacheStatus(ttl_s=int(entry.ttl_s(now_s))))

    def _fetched(
        self, fetched: Fetched, eligible: Eligible, cache_status: CacheStatus, *, collapsed: bool
    ) -> Response:
        fetched_response, decision = fetched.fetched_response, fetched.decision
        cache_status = msgspec.structs.replace(
            cache_status,
            fwd_status=fetched_response.head.status,
            stored=fetched.is_stored,
            collapsed=collapsed,
            reason=fetched.reason or cache_status.reason,
        )
        if decision is None:
            head = answers.forwarded_head(fetched_response.head, self._proxy.via, cache_status)
            return Response(
                head, None, cache_status, fetched.exchange, fetched_response.body, fetched_response.upstream_s
            )
        if collapsed and decision.is_record:
            self._top_executions.shared(eligible.execution)
        # Everybody who joined asked for himself whether he has it already.
        own = msgspec.structs.replace(fetched_response, request=eligible.fields)
        head = answers.fetched_head(own, decision, self._proxy.via, cache_status)
        return Response(head, fetched_response.body, cache_status, upstream_s=fetched_response.upstream_s)


def _because(cache_status: CacheStatus, reason: Reason) -> CacheStatus:
    return msgspec.structs.replace(cache_status, reason=cache_status.reason or reason)


def _with_member(error: GatewayError, cache_status: CacheStatus) -> GatewayError:
    """Let an error tell what the cache did before it, or why nothing was forwarded."""
    reason = error.reason if isinstance(error, FetchError) else None
    error.cache_member = (cache_status if reason is None else CacheStatus(reason=reason)).member()
    return error
