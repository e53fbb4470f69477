"""Fetches records whole, decides what becomes of them, and stores them."""

import asyncio
import functools
import logging
import math
from concurrent.futures import Executor

import msgspec

from gateway.cache import cache_log
from gateway.cache.hints import Hints
from gateway.cache.leases import Leases, Licence
from gateway.cache.results import Fetched
from gateway.cache.running_polls import RunningPolls
from gateway.cache.single_flight import Flight
from gateway.cache.throttle import Throttle
from gateway.clock import Clock
from gateway.core.caching import policy
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.identity import TOKEN_FIELD
from gateway.core.caching.responses import entry_of
from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import BodyFraming
from gateway.core.http.messages import Fields, Head, Request, first, values
from gateway.core.http.proxy_identity import ProxyIdentity, upstream_fields
from gateway.iam.verifier import Verifier
from gateway.store.lookup import EarlyLookup, FillToken
from gateway.store.tiers import Tiers
from gateway.tasks import TaskSet
from gateway.telemetry.top_executions import TopExecutions
from gateway.upstream.exchange import Exchange
from gateway.upstream.upstream import Upstream

_log = logging.getLogger(__name__)
# Looked up once: see `gateway.core.http.response_reader`.
_CLOSE, _PHASE = BodyFraming.CLOSE, Reason.PHASE


class Fetcher:
    """Makes the fetches of one gateway.

    Args:
        rules: what is stored, and how long.
        proxy: what the gateway says about itself.
        tiers: the stores.
        upstream: AOS.
        throttle: callers whom AOS asked to wait.
        verifier: knows the users of tokens; ``None`` where each token is a caller.
        clock: both clocks.
        executor: threads for what would hold up the event loop.
        leases: share fetches with other replicas; ``None`` where they do not.
        top_executions: counts the records that are fetched.
        running_polls: counts those that may still change.
    """

    def __init__(
        self,
        *,
        rules: policy.Rules,
        proxy: ProxyIdentity,
        tiers: Tiers,
        upstream: Upstream,
        throttle: Throttle,
        verifier: Verifier | None,
        clock: Clock,
        executor: Executor,
        leases: Leases | None,
        top_executions: TopExecutions,
        running_polls: RunningPolls,
    ) -> None:
        self.rules = rules
        self.proxy = proxy
        self.tiers = tiers
        self.upstream = upstream
        self.clock = clock
        self.executor = executor
        self.leases = leases
        self.top_executions = top_executions
        self.running_polls = running_polls
        self.hints = Hints(rules)
        self.throttle = throttle
        self._verifier = verifier
        self._tasks = TaskSet()

    def start(
        self,
        flight: Flight[Fetched],
        request: Request,
        eligible: Eligible,
        found: EarlyLookup,
        *,
        stores: bool = True,
        life_s: float = 0.0,
        takes_over: bool = False,
        not_before_s: float = -math.inf,
    ) -> None:
        """Begin the work of a flight.

        Args:
            stores: otherwise its result enters no tier.
            life_s: how old what another replica has fetched may be where no ``ttl_running_s`` says so; 0: it
                will not do.
            takes_over: what others have fetched until now will not do.
            not_before_s: nor what they began to fetch before this monotonic time.
        """
        fetch = _Fetch(self, flight, request, eligible, found, stores, found.fill_token)
        generation = found.lookup.generation
        if stores and self.tiers.redis is not None:
            lease_s = self.rules.ttl_running_s or life_s if self.leases is not None else 0.0
            if lease_s <= life_s:
                # The lease itself is over by then.
                not_before_s = -math.inf
            if (lease_s and generation is not None) or self.tiers.lacks_generation(found):
                fetch.prepare(self._tasks, lease_s, takes_over=takes_over, not_before_s=not_before_s)
                return
        fetch.send(generation)

    async def close(self) -> None:
        """Stop what is still under way."""
        await self._tasks.cancel()
        if self.leases is not None:
            await self.leases.close()

    def heed(self, eligible: Eligible, head: Head, body: bytes | None) -> None:
        """Remember what a status says of its caller; ``body`` is ``None`` where it is not at hand whole."""
        if head.status == 429:
            self.throttle.heed(eligible, head, body)
        token = eligible.identity.token
        if token and self._verifier is not None:
            if head.status == 200:
                self._verifier.accepted(token, first(eligible.fields, TOKEN_FIELD) or b"")
            elif head.status == 401:
                self._verifier.refused(token)

    def refused(self, fields: Fields) -> None:
        """AOS has refused a request with these fields, whatever it asked for."""
        tokens = values(fields, TOKEN_FIELD)
        if self._verifier is not None and len(tokens) == 1:
            self._verifier.refused(self._verifier.digest(tokens[0]))


