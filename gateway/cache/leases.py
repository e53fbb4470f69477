"""One fetch per interval among all replicas: leads it, or waits for what another replica fetches."""

import asyncio
import contextlib
import functools
import math
import statistics
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import assert_never

import msgspec

from gateway.cache.results import Fetched, Given
from gateway.clock import Clock
from gateway.core.caching import policy
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.entry import Entry
from gateway.core.caching.lease import LeaseLookup, Step
from gateway.core.caching.responses import entry_of
from gateway.store.lookup import FillToken
from gateway.store.redis_errors import StoreError
from gateway.store.redis_leases import RedisLeases
from gateway.store.tiers import Tiers
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics

_LOOK_AGAIN_S = 0.1
_SHORTEST_S = 0.005
# All who wait look at such moments, in one round trip.
_BEAT_S = 0.01
_FETCHES = 15


class Licence(msgspec.Struct, frozen=True):
    """The right to fetch, and what has to be published under it.

    Attributes:
        generation: of the stack, from before the fetch.
        nonce: under which the result is published; empty: the fetch is for this replica alone.
        sent_s: monotonic time from which the age of what is fetched counts.
        wall_s: wall clock at the same moment.
    """

    generation: bytes | None
    nonce: bytes
    life_s: float
    sent_s: float
    wall_s: float


