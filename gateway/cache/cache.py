"""The one place where decisions meet I/O: look up, fetch once, judge, store, answer."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import Executor

import msgspec

from gateway.cache import cache_log
from gateway.cache.flight import Flight, Flights
from gateway.cache.hints import Hints
from gateway.cache.results import Answer, Fetched
from gateway.cache.throttle import Throttle
from gateway.clock import Clock
from gateway.core.aos import route
from gateway.core.caching import answers, policy
from gateway.core.caching.caller import Recogniser
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.core.caching.plan import Bypass, Plan, may_share, plan
from gateway.core.caching.retry import retry_after_s
from gateway.core.caching.status import Forward, Reason, Verdict
from gateway.core.caching.wishes import read_wishes
from gateway.core.http import headers
from gateway.core.http.messages import Head, Request, first, names
from gateway.core.http.reply import BodyFraming
from gateway.errors import BadRequest, GatewayError, NotCached, ProxyLoop, Throttled, UpstreamError
from gateway.store.lookup import LookedUp, Lookup
from gateway.store.tiers import Tiers
from gateway.telemetry.sightings import Sightings
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
        recogniser: Recogniser,
        keys: KeySpace,
        hop: headers.Hop,
        tiers: Tiers,
        flights: Flights[Fetched],
        upstream: Upstream,
        throttle: Throttle,
        clock: Clock,
        judges: Executor,
        sightings: Sightings,
    ) -> None:
        self._rules = rules
        self._recogniser = recogniser
        self._keys = keys
        self._hop = hop
        self._tiers = tiers
        self._flights = flights
        self._upstream = upstream
        self._throttle = throttle
        self._clock = clock
        self._judges = judges
        self._sightings = sightings
        self._hints = Hints(rules)

    async def answer(
        self, request: Request, body: RequestBody | None, looked_up: LookedUp | None = None
    ) -> Answer:
        """Answer one request.

        Args:
            request: what was asked.
            body: its body; ``None`` without one.
            looked_up: a look-up made for it already; ``None`` when none was.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        try:
            headers.check_request(request, self._hop)
        except headers.Refusal as refusal:
            if refusal.status == ProxyLoop.status:
                raise ProxyLoop from refusal
            raise BadRequest(refusal.status, refusal.about) from refusal
        planned = plan(request, self._recogniser)
        if isinstance(planned, Bypass):
            cache_log.decided(request, "bypasses the cache: %s", planned.reason)
            return await self._bypass(request, body, planned)
        return await self.fetch(request, planned, looked_up)

    async def _bypass(self, request: Request, body: RequestBody | None, bypass: Bypass) -> Answer:
        verdict = Verdict(forward=bypass.forward, reason=bypass.reason)
        if bypass.is_reading and read_wishes(request.fields).only_if_cached:
            raise _with_member(NotCached(), verdict)
        if not route.is_write(request.method, names(request.fields)):
            return await self._forward(request, body, verdict, execution_call=False)
        stacks = route.written_stacks(request.target)
        try:
            answer = await self._forward(request, body, verdict, execution_call=False)
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
        self, request: Request, body: RequestBody | None, verdict: Verdict, *, execution_call: bool
    ) -> Answer:
        """Stream a request and its response through, alone."""
        fields = headers.upstream_fields(request, self._hop, execution_call=execution_call)
        sending = self._upstream.send(request.method, request.target, fields, body)
        try:
            exchange = await (self._flights.alone(sending) if execution_call else sending)
        except GatewayError as error:
            _with_member(error, verdict)
            raise
        if verdict.reason is not Reason.ROUTE:
            verdict = msgspec.structs.replace(verdict, fwd_status=exchange.head.status)
        head = answers.forwarded_head(exchange.head, self._hop.via, verdict)
        return Answer(head, None, verdict, exchange, upstream_s=exchange.head_s)

    async def fetch(
        self, request: Request, planned: Plan, looked_up: LookedUp | None, key: EntryKey | None = None
    ) -> Answer:
        """Answer the execution call of a caller that can be recognised again.

        Args:
            request: `headers.check_request` has accepted it.
            planned: what `plan` makes of it.
            looked_up: a look-up made for it already; ``None`` when none was.
            key: of its entry, where it is known.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        variant = planned.variant.general
        if key is None:
            key = self._keys.entry(planned.identity.entry, variant, planned.execution)
        wishes = planned.wishes
        if wishes.no_store:
            return await self._alone(request, planned, key)
        forward = Forward.REQUEST
        reason: Reason | None = Reason.REQUEST_NO_CACHE
        if wishes.no_cache:
            found = LookedUp(self._tiers.ticket(key), Lookup(None))
        else:
            found, entry = await self._look_up(key, looked_up)
            absent = Forward.URI_MISS
            if entry is not None and not entry.suits(planned.variant.accept):
                # It was chosen by another Accept; what is chosen by this one has a place of its own.
                absent = Forward.VARY_MISS
                variant = planned.variant.exact
                key = self._keys.entry(planned.identity.entry, variant, planned.execution)
                found, entry = await self._look_up(key, None)
            forward, reason = absent, Reason.STORE_FAILED if found.lookup.has_failed else None
            if entry is not None:
                now_s = entry.now_s(self._clock.wall_s(), self._clock.monotonic_s())
                why_not = wishes.refuse(entry.age_s(now_s), entry.ttl_s(now_s))
                if why_not is None:
                    return self._hit(request, planned, entry, now_s)
                forward, reason = why_not
        cache_log.decided(request, "no entry to serve: %s", reason or "none is stored")
        verdict = Verdict(forward=forward, reason=reason)
        if wishes.only_if_cached:
            raise _with_member(NotCached(), verdict)
        self._hold_back(planned, verdict)
        if request.method == "HEAD":
            return await self._head(request, planned, found, verdict)
        # Nothing waits from the look into memory to the flight: a fetch is found either way.
        flight_key = self._keys.flight(planned.identity.flight, variant, planned.execution)
        flight = None
        if forward is not Forward.REQUEST:
            flight = self._flights.joinable(flight_key)
        try:
            if flight is not None:
                cache_log.decided(request, "joins a fetch under way")
                fetched = await self._flights.join(flight)
                if fetched.exchange is not None:
                    return await self._forward(
                        request, None, _because(verdict, Reason.TOO_LARGE), execution_call=True
                    )
                if not may_share(planned, fetched.arrival, self._rules.identity_headers):
                    return await self._forward(
                        request, None, _because(verdict, Reason.VARY), execution_call=True
                    )
                return self._fetched(fetched, planned, verdict, collapsed=True)

            async def fly(flight: Flight[Fetched]) -> Fetched:
                result = await self._fill(request, planned, found, flight)
                cache_log.fetched(request, result)
                return result

            fetched = await self._flights.lead(flight_key, key.stack, fly)
        except GatewayError as error:
            _with_member(error, verdict)
            raise
        return self._fetched(fetched, planned, verdict, collapsed=False)

    async def _look_up(self, key: EntryKey, looked_up: LookedUp | None) -> tuple[LookedUp, Entry | None]:
        """Look into all tiers, unless that was done already; return what that gave, and the entry."""
        if looked_up is None or looked_up.ticket.key != key:
            ticket = self._tiers.ticket(key)
            looked_up = LookedUp(ticket, await self._tiers.lookup(key))
        # Between a look-up in Redis and here another request's fetch may have ended.
        return looked_up, looked_up.lookup.entry or self._tiers.peek(key)

    async def _fill(
        self,
        request: Request,
        planned: Plan,
        looked_up: LookedUp,
        flight: Flight[Fetched] | None,
    ) -> Fetched:
        """Fetch a record, judge it, and store it if it may be."""
        ticket = looked_up.ticket
        if flight is not None:
            ticket = await self._tiers.prepare_fill(ticket, looked_up.lookup)
        else:
            ticket = self._tiers.begin_fetch(ticket)
        fetched_s = self._clock.wall_s()
        fields = headers.upstream_fields(request, self._hop, execution_call=True)
        exchange = await self._upstream.send("GET", request.target, fields, None)
        self._heed(planned, exchange.head)
        try:
            body = await self._buffer(exchange)
        except BaseException:
            exchange.close()
            raise
        arrival = policy.Arrival(
            head=exchange.head,
            body=body,
            complete=exchange.framing is not BodyFraming.CLOSE,
            request=planned.fields,
            action_id=planned.execution.action_id,
            fetched_s=fetched_s,
            upstream_s=exchange.head_s,
        )
        if len(body) > self._rules.max_body_bytes:
            if policy.drops_own_entry(exchange.head.status, None):
                self._tiers.drop(ticket, looked_up.lookup)
            if flight is not None and not flight.leader_waits:
                exchange.close()
            return Fetched(arrival, None, False, Reason.TOO_LARGE, exchange)
        exchange.close()
        judgement = await self._judge(arrival, ticket.key)
        self._sightings.saw(planned.execution, arrival, judgement)
        if judgement.refusal is not None:
            self._hints.refused(arrival, judgement)
            if policy.drops_own_entry(exchange.head.status, judgement):
                self._tiers.drop(ticket, looked_up.lookup)
            return Fetched(arrival, judgement, False, judgement.refusal)
        if flight is None:
            return Fetched(arrival, judgement, False, None)
        entry = answers.entry_of(arrival, judgement, policy.told_age_s(exchange.head), planned.variant.accept)
        refusal = self._tiers.store(ticket, entry)
        return Fetched(arrival, judgement, refusal is None, refusal)

    async def _judge(self, arrival: policy.Arrival, key: EntryKey) -> policy.Judgement:
        """Judge here, or in a thread what would hold up everybody else.

        A write that comes meanwhile raises the stack's forget count, so the record isn't stored.
        """
        now_s = self._clock.monotonic_s()
        judge = functools.partial(
            policy.judge,
            arrival,
            self._rules,
            settling=self._tiers.ledger.is_settling(key.stack, now_s),
            uncertain=self._tiers.ledger.is_uncertain(now_s),
        )
        if not policy.is_heavy(arrival):
            return judge()
        return await asyncio.get_running_loop().run_in_executor(self._judges, judge)

    def _hold_back(self, planned: Plan, verdict: Verdict) -> None:
        """Answer for the upstream while it wants to hear nothing of this caller."""
        wait_s = self._throttle.wait_s(planned.identity.flight)
        if wait_s is not None:
            raise _with_member(Throttled(wait_s), verdict)

    def _heed(self, planned: Plan, head: Head) -> None:
        """Remember a 429's Retry-After for the caller it was told to."""
        if head.status == 429:
            wait_s = retry_after_s(head.fields, self._clock.wall_s())
            if wait_s is not None:
                self._throttle.hold(planned.identity.flight, wait_s)

    async def _buffer(self, exchange: Exchange) -> bytes:
        """Read a body whole, or one piece beyond ``max_body_bytes``."""
        limit = self._rules.max_body_bytes
        pieces: list[bytes] = []
        size = 0
        while size <= limit and (piece := await exchange.read()):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def _alone(self, request: Request, planned: Plan, key: EntryKey) -> Answer:
        """Fetch for a caller who wants the cache neither read nor written."""
        verdict = Verdict(forward=Forward.REQUEST, reason=Reason.REQUEST_NO_STORE)
        if planned.wishes.only_if_cached:
            raise _with_member(NotCached(), verdict)
        self._hold_back(planned, verdict)
        looked_up = LookedUp(self._tiers.ticket(key), Lookup(None))
        if request.method == "HEAD":
            return await self._head(request, planned, looked_up, verdict)
        try:
            fill = self._fill(request, planned, looked_up, None)
            fetched = await self._flights.alone(fill)
        except GatewayError as error:
            _with_member(error, verdict)
            raise
        return self._fetched(fetched, planned, verdict, collapsed=False)

    async def _head(self, request: Request, planned: Plan, looked_up: LookedUp, verdict: Verdict) -> Answer:
        """Forward a HEAD alone; it stores nothing, but may tell that an entry is over."""
        ticket = self._tiers.begin_fetch(looked_up.ticket)
        answer = await self._forward(request, None, _because(verdict, Reason.HEAD), execution_call=True)
        self._heed(planned, answer.head)
        if answer.head.status in policy.DROPPING_STATUSES or self._is_outdated(ticket.key, answer.head):
            self._tiers.drop(ticket, looked_up.lookup)
        return answer

    def _is_outdated(self, key: EntryKey, head: Head) -> bool:
        """Tell whether a HEAD's answer shows that the copy in memory is another one (RFC 9111 §4.3.5)."""
        etag = first(head.fields, b"etag")
        entry = self._tiers.peek(key) if head.status == 200 and etag is not None else None
        return entry is not None and first(entry.head().fields, b"etag") != etag

    def _hit(self, request: Request, planned: Plan, entry: Entry, now_s: float) -> Answer:
        self._sightings.hit(planned.execution, entry)
        cache_log.decided(request, "hit, fresh for another %d s", entry.ttl_s(now_s))
        head = answers.hit_head(entry, planned.fields, request.request_id, self._hop.via, now_s)
        return Answer(head, entry.body, Verdict(ttl_s=int(entry.ttl_s(now_s))))

    def _fetched(self, fetched: Fetched, planned: Plan, verdict: Verdict, *, collapsed: bool) -> Answer:
        arrival, judgement = fetched.arrival, fetched.judgement
        verdict = msgspec.structs.replace(
            verdict,
            fwd_status=arrival.head.status,
            stored=fetched.is_stored,
            collapsed=collapsed,
            reason=fetched.reason or verdict.reason,
        )
        if judgement is None:
            head = answers.forwarded_head(arrival.head, self._hop.via, verdict)
            return Answer(head, None, verdict, fetched.exchange, arrival.body, arrival.upstream_s)
        if collapsed and judgement.is_record:
            self._sightings.shared(planned.execution)
        # Everybody who joined asked for himself whether he has it already.
        own = msgspec.structs.replace(arrival, request=planned.fields)
        head = answers.fetched_head(own, judgement, self._hop.via, verdict)
        return Answer(head, arrival.body, verdict, upstream_s=arrival.upstream_s)


def _because(verdict: Verdict, reason: Reason) -> Verdict:
    return msgspec.structs.replace(verdict, reason=verdict.reason or reason)


def _with_member(error: GatewayError, verdict: Verdict) -> GatewayError:
    """Let an error tell what the cache did before it, or why nothing was forwarded."""
    error.cache_member = (verdict if error.reason is None else Verdict(reason=error.reason)).member()
    return error