class _Fetch(msgspec.Struct, eq=False):
    """One fetch: goes on whenever its exchange has changed, without a task of its own."""

    _by: Fetcher
    _flight: Flight[Fetched]
    _request: Request
    _eligible: Eligible
    found: EarlyLookup
    _stores: bool
    _token: FillToken
    _fetched_s: float = 0.0
    _licence: Licence | None = None
    _exchange: Exchange | None = None

    def prepare(self, tasks: TaskSet, lease_s: float, *, takes_over: bool, not_before_s: float) -> None:
        """Ask Redis first: for a generation, and for another replica's fetch; see `Fetcher.start`."""
        task = tasks.start(self._prepare(lease_s, takes_over=takes_over, not_before_s=not_before_s), "fetch")

        def stop() -> None:
            task.cancel()

        self._flight.stop = stop

    async def _prepare(self, lease_s: float, *, takes_over: bool, not_before_s: float) -> None:
        tiers, token = self._by.tiers, self.found.fill_token
        generation = self.found.lookup.generation or await tiers.mint(token.key)
        leases = self._by.leases
        if leases is None or not lease_s or generation is None:
            self.send(generation)
            return
        flight, ttl_running_s = self._flight, self._by.rules.ttl_running_s

        def on_wait(until_s: float) -> None:
            # Who comes later looks up at once instead of waiting for what is not for him.
            flight.joinable_until_s = until_s if ttl_running_s else float("-inf")

        try:
            taken = await leases.take(
                token,
                self._eligible,
                generation,
                lease_s,
                takes_over=takes_over,
                not_before_s=not_before_s,
                on_wait=on_wait,
            )
        except Exception as error:
            self._failed(error)
            return
        if isinstance(taken, Licence):
            self._licence = taken
            if ttl_running_s:
                flight.joinable_until_s = taken.sent_s + ttl_running_s
            self.send(taken.generation)
        else:
            given = taken.given
            assert given is not None
            if not given.entry.is_settled:
                flight.fetched_s = given.ends_s - given.life_s
            given = msgspec.structs.replace(given, since_s=flight.started_s)
            self._finish(msgspec.structs.replace(taken, given=given))

    def send(self, generation: bytes | None) -> None:
        """Send the request, to store its result under this generation in Redis; ``None``: not there."""
        by, token = self._by, self.found.fill_token
        self._fetched_s = by.clock.wall_s()
        if (licence := self._licence) is not None:
            # It may have taken a while to get it.
            self._fetched_s = licence.wall_s
            token = msgspec.structs.replace(token, wall_s=licence.wall_s, monotonic_s=licence.sent_s)
        self._token = by.tiers.begin_fetch(token, generation)
        fields, fetch_lines, lines = self._request.fields, self._eligible.fetch_lines, None
        if fetch_lines is not None:
            lines = fetch_lines.of(self._request)
        else:
            fields = upstream_fields(self._request, by.proxy, execution_call=True, is_shared=self._stores)
        self._exchange = exchange = by.upstream.begin(
            "GET",
            self._request.target,
            fields,
            None,
            lines,
            lent=self._request.lent,
        )
        exchange.read_ahead_bytes = by.rules.max_body_bytes
        exchange.on_change, exchange.on_whole = self._changed, self._whole
        self._flight.stop = exchange.close

    def _changed(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        reader = exchange.reader
        if exchange.error is not None:
            exchange.close()
            self._publish(None, None)
            self._flight.finish(exchange.error)
        elif reader.is_complete or reader.waiting_bytes > self._by.rules.max_body_bytes:
            self._whole(exchange.take(), is_complete=reader.framing is not _CLOSE)

    def _whole(self, body: bytes, *, is_complete: bool = True) -> None:
        try:
            self._has_come(body, is_complete=is_complete)
        except Exception as error:
            self._fail(error)

    def _has_come(self, body: bytes, *, is_complete: bool) -> None:
        """Take a whole response, or one that is too large to be taken whole."""
        by, eligible, exchange = self._by, self._eligible, self._exchange
        assert exchange is not None
        head = exchange.head
        is_too_large = len(body) > by.rules.max_body_bytes
        if head.status == 429 or eligible.identity.token:
            by.heed(eligible, head, body if is_complete and not is_too_large else None)
        action_id, request = eligible.execution.action_id, eligible.fields
        response = policy.FetchedResponse(
            head, body, is_complete, request, action_id, self._fetched_s, exchange.head_s
        )
        if is_too_large:
            exchange.stream()
            if policy.drops_own_entry(head.status, None, eligible.identity):
                by.tiers.drop(self._token, self.found.lookup, everywhere=True)
            if not self._flight.leader_waits:
                exchange.close()
            self._publish(None, None)
            self._finish(Fetched(eligible, response, None, False, Reason.TOO_LARGE, exchange))
            return
        exchange.close()
        decision = policy.latest_decision(response, by.rules)
        if decision is None:
            if policy.is_heavy(response):
                loop = asyncio.get_running_loop()
                deciding = loop.run_in_executor(by.executor, policy.decide, response, by.rules)
                deciding.add_done_callback(functools.partial(self._decided, response))
                return
            decision = policy.decide(response, by.rules)
        self._settle(response, decision)

    def _decided(
        self, response: policy.FetchedResponse, deciding: asyncio.Future[policy.StoreDecision]
    ) -> None:
        try:
            self._settle(response, deciding.result())
        except Exception as error:
            self._fail(error)

    def _settle(self, response: policy.FetchedResponse, decision: policy.StoreDecision) -> None:
        """Store what may be stored, and answer all who wait."""
        by, token, eligible = self._by, self._token, self._eligible
        if decision.reason is None and decision.is_settled:
            # A write that comes from here on changes the stack, so the record is not stored.
            now_s, invalidations = by.clock.monotonic_s(), by.tiers.invalidations
            settling = invalidations.is_settling(token.key.stack, now_s)
            uncertain = invalidations.is_uncertain(now_s)
            decision = policy.limit(decision, response, by.rules, settling=settling, uncertain=uncertain)
        refusal = decision.reason
        if self._licence is not None:
            self._publish(response, decision)
        by.top_executions.fetched(eligible.execution, decision.record)
        by.running_polls.fetched(self._flight.started_s, token, eligible, decision)
        if refusal is _PHASE or not decision.is_settled:
            # No worker has stored a record as settled that is not.
            by.tiers.drop(token, self.found.lookup, everywhere=False)
        elif refusal is not None:
            by.hints.refused(response, decision)
            if policy.drops_own_entry(response.head.status, decision, eligible.identity):
                by.tiers.drop(token, self.found.lookup, everywhere=True)
        if refusal is None and self._stores:
            age_s = policy.received_age_s(response.head)
            entry = entry_of(response, decision, age_s, eligible.variant.accept)
            refusal = by.tiers.store(token, entry)
        is_stored = self._stores and refusal is None
        self._finish(Fetched(eligible, response, decision, is_stored, refusal))

    def _publish(
        self, response: policy.FetchedResponse | None, decision: policy.StoreDecision | None
    ) -> None:
        if self._by.leases is not None and self._licence is not None:
            accept = self._eligible.variant.accept
            self._by.leases.publish(self._licence, self._token, response, decision, accept)

    def _finish(self, fetched: Fetched) -> None:
        if cache_log.is_on():
            cache_log.fetched(self._request, fetched)
        self._flight.finish(fetched)

    def _fail(self, error: Exception) -> None:
        """Let nobody wait for a result that a fault of ours has prevented."""
        if self._exchange is not None:
            self._exchange.close()
        self._failed(error)

    def _failed(self, error: Exception) -> None:
        _log.error("a fetch failed: %s", type(error).__name__, exc_info=error)
        self._flight.finish(GatewayError())