class Leases:
    """The leases of one gateway: taken for each fetch of a record that may change.

    Args:
        redis: where they are.
        longest_s: nobody waits longer for what others fetch, whatever is in Redis.
        executor: threads for what would hold up the event loop.
    """

    def __init__(
        self,
        redis: RedisLeases,
        tiers: Tiers,
        rules: policy.Rules,
        *,
        longest_s: float,
        clock: Clock,
        executor: Executor,
        metrics: Metrics,
    ) -> None:
        self._redis = redis
        self._tiers = tiers
        self._rules = rules
        self._longest_s = longest_s
        self._clock = clock
        self._executor = executor
        self._metrics = metrics
        self._tasks = TaskSet()
        self._took_s: deque[float] = deque(maxlen=_FETCHES)

    async def take(
        self,
        token: FillToken,
        eligible: Eligible,
        generation: bytes,
        life_s: float,
        *,
        takes_over: bool,
        not_before_s: float,
        on_wait: Callable[[float], None],
    ) -> Licence | Fetched:
        """Return the right to fetch, or what another replica has fetched.

        Args:
            token: taken before the look-up that gave the generation.
            life_s: of the lease: how old an answer may be.
            takes_over: what others have fetched until now will not do.
            not_before_s: nor what they began to fetch before this monotonic time.
            on_wait: called with the monotonic time until which a request may arrive to be given what is
                waited for.
        """
        lookup = self._redis.lookup(token.key, generation, life_s, eligible.variant.accept, not_before_s)
        first = Step.TAKE_OVER if takes_over else Step.CLAIM
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(self._longest_s):
                taken = await self._take(lookup, token, eligible, first, on_wait)
            if taken is not None:
                return taken
        return self._licence(lookup, is_alone=True)

    async def _take(
        self,
        lookup: LeaseLookup,
        token: FillToken,
        eligible: Eligible,
        step: Step,
        on_wait: Callable[[float], None],
    ) -> Licence | Fetched | None:
        """Go from step to step; ``None``: fetch alone."""
        has_waited = False
        while not self._tiers.invalidations.is_void(token):
            if step is Step.TAKE_OVER:
                licence = self._licence(lookup)
                await self._redis.take_over(lookup)
                self._metrics.leases["led"] += 1
                return msgspec.structs.replace(licence, nonce=lookup.nonce)
            licence = self._licence(lookup)
            if step is Step.CLAIM:
                reply = await self._redis.claim(lookup)
            else:
                reply = await self._redis.look(lookup)
            if self._tiers.invalidations.is_void(token):
                return None
            former, step = step, lookup.next_step(reply)
            match step:
                case Step.LEAD:
                    self._metrics.leases["led"] += 1
                    return msgspec.structs.replace(licence, nonce=lookup.nonce)
                case Step.HIT:
                    assert reply.entry is not None
                    entry = self._tiers.take_in(token, reply.entry, reply.wall_s, reply.sent_s)
                    return await self._given(token, eligible, entry, float("inf"), lookup.life_s)
                case Step.ANSWER:
                    assert lookup.entry is not None
                    entry = lookup.entry.taken_in(reply.wall_s, reply.sent_s)
                    given = await self._given(token, eligible, entry, lookup.ends_s, lookup.life_s)
                    self._metrics.leases["void" if given is None else "followed"] += 1
                    return given
                case Step.ALONE:
                    self._metrics.leases["void"] += 1
                    return None
                case Step.AGAIN:
                    generation = reply.generation or await self._tiers.mint(token.key)
                    if generation is None:
                        return None
                    lookup.use(generation)
                    step = Step.CLAIM
                case Step.WAIT | Step.CLAIM:
                    if step is Step.WAIT or former is Step.CLAIM:
                        pause_s = _LOOK_AGAIN_S
                        if not has_waited:
                            has_waited = True
                            self._metrics.leases["waited"] += 1
                            # As long as a fetch usually takes, but no longer than the lease of one who died.
                            left_s = lookup.latest_s - self._clock.monotonic_s()
                            pause_s = min(self._usual_s(), left_s)
                        on_wait(lookup.latest_s)
                        await _sleep(max(_SHORTEST_S, pause_s))
                case Step.TAKE_OVER:
                    pass
                case _:
                    assert_never(step)
        return None

    async def _given(
        self, token: FillToken, eligible: Eligible, entry: Entry, ends_s: float, life_s: float
    ) -> Fetched | None:
        """Return what another replica has fetched as a result; ``None`` if it is not for others."""
        head = entry.head()
        if entry.upstream_age_s:
            fields = (*head.fields, (b"Age", b"%d" % entry.upstream_age_s))
            head = msgspec.structs.replace(head, fields=fields)
        response = policy.FetchedResponse(
            head=head,
            body=entry.body,
            complete=True,
            request=eligible.fields,
            action_id=eligible.execution.action_id,
            fetched_s=entry.fetched_s,
        )
        decide = functools.partial(
            policy.decide_store, response, self._rules, settling=False, uncertain=False
        )
        if policy.is_heavy(response):
            decision = await asyncio.get_running_loop().run_in_executor(self._executor, decide)
        else:
            decision = decide()
        if not policy.may_be_given(decision):
            return None
        if not entry.is_settled:
            # The origin may allow less.
            cut_s = life_s - min(life_s, self._ttl_s(decision, life_s))
            entry = msgspec.structs.replace(entry, expires_s=entry.expires_s - cut_s)
            ends_s -= cut_s
            if self._rules.ttl_running_s:
                self._tiers.keep_until(token, entry, ends_s)
        return Fetched(
            eligible, response, decision, False, decision.reason, given=Given(entry, ends_s, life_s)
        )

    def publish(
        self,
        licence: Licence,
        token: FillToken,
        response: policy.FetchedResponse | None,
        decision: policy.StoreDecision | None,
        accept: bytes,
    ) -> None:
        """Publish what was fetched, unless the stack was invalidated here; errors are not shared."""
        now_s = self._clock.wall_s()
        self._took_s.append(self._clock.monotonic_s() - licence.sent_s)
        if not licence.nonce or licence.generation is None or self._tiers.invalidations.is_void(token):
            return
        entry = None
        if (
            response is not None
            and decision is not None
            and policy.may_be_given(decision)
            and self._ttl_s(decision, licence.life_s) > 0
        ):
            entry = entry_of(response, decision, policy.received_age_s(response.head), accept)
            entry = msgspec.structs.replace(entry, expires_s=now_s + 2 * licence.life_s)
        self._tasks.start(self._publish(licence, token, entry), "lease-publish")

    async def _publish(self, licence: Licence, token: FillToken, entry: Entry | None) -> None:
        assert licence.generation is not None
        with contextlib.suppress(StoreError):
            await self._redis.publish(token, licence.generation, licence.life_s, licence.nonce, entry)

    async def close(self) -> None:
        """Stop what is still under way."""
        await self._tasks.cancel()

    def _licence(self, lookup: LeaseLookup, *, is_alone: bool = False) -> Licence:
        nonce = b"" if is_alone else lookup.nonce
        return Licence(
            lookup.generation, nonce, lookup.life_s, self._clock.monotonic_s(), self._clock.wall_s()
        )

    def _usual_s(self) -> float:
        """Return how long a fetch takes here as a rule."""
        return statistics.median(self._took_s) if self._took_s else _LOOK_AGAIN_S

    def _ttl_s(self, decision: policy.StoreDecision, life_s: float) -> float:
        return decision.ttl_s or policy.running_ttl_s(decision, life_s)


async def _sleep(at_least_s: float) -> None:
    now_s = asyncio.get_running_loop().time()
    await asyncio.sleep(math.ceil((now_s + at_least_s) / _BEAT_S) * _BEAT_S - now_s)
