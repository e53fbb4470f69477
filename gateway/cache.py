"""The one place where decisions meet I/O: look up, fetch once, judge, store, answer."""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from concurrent.futures import Executor

import msgspec

from gateway.cache_results import Answer, Fetched
from gateway.clock import Clock
from gateway.core import answers, headers, policy, route
from gateway.core.caller import Recogniser
from gateway.core.entry import Entry
from gateway.core.freshness import vary_is_met
from gateway.core.key import EntryKey, KeySpace
from gateway.core.messages import Head, Request, first, names
from gateway.core.plan import Bypass, Plan, plan
from gateway.core.reply import BodyFraming
from gateway.core.retry import retry_after_s
from gateway.core.status import Forward, Reason, Verdict
from gateway.core.wishes import read_wishes
from gateway.errors import BadRequest, GatewayError, NotCached, ProxyLoop, Throttled, UpstreamError
from gateway.flight import Flight, Flights
from gateway.log_lines import FIELDS
from gateway.sightings import Sightings
from gateway.store.lookup import LookedUp, Lookup, Ticket
from gateway.store.tiers import Tiers
from gateway.throttle import Throttle
from gateway.upstream import Exchange, RequestBody, Upstream

_log = logging.getLogger("gateway.cache")


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
            _debug(request, "bypasses the cache: %s", planned.reason)
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
            _log.debug("invalidates after a write: %s", sorted(stacks))
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
        if key is None:
            key = self._keys.entry(planned.identity.entry, planned.variant, planned.execution)
        wishes = planned.wishes
        if wishes.no_store:
            return await self._alone(request, planned, key)
        ticket = self._tiers.ticket(key)
        lookup = Lookup(None)
        forward = Forward.REQUEST
        reason: Reason | None = Reason.REQUEST_NO_CACHE
        if not wishes.no_cache:
            if looked_up is not None and looked_up.ticket.key == key:
                ticket, lookup = looked_up.ticket, looked_up.lookup
            else:
                lookup = await self._tiers.lookup(key)
            # Between a look-up in Redis and here another request's fetch may have ended.
            entry = lookup.entry or self._tiers.peek(key)
            why_not = None if entry is None else self._why_not(planned, entry)
            if entry is not None and why_not is None:
                return self._hit(request, planned, entry)
            forward = Forward.URI_MISS if entry is None else Forward.REQUEST
            reason = Reason.STORE_FAILED if lookup.has_failed else why_not
        _debug(request, "no entry to serve: %s", reason or "none is stored")
        verdict = Verdict(forward=forward, reason=reason)
        if wishes.only_if_cached:
            raise _with_member(NotCached(), verdict)
        self._hold_back(planned, verdict)
        if request.method == "HEAD":
            return await self._head(request, planned, key, verdict)
        # Nothing waits from the look into memory to the flight: a fetch is found either way.
        flight_key = self._keys.flight(planned.identity.flight, planned.variant, planned.execution)
        flight = None
        if forward is Forward.URI_MISS:
            flight = self._flights.joinable(flight_key)
        try:
            if flight is not None:
                _debug(request, "joins a fetch under way")
                fetched = await self._flights.join(flight)
                if fetched.exchange is not None:
                    return await self._forward(
                        request, None, _because(verdict, Reason.TOO_LARGE), execution_call=True
                    )
                if not vary_is_met(fetched.arrival.head.fields, planned.fields):
                    # It was chosen by a field that these two requests need not have in common (RFC 9111 §4).
                    return await self._forward(
                        request, None, _because(verdict, Reason.VARY), execution_call=True
                    )
                return self._fetched(fetched, planned, verdict, collapsed=True)

            async def fly(flight: Flight[Fetched]) -> Fetched:
                fetched = await self._fill(request, planned, ticket, lookup, flight)
                judged, status = fetched.judgement, fetched.arrival.head.status
                phase = None if judged is None else judged.phase
                _debug(request, "fetched: %d, phase %s: %s", status, phase, fetched.reason or "stored")
                return fetched

            fetched = await self._flights.lead(flight_key, key.stack, fly)
        except GatewayError as error:
            _with_member(error, verdict)
            raise
        return self._fetched(fetched, planned, verdict, collapsed=False)

    async def _fill(
        self,
        request: Request,
        planned: Plan,
        ticket: Ticket,
        lookup: Lookup,
        flight: Flight[Fetched] | None,
    ) -> Fetched:
        """Fetch a record, judge it, and store it if it may be."""
        if flight is not None:
            ticket = await self._tiers.prepare_fill(ticket, lookup)
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
                self._tiers.drop(ticket.key)
            if flight is not None and not flight.leader_waits:
                exchange.close()
            return Fetched(arrival, None, False, Reason.TOO_LARGE, exchange)
        exchange.close()
        judgement = await self._judge(arrival, ticket.key)
        self._sightings.saw(planned.execution, arrival, judgement)
        if judgement.refusal is not None:
            if policy.drops_own_entry(exchange.head.status, judgement):
                self._tiers.drop(ticket.key)
            return Fetched(arrival, judgement, False, judgement.refusal)
        if flight is None:
            return Fetched(arrival, judgement, False, None)
        if flight.is_superseded:
            return Fetched(arrival, judgement, False, Reason.FORGOTTEN)
        entry = answers.entry_of(arrival, judgement, policy.told_age_s(exchange.head))
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
        if request.method == "HEAD":
            return await self._head(request, planned, key, verdict)
        try:
            fill = self._fill(request, planned, self._tiers.ticket(key), Lookup(None), None)
            fetched = await self._flights.alone(fill)
        except GatewayError as error:
            _with_member(error, verdict)
            raise
        return self._fetched(fetched, planned, verdict, collapsed=False)

    async def _head(self, request: Request, planned: Plan, key: EntryKey, verdict: Verdict) -> Answer:
        """Forward a HEAD alone; it stores nothing, but may tell that an entry is over."""
        answer = await self._forward(request, None, _because(verdict, Reason.HEAD), execution_call=True)
        self._heed(planned, answer.head)
        if answer.head.status in policy.DROPPING_STATUSES or self._is_outdated(key, answer.head):
            self._tiers.drop(key)
        return answer

    def _is_outdated(self, key: EntryKey, head: Head) -> bool:
        """Tell whether a HEAD's answer shows that the copy in memory is another one (RFC 9111 §4.3.5)."""
        etag = first(head.fields, b"etag")
        entry = self._tiers.peek(key) if head.status == 200 and etag is not None else None
        return entry is not None and first(entry.head().fields, b"etag") != etag

    def _hit(self, request: Request, planned: Plan, entry: Entry) -> Answer:
        now_s = self._clock.wall_s()
        self._sightings.hit(planned.execution, entry)
        _debug(request, "hit, fresh for another %d s", entry.ttl_s(now_s))
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

    def _why_not(self, planned: Plan, entry: Entry) -> Reason | None:
        now_s = self._clock.wall_s()
        return planned.wishes.refuse(entry.age_s(now_s), entry.ttl_s(now_s))


def _debug(request: Request, text: str, *told: object) -> None:
    """Log a decision about a request."""
    if _log.isEnabledFor(logging.DEBUG):
        plain = [each.value if isinstance(each, enum.Enum) else each for each in told]
        _log.debug(
            text, *plain, extra={FIELDS: {"request_id": request.request_id.decode("ascii", "replace")}}
        )


def _because(verdict: Verdict, reason: Reason) -> Verdict:
    return msgspec.structs.replace(verdict, reason=verdict.reason or reason)


def _with_member(error: GatewayError, verdict: Verdict) -> GatewayError:
    """Let an error tell what the cache did before it."""
    error.cache_member = verdict.member()
    return error
