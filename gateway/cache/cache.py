"""Where decisions meet I/O: look up, fetch once, decide, store, respond."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.cache import cache_log
from gateway.cache.fetcher import Fetcher
from gateway.cache.responder import Responder, because, preferred, with_member
from gateway.cache.results import Fetched, Given, Response
from gateway.cache.single_flight import Flight, SingleFlight
from gateway.cache.throttle import Throttle
from gateway.cache.waiting import OnWaited, Waits
from gateway.core.aos import route
from gateway.core.caching import policy
from gateway.core.caching.cache_status import CacheStatus, Forward, Reason
from gateway.core.caching.eligibility import Bypass, Eligible, eligibility, identified_anew
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import Identity, IdentityReader
from gateway.core.caching.key import EntryKey, FlightKey, KeySpace
from gateway.core.caching.request_directives import accepts_events, read_directives
from gateway.core.http import prefer
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Head, Request, first, names
from gateway.core.http.proxy_identity import check_request
from gateway.core.http.target import is_write
from gateway.errors import FetchError, NotCached, Throttled
from gateway.store.lookup import EarlyLookup, LookupResult
from gateway.tasks import raising
from gateway.upstream.upstream import RequestBody

OnResponse = Callable[[Response | GatewayError | Coroutine[Any, Any, Response]], None]
"""Called once, with the response, with why there is none, or with what has to be awaited for it."""


_MISS = CacheStatus(Forward.URI_MISS)
_MOST_JOINED = 3
_STORE_FAILED = CacheStatus(Forward.URI_MISS, reason=Reason.STORE_FAILED)


def _dropped(response: Response | GatewayError | Coroutine[Any, Any, Response]) -> None:
    """Let go of what nobody takes."""
    if isinstance(response, Coroutine):
        response.close()
    elif isinstance(response, Response) and response.exchange is not None:
        response.exchange.close()


class _Asked(msgspec.Struct):
    """A request that a fetch is to answer.

    Attributes:
        by: answers it.
        cache_status: what the cache has done with it so far.
        flight_key: of the fetch; ``None`` when nobody else may have its result.
        on_response: called once.
        joined: how many fetches of others gave nothing that is for it.
        flight: the fetch; ``None`` before there is one.
        joined_s: monotonic time at which it joined that; ``None``: it has begun it.
    """

    by: "Cache"
    request: Request
    eligible: Eligible
    found: EarlyLookup
    cache_status: CacheStatus
    flight_key: FlightKey | None
    on_response: OnResponse = _dropped
    joined: int = 0
    flight: Flight[Fetched] | None = None
    joined_s: float | None = None

    def take(self, fetched: Fetched | GatewayError) -> None:
        """Take the result of the fetch."""
        if isinstance(fetched, GatewayError):
            self.on_response(with_member(fetched, self.cache_status))
            return
        response: Response | Coroutine[Any, Any, Response]
        try:
            if self.joined_s is None and fetched.given is None:
                response = self.by.responder.fetched(
                    fetched, self.eligible, self.cache_status, collapsed=False
                )
            else:
                response = self.by.response_of(self, fetched)
        except Exception as error:
            response = raising(error)
        self.on_response(response)

    def leave(self) -> None:
        """Nobody waits for the response any more."""
        if self.flight is not None:
            self.flight.leave(self.take)


@dataclass(frozen=True, repr=False)
class Cache:
    """Answers requests from the tiers or from the upstream."""

    identity_reader: IdentityReader
    keys: KeySpace
    flights: SingleFlight[Fetched]
    fetcher: Fetcher
    throttle: Throttle
    responder: Responder
    waits: Waits

    async def answer(
        self,
        request: Request,
        body: RequestBody | None,
        configured: Identity | None = None,
        *,
        on_waited: OnWaited,
    ) -> Response:
        """Answer one request.

        Args:
            configured: of the gateway's credentials, if it goes upstream with them; ``None`` otherwise.
            on_waited: called if its caller asked to wait, when that is over.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        check_request(request, self.fetcher.proxy)
        eligible = eligibility(request, self.identity_reader, configured)
        if isinstance(eligible, Bypass):
            cache_log.decided(request, "bypasses the cache: %s", eligible.reason)
            return await self._bypass(request, body, eligible)
        return await self.fetch(request, eligible, None, on_waited=on_waited)

    async def _bypass(self, request: Request, body: RequestBody | None, bypass: Bypass) -> Response:
        cache_status = CacheStatus(forward=bypass.forward, reason=bypass.reason)
        if bypass.is_reading and read_directives(request.fields).only_if_cached:
            raise with_member(NotCached(), cache_status)
        if not is_write(request.method, names(request.fields)):
            return await self.responder.forward(request, body, cache_status)
        stacks = route.written_stacks(request.target)
        try:
            answer = await self.responder.forward(request, body, cache_status)
        except BaseException as error:
            # Unknown outcome: it may have been done. What certainly never left changes nothing.
            if not (isinstance(error, FetchError) and error.reason is not None):
                await self._invalidate(stacks)
            raise
        if not 400 <= answer.head.status < 500:
            await self._invalidate(stacks)
        return answer

    async def _invalidate(self, stacks: frozenset[bytes]) -> None:
        if stacks:
            cache_log.invalidates(stacks)
            await self.fetcher.tiers.invalidate(stacks, "write", settles=True)

    async def fetch(
        self,
        request: Request,
        eligible: Eligible,
        early_lookup: EarlyLookup | None,
        key: EntryKey | None = None,
        *,
        on_waited: OnWaited,
    ) -> Response:
        """Answer the execution call of a caller that can be recognised again.

        Args:
            request: `check_request` has accepted it.
            early_lookup: a look-up made for it already; ``None`` when none was.
            key: of its entry, where it is known.
            on_waited: called if its caller asked to wait, when that is over.

        Raises:
            GatewayError: there is nothing to pass on, and the gateway must speak for itself.
        """
        variant = eligible.variant.general
        if key is None:
            key = self.keys.entry(eligible.identity.entry, variant, eligible.execution)
        directives = eligible.directives
        if directives.no_store:
            return await self._alone(request, eligible, key)
        wait_s = None
        if request.method == "GET" and not directives.only_if_cached:
            wait_s = self.waits.applied_s(prefer.wait_s(request.fields))
        forward = Forward.REQUEST
        reason: Reason | None = Reason.REQUEST_NO_CACHE
        if directives.no_cache:
            found = EarlyLookup(self.fetcher.tiers.fill_token(key), LookupResult(None))
        else:
            # The preference of a HEAD is for AOS.
            prefers = bool(wait_s) or (request.method == "HEAD" and b"prefer" in names(request.fields))
            wants_new = prefers or accepts_events(eligible.fields)
            found, entry = await self._look_up(key, early_lookup, wants_new=wants_new)
            absent = Forward.URI_MISS
            if entry is not None and not entry.suits(eligible.variant.accept):
                # It was chosen by another Accept; what is chosen by this one has a place of its own.
                absent = Forward.VARY_MISS
                variant = eligible.variant.exact
                key = self.keys.entry(eligible.identity.entry, variant, eligible.execution)
                found, entry = await self._look_up(key, None, wants_new=wants_new)
            forward, reason = absent, Reason.STORE_FAILED if found.lookup.has_failed else None
            if entry is not None:
                now_s = entry.now_s(self.fetcher.clock.wall_s(), self.fetcher.clock.monotonic_s())
                why_not = directives.unmet(entry.age_s(now_s), entry.ttl_s(now_s))
                if why_not is None:
                    return preferred(self.responder.hit(request, eligible, entry, now_s), wait_s)
                forward, reason = why_not
        cache_log.decided(request, "no entry to serve: %s", reason or "none is stored")
        cache_status = CacheStatus(forward=forward, reason=reason)
        if directives.only_if_cached:
            raise with_member(NotCached(), cache_status)
        if wait_s:
            waited, has_waited = await self.waits.response(
                request, eligible, cache_status, variant, wait_s, on_waited=on_waited
            )
            if waited is not None:
                return waited
            if not has_waited:
                # There is no place for one more.
                wait_s = None
            anew = identified_anew(eligible, self.identity_reader)
            if anew is not eligible:
                eligible = anew
                key = self.keys.entry(eligible.identity.entry, variant, eligible.execution)
                found, _ = await self._look_up(key, None, wants_new=True)
        may_join = forward is not Forward.REQUEST
        flight_key = self._flight_key(eligible, variant)
        response = await self._from_upstream(
            request, eligible, found, cache_status, flight_key=flight_key, may_join=may_join
        )
        return preferred(response, wait_s)

    async def _from_upstream(
        self,
        request: Request,
        eligible: Eligible,
        found: EarlyLookup,
        cache_status: CacheStatus,
        *,
        flight_key: FlightKey | None,
        may_join: bool = True,
    ) -> Response:
        """Fetch or join a fetch, unless the upstream wants to hear nothing of this caller; see `_share`."""
        if (held := self._held_back(request, eligible)) is not None:
            return held
        if request.method == "HEAD":
            return await self._head(request, eligible, found, cache_status)
        # Nothing waits from the look into memory to the flight: a fetch is found either way.
        asked = _Asked(self, request, eligible, found, cache_status, flight_key)
        return await self._response(asked, may_join=may_join)

    def fetch_plain(
        self, request: Request, eligible: Eligible, found: EarlyLookup, on_response: OnResponse
    ) -> Callable[[], None]:
        """Answer like `fetch`, without a wait, what has no directives and was found in no tier.

        Calls ``on_response`` once, perhaps before this returns. What it returns is to be called when nobody
        waits for the response any more.
        """
        cache_status = _STORE_FAILED if found.lookup.has_failed else _MISS
        if cache_log.is_on():
            cache_log.decided(request, "no entry to serve: %s", cache_status.reason or "none is stored")
        if (held := self.throttle.response("GET", eligible)) is not None:
            on_response(held)
            return lambda: None
        flight_key = self._flight_key(eligible, eligible.variant.general)
        return self._share(_Asked(self, request, eligible, found, cache_status, flight_key, on_response))

    def _flight_key(self, eligible: Eligible, variant: bytes) -> FlightKey:
        """Return the key of the fetch that this request may share.

        Where running records are given to everybody, so are the fetches of them.
        """
        identity = eligible.identity
        caller = identity.entry if self.fetcher.rules.ttl_running_s else identity.user
        return self.keys.flight(caller, variant, eligible.execution)

    def _share(self, asked: _Asked, *, may_join: bool = True) -> Callable[[], None]:
        """Join a fetch under way, or begin one, which others may join if it has a key; see `fetch_plain`."""
        flight_key, request = asked.flight_key, asked.request
        if flight_key is not None and may_join and (joined := self.flights.joinable(flight_key)) is not None:
            cache_log.decided(request, "joins a fetch under way")
            asked.flight, asked.joined_s = joined, self.fetcher.clock.monotonic_s()
            joined.join(asked.take)
            return asked.leave
        key = asked.found.fill_token.key
        # What nobody may join is nobody else's matter.
        record = None if flight_key is None else key.local
        flight = self.flights.begin(flight_key, key.stack, asked.take, record)
        asked.flight = flight
        self.fetcher.start(
            flight,
            request,
            asked.eligible,
            asked.found,
            stores=flight_key is not None,
            takes_over=not may_join,
        )
        return asked.leave

    def response_of(self, asked: _Asked, fetched: Fetched) -> Response | Coroutine[Any, Any, Response]:
        """Return the response to a request that another one's fetch, which has ended, is to answer."""
        joined_s, given = asked.joined_s, fetched.given
        request, eligible, cache_status = asked.request, asked.eligible, asked.cache_status
        if given is not None and joined_s is not None and joined_s > given.ends_s:
            return self._again(asked, joined_s)
        if given is not None and not self._suits(given, eligible):
            return self._anew(asked, given.since_s if joined_s is None else joined_s)
        if joined_s is not None:
            if not self._may_be_given(eligible, fetched):
                return self._held_back(request, eligible) or self._again(asked, joined_s)
            if (unshared := self.responder.why_not_shared(eligible, fetched)) is not None:
                return self.responder.forward(request, None, because(cache_status, unshared), eligible)
        if given is not None:
            return self.responder.given(request, fetched, given, eligible, cache_status)
        return self.responder.fetched(fetched, eligible, cache_status, collapsed=True)

    async def _again(self, asked: _Asked, since_s: float) -> Response:
        """Wait for the response to another fetch, in place of one that gave none.

        It is its own after a few of others: many tokens would wait for each other in turn.
        """
        flight_key, joined = asked.flight_key, asked.joined + 1
        eligible = identified_anew(asked.eligible, self.identity_reader)
        if eligible is not asked.eligible and flight_key is not None:
            _, variant, *_ = flight_key
            key = self.keys.entry(eligible.identity.entry, variant, eligible.execution)
            found = EarlyLookup(self.fetcher.tiers.fill_token(key), LookupResult(None))
            flight_key = self._flight_key(eligible, variant)
            asked = msgspec.structs.replace(asked, eligible=eligible, found=found)
        flight_key = flight_key if joined < _MOST_JOINED else None
        asked = msgspec.structs.replace(asked, flight_key=flight_key, joined=joined)
        return await self.flights.in_time(self._response(asked), since_s)

    async def _anew(self, asked: _Asked, since_s: float) -> Response:
        """Wait for the response to a fetch of its own, in place of another replica's."""
        return await self.flights.in_time(self._response(asked, may_join=False), since_s)

    async def _response(self, asked: _Asked, *, may_join: bool = True) -> Response:
        """Wait for the response to a request, whose own ``on_response`` is not called.

        Raises:
            GatewayError: there is none.
        """
        result: asyncio.Future[Response | Coroutine[Any, Any, Response]]
        result = asyncio.get_running_loop().create_future()

        def on_response(response: Response | GatewayError | Coroutine[Any, Any, Response]) -> None:
            if result.done():
                # Who waited has just left.
                _dropped(response)
            elif isinstance(response, GatewayError):
                result.set_exception(response)
            else:
                result.set_result(response)

        asked = msgspec.structs.replace(asked, on_response=on_response, joined_s=None)
        leave = self._share(asked, may_join=may_join)
        try:
            response = await result
        except asyncio.CancelledError:
            leave()
            if result.done() and not result.cancelled() and result.exception() is None:
                _dropped(result.result())
            raise
        return response if isinstance(response, Response) else await response

    def _suits(self, given: Given, eligible: Eligible) -> bool:
        """Tell whether a request takes what another replica has fetched."""
        entry, directives = given.entry, eligible.directives
        if not (entry.is_settled or self.fetcher.rules.ttl_running_s):
            # It was for those who wait.
            return False
        now_s = entry.now_s(self.fetcher.clock.wall_s(), self.fetcher.clock.monotonic_s())
        # Who has waited for it may have it also when its time is over.
        return directives.unmet(entry.age_s(now_s), max(1.0, entry.ttl_s(now_s))) is None

    def _may_be_given(self, eligible: Eligible, fetched: Fetched) -> bool:
        """Tell whether a fetch's result is for a caller who joined it: whatever it is for the same token."""
        of, identity, decision = fetched.eligible.identity, eligible.identity, fetched.decision
        if of.credential == identity.credential:
            return True
        if decision is None or identified_anew(eligible, self.identity_reader) is not eligible:
            return False
        return decision.reason is None or (of.user == identity.user and policy.may_be_given(decision))

    async def _look_up(
        self, key: EntryKey, early_lookup: EarlyLookup | None, *, wants_new: bool
    ) -> tuple[EarlyLookup, Entry | None]:
        """Look into all tiers, unless that was done already; return what that gave, and the entry.

        Who wants what is new is given only what will not change.
        """
        if early_lookup is None or early_lookup.fill_token.key != key:
            fill_token = self.fetcher.tiers.fill_token(key)
            early_lookup = EarlyLookup(fill_token, await self.fetcher.tiers.lookup(key))
        # Between a look-up in Redis and here another request's fetch may have ended.
        entry = early_lookup.lookup.entry or self.fetcher.tiers.peek(key)
        return early_lookup, entry if entry is None or entry.is_settled or not wants_new else None

    def _held_back(self, request: Request, eligible: Eligible) -> Response | None:
        """Answer for the upstream while it wants to hear nothing of this caller."""
        held = self.throttle.response(request.method, eligible)
        if isinstance(held, Throttled):
            raise held
        return held

    async def _alone(self, request: Request, eligible: Eligible, key: EntryKey) -> Response:
        """Fetch for a caller who wants the cache neither read nor written."""
        cache_status = CacheStatus(forward=Forward.REQUEST, reason=Reason.REQUEST_NO_STORE)
        if eligible.directives.only_if_cached:
            raise with_member(NotCached(), cache_status)
        found = EarlyLookup(self.fetcher.tiers.fill_token(key), LookupResult(None))
        return await self._from_upstream(request, eligible, found, cache_status, flight_key=None)

    async def _head(
        self, request: Request, eligible: Eligible, early_lookup: EarlyLookup, cache_status: CacheStatus
    ) -> Response:
        """Forward a HEAD alone; it stores nothing, but may tell that an entry is over."""
        fill_token = self.fetcher.tiers.begin_fetch(early_lookup.fill_token)
        answer = await self.responder.forward(request, None, because(cache_status, Reason.HEAD), eligible)
        status = answer.head.status
        is_refused = status != 200 and policy.drops_own_entry(status, None, eligible.identity)
        if is_refused or self._is_outdated(fill_token.key, answer.head):
            self.fetcher.tiers.drop(fill_token, early_lookup.lookup, everywhere=True)
        return answer

    def _is_outdated(self, key: EntryKey, head: Head) -> bool:
        """Tell whether a HEAD's answer shows that the copy in memory is another one (RFC 9111 §4.3.5)."""
        etag = first(head.fields, b"etag")
        entry = self.fetcher.tiers.peek(key) if head.status == 200 and etag is not None else None
        return entry is not None and first(entry.head().fields, b"etag") != etag
