"""Callers who ask to wait (RFC 7240 ``wait``): how many, for how long, and what they are answered with."""

import asyncio
from collections.abc import Callable

import msgspec

from gateway.cache.poller import Poller, Polling
from gateway.cache.responder import Responder, aged, preferred, with_member
from gateway.cache.results import Response
from gateway.cache.waiter import Outcome, Waiter
from gateway.config.model import WaitConfig
from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.caching.eligibility import Eligible, identified_anew
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import FlightKey, KeySpace, stack_of
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Request
from gateway.telemetry.metrics import Metrics

OnWaited = Callable[[float], None]
"""Called with how long a caller has waited, seconds."""


class Waits:
    """All who wait for running executions in one process."""

    def __init__(
        self,
        polling: Polling,
        keys: KeySpace,
        responder: Responder,
        metrics: Metrics,
        identity_reader: IdentityReader,
    ) -> None:
        self._polling = polling
        self._clock = polling.fetcher.clock
        self._keys = keys
        self._responder = responder
        self._metrics = metrics
        self._identity_reader = identity_reader
        self._count = 0
        self.pollers: dict[FlightKey, Poller] = {}
        self._by_stack: dict[bytes, set[Poller]] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def applied_s(self, wanted_s: int | None) -> int | None:
        """Return how long a caller may wait, of what was asked for; ``None``: not at all."""
        longest_s = self._polling.config.max_s
        return None if wanted_s is None or not longest_s else min(wanted_s, longest_s)

    def change(self, config: WaitConfig) -> None:
        """Use other bounds from now on, and answer all who wait by the old ones."""
        self._polling.config = config
        self.release()

    async def response(
        self,
        request: Request,
        eligible: Eligible,
        cache_status: CacheStatus,
        variant: bytes,
        wait_s: int,
        *,
        ends_s: float | None = None,
        on_waited: OnWaited,
    ) -> tuple[Response | None, bool]:
        """Wait until there is something to say, or the time is over.

        Args:
            wait_s: for how long.
            ends_s: monotonic time; ``None``: the time begins now.
            on_waited: called when the wait is over, however it ends.

        Returns:
            The response, ``None`` where it is still to be fetched, and whether that was waited for.
        """
        if ends_s is None:
            ends_s = self._clock.monotonic_s() + wait_s
        outcome, has_waited = await self._wait(request, eligible, variant, ends_s, on_waited)
        if outcome is None:
            anew = identified_anew(eligible, self._identity_reader)
            if not has_waited or anew is eligible or self._clock.monotonic_s() >= ends_s:
                return None, has_waited
            return await self.response(
                request, anew, cache_status, variant, wait_s, ends_s=ends_s, on_waited=on_waited
            )
        if has_waited:
            cache_status = msgspec.structs.replace(cache_status, reason=Reason.WAITED)
        if isinstance(outcome, GatewayError):
            raise with_member(outcome, cache_status)
        now_s, steady_s = self._clock.wall_s(), self._clock.monotonic_s()
        responder, exact = self._responder, eligible.variant.exact
        if isinstance(outcome, Entry):
            response = responder.hit(request, eligible, outcome, outcome.now_s(now_s, steady_s))
        elif (unshared := responder.why_not_shared(eligible, outcome)) is not None:
            if unshared is Reason.VARY and variant != exact and has_waited and steady_s < ends_s:
                # It was chosen by another Accept; what is chosen by this one has a place of its own.
                return await self.response(
                    request, eligible, cache_status, exact, wait_s, ends_s=ends_s, on_waited=on_waited
                )
            response = await responder.forward(request, None, cache_status, eligible)
        else:
            if has_waited:
                outcome = msgspec.structs.replace(outcome, reason=Reason.WAITED)
            response = responder.fetched(outcome, eligible, cache_status, collapsed=True)
            if outcome.fetched_response.head.status == 200:
                response = aged(response, int(now_s - outcome.fetched_response.fetched_s))
        return preferred(response, wait_s if has_waited else None), has_waited

    async def _wait(
        self, request: Request, eligible: Eligible, variant: bytes, ends_s: float, on_waited: OnWaited
    ) -> tuple[Outcome, bool]:
        """Wait until there is something to say; return what, and whether that was waited for."""
        caller, execution = eligible.identity.entry, eligible.execution
        key = self._keys.flight(caller, variant, execution)
        poller = self.pollers.get(key)
        oldest_s = eligible.directives.oldest_s(self._polling.config.interval_s)
        arrived_s = self._clock.monotonic_s()
        not_before_s = arrived_s - oldest_s
        if self._is_closed:
            return None, False
        # Pollers too, which keep a record for a moment after the last caller has left.
        most = self._polling.config.max_waiting
        if self._count >= most or (poller is None and len(self.pollers) >= most):
            return (None if poller is None else poller.since(not_before_s)), False
        if poller is None:
            entry_key = self._keys.entry(caller, variant, execution)
            self.pollers[key] = poller = Poller(self._polling, key, entry_key, self._idle)
            self._by_stack.setdefault(entry_key.stack, set()).add(poller)
        waiter = Waiter(request, eligible, not_before_s)
        timer = asyncio.get_running_loop().call_later(ends_s - arrived_s, poller.time_over, waiter)
        self._count += 1
        end = "left"
        try:
            poller.add(waiter)
            outcome = await waiter.outcome
            end = "timed_out" if waiter.wave is None else "woken"
        finally:
            self._metrics.waits[end] += 1
            on_waited(self._clock.monotonic_s() - arrived_s)
            timer.cancel()
            self._count -= 1
            poller.waiters.pop(waiter, None)
        if waiter.wave is not None:
            waiter.wave.waiting -= 1
            if not waiter.wave.waiting:
                self._metrics.wake_s.observe(self._clock.monotonic_s() - waiter.wave.began_s)
        return outcome, True

    def invalidate(self, stack: bytes) -> None:
        """Give nobody who comes from now on what was fetched of a stack until now."""
        for poller in self._by_stack.get(stack, ()):
            poller.invalidate()

    def invalidate_all(self) -> None:
        """Give nobody who comes from now on what was fetched until now."""
        for poller in self.pollers.values():
            poller.invalidate()

    def drop(self, entry: bytes) -> None:
        """Give nobody who comes from now on what was fetched of an entry until now, by `EntryKey.local`."""
        for poller in self._by_stack.get(stack_of(entry), ()):
            if poller.entry_key.local == entry:
                poller.drop()

    def identify_anew(self, tokens: set[bytes]) -> None:
        """Let callers whose user is another one now wait with that user, by the digests of their tokens."""
        for poller in list(self.pollers.values()):
            for waiter in list(poller.waiters):
                eligible = waiter.eligible
                if (
                    eligible.identity.token in tokens
                    and identified_anew(eligible, self._identity_reader) is not eligible
                ):
                    poller.dismiss(waiter)

    def release(self) -> None:
        """Answer all who wait with the newest record."""
        for poller in list(self.pollers.values()):
            for waiter in list(poller.waiters):
                poller.time_over(waiter)

    def close(self) -> None:
        """Let nobody wait any more."""
        self._is_closed = True
        self.release()

    def _idle(self, poller: Poller) -> None:
        """Forget a poller for whom nobody has waited for a while."""
        del self.pollers[poller.key]
        of_stack = self._by_stack[poller.entry_key.stack]
        of_stack.discard(poller)
        if not of_stack:
            del self._by_stack[poller.entry_key.stack]
