"""Callers who ask to wait (RFC 7240 ``wait``): one poller for all who wait for the same record."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
from collections.abc import Callable

import msgspec

from gateway.cache.fetcher import Fetcher
from gateway.cache.results import Fetched
from gateway.cache.single_flight import Flight, SingleFlight
from gateway.cache.throttle import Throttle
from gateway.config.model import WaitConfig
from gateway.core.caching import policy
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.entry import Entry
from gateway.core.caching.key import EntryKey, FlightKey
from gateway.core.caching.request_directives import is_not_modified
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import IndexedFields, Request, first, names
from gateway.store.lookup import EarlyLookup, LookupResult
from gateway.telemetry.metrics import Metrics

_GROWTH = 1.5
_JITTER = 0.1
# Of larger records the first look is always a fetch.
_LARGEST_KEPT_BYTES = 65_536
_MOST_TRIED = 100
# A caller who is held back for longer than this is looked at again.
_LONGEST_HOLD_S = 60.0

Outcome = Fetched | Entry | GatewayError | None
"""What a wait ends with: a fetch, a settled entry, why there is none; ``None``: answer as without waiting."""

OnWaited = Callable[[float], None]
"""Called with how long a caller has waited, seconds."""


class Wave:
    """The callers whom one fetch wakes.

    Attributes:
        began_s: monotonic time of the end of that fetch.
        waiting: how many of them are not answered yet.
    """

    __slots__ = ("began_s", "waiting")

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.waiting = 0


class Waiter:
    """One caller who waits.

    Attributes:
        request: the request.
        eligible: what `eligibility` makes of it.
        arrived_s: monotonic time.
        context: of its task; what is fetched on its behalf belongs to its span.
        outcome: resolved once, when the wait ends.
        seen: the newest record seen during the wait; ``None`` before the first.
        refused: the last response that was none; ``None`` before the first.
        is_over: its time is over, so the next response is its answer.
        wave: whom the same fetch has woken; ``None`` when its time was over.
    """

    __slots__ = (
        "arrived_s",
        "context",
        "eligible",
        "is_over",
        "outcome",
        "refused",
        "request",
        "seen",
        "wave",
    )

    def __init__(self, request: Request, eligible: Eligible, arrived_s: float) -> None:
        self.request = request
        self.eligible = eligible
        self.arrived_s = arrived_s
        self.context = contextvars.copy_context()
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.seen: Fetched | None = None
        self.refused: Fetched | GatewayError | None = None
        self.is_over = False
        self.wave: Wave | None = None

    def has(self, fetched: Fetched) -> bool:
        """Whether it named this record, or none at all."""
        fields = self.eligible.fields
        if b"if-none-match" not in names(fields):
            return True
        response, decision = fetched.fetched_response, fetched.decision
        etag = None if decision is None else decision.etag
        modified = first(response.head.fields, b"last-modified")
        return is_not_modified(fields, etag, modified, response.fetched_s)


class Waits:
    """All who wait for running executions in one process.

    Args:
        config: bounds and intervals.
        flights: the shared fetches.
        fetcher: does their work.
        throttle: callers whom AOS asked to wait.
        fresh_id: names a request of a poller.
        metrics: counts how waits end.
    """

    def __init__(
        self,
        config: WaitConfig,
        *,
        flights: SingleFlight[Fetched],
        fetcher: Fetcher,
        throttle: Throttle,
        fresh_id: Callable[[], bytes],
        metrics: Metrics,
    ) -> None:
        self.config = config
        self.flights = flights
        self.fetcher = fetcher
        self.throttle = throttle
        self.fresh_id = fresh_id
        self.metrics = metrics
        self.count = 0
        self.pollers: dict[FlightKey, Poller] = {}
        self._by_stack: dict[bytes, set[Poller]] = {}
        self._by_entry: dict[bytes, Poller] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return self.count

    def applied_s(self, wanted_s: int | None) -> int | None:
        """Return how long a caller may wait, of what was asked for; ``None``: not at all."""
        if wanted_s is None or not self.config.max_s:
            return None
        return min(wanted_s, self.config.max_s)

    async def wait(
        self,
        request: Request,
        eligible: Eligible,
        key: FlightKey,
        entry_key: EntryKey,
        *,
        wait_s: float,
        is_fresh: bool,
        on_waited: OnWaited,
    ) -> tuple[Outcome, bool]:
        """Wait until there is something to say.

        Args:
            request: the request.
            eligible: what `eligibility` makes of it.
            key: of the fetches that it may share.
            entry_key: of the record.
            wait_s: for how long.
            is_fresh: the first record must be fetched from now on.
            on_waited: called when the wait is over, however it ends.

        Returns:
            What to answer with, and whether that was waited for.
        """
        poller = self.pollers.get(key)
        now_s = self.fetcher.clock.monotonic_s()
        if self._is_closed or self.count >= self.config.max_waiting:
            return (None if poller is None or is_fresh else poller.fresh_enough(now_s)), False
        if poller is None:
            poller = Poller(self, key, entry_key)
            self.pollers[key] = poller
            self._by_stack.setdefault(entry_key.stack, set()).add(poller)
            self._by_entry[entry_key.local] = poller
        waiter = Waiter(request, eligible, now_s)
        timer = asyncio.get_running_loop().call_later(wait_s, poller.time_over, waiter)
        self.count += 1
        end = "left"
        try:
            poller.add(waiter, is_fresh=is_fresh)
            outcome = await waiter.outcome
            end = "timed_out" if waiter.wave is None else "woken"
        finally:
            self.metrics.waits[end] += 1
            on_waited(self.fetcher.clock.monotonic_s() - waiter.arrived_s)
            timer.cancel()
            self.count -= 1
            poller.waiters.pop(waiter, None)
        if waiter.wave is not None:
            waiter.wave.waiting -= 1
            if not waiter.wave.waiting:
                took_s = self.fetcher.clock.monotonic_s() - waiter.wave.began_s
                self.metrics.wake_s.observe(took_s)
        return outcome, outcome is not None

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
        if (poller := self._by_entry.get(entry)) is not None:
            poller.invalidate()

    def release(self) -> None:
        """Answer all who wait with the newest record."""
        for poller in list(self.pollers.values()):
            for waiter in list(poller.waiters):
                poller.time_over(waiter)

    def close(self) -> None:
        """Let nobody wait any more."""
        self._is_closed = True
        self.release()

    def dropped(self, poller: Poller) -> None:
        """Forget a poller for whom nobody has waited for a while."""
        del self.pollers[poller.key], self.flights.watchers[poller.key]
        self._by_entry.pop(poller.entry_key.local, None)
        of_stack = self._by_stack[poller.entry_key.stack]
        of_stack.discard(poller)
        if not of_stack:
            del self._by_stack[poller.entry_key.stack]


class Poller:
    """Fetches one record again and again while anybody waits for it.

    Attributes:
        key: of its fetches.
        entry_key: of the record.
        waiters: those who wait, longest first.
        latest: the newest record; ``None`` before the first and after a write.
    """

    def __init__(self, waits: Waits, key: FlightKey, entry_key: EntryKey) -> None:
        self.key = key
        self.entry_key = entry_key
        self.waiters: dict[Waiter, None] = {}
        self.latest: Fetched | None = None
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        # Monotonic time at which the fetch of the latest record began, and the last fetch of all.
        self._latest_began_s = self._began_s = float("-inf")
        # What was fetched before is not for those who come later.
        self._invalidated_s = float("-inf")
        self._interval_s = waits.config.interval_s
        self._is_fetching = False
        self._timer: asyncio.TimerHandle | None = None
        waits.flights.watchers[key] = self._finished

    def add(self, waiter: Waiter, *, is_fresh: bool) -> None:
        """Let a caller wait; he may be answered before this returns."""
        self.waiters[waiter] = None
        self._interval_s = self._waits.config.interval_s
        latest = None if is_fresh else self.fresh_enough(waiter.arrived_s)
        if latest is not None:
            self._offer(waiter, latest, Wave(waiter.arrived_s))
            self._schedule()
        else:
            oldest_s = waiter.arrived_s - (0.0 if is_fresh else self._interval_s)
            self._fetch(not_before_s=max(oldest_s, self._invalidated_s))

    def fresh_enough(self, arrived_s: float) -> Fetched | None:
        """Return the newest record if a caller who arrived then may be given it."""
        is_fresh = self._latest_began_s >= arrived_s - self._waits.config.interval_s
        return self.latest if is_fresh else None

    def time_over(self, waiter: Waiter) -> None:
        """Answer a caller whose time is over, at the latest with what is under way."""
        known = waiter.seen or waiter.refused
        if known is not None or not self._is_fetching:
            self._answer(waiter, known)
        else:
            waiter.is_over = True

    def invalidate(self) -> None:
        """Give nobody who comes from now on what was fetched until now."""
        self.latest = None
        self._invalidated_s = self._waits.fetcher.clock.monotonic_s()

    def _schedule(self, after_s: float = 0.0) -> None:
        """Fetch when the interval is over, if anybody waits; else end when nobody has come back by then."""
        if self._timer is not None:
            self._timer.cancel()
        pause_s = self._began_s + self._interval_s - self._waits.fetcher.clock.monotonic_s()
        pause_s = max(after_s, pause_s, 0.0) * (1.0 + _JITTER * random.random())
        self._timer = self._loop.call_later(pause_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if not self.waiters and not self._is_fetching:
            self._waits.dropped(self)
        elif not self._is_fetching:
            self._fetch(not_before_s=self._waits.fetcher.clock.monotonic_s())

    def _fetch(self, not_before_s: float) -> None:
        """Fetch on behalf of who has waited longest, unless a fetch that began late enough is under way."""
        flight = self._waits.flights.joinable(self.key)
        if self._is_fetching and self._began_s >= not_before_s:
            return
        if flight is not None and flight.started_s >= not_before_s:
            self._is_fetching, self._began_s = True, flight.started_s
            return
        # Where callers share a poller, one of them may be throttled and the next one not.
        held_s = _LONGEST_HOLD_S
        for waiter in itertools.islice(self.waiters, _MOST_TRIED):
            this_held_s = self._waits.throttle.wait_s(waiter.eligible.identity.flight)
            if this_held_s is None:
                break
            held_s = min(held_s, this_held_s)
        else:
            self._schedule(held_s)
            return
        self._is_fetching, self._began_s = True, self._waits.fetcher.clock.monotonic_s()
        self._waits.fetcher.tiers.lookup_soon(self.entry_key, lambda found: self._send(waiter, found))

    def _send(self, waiter: Waiter, found: EarlyLookup | None) -> None:
        tiers = self._waits.fetcher.tiers
        if found is None:
            found = EarlyLookup(tiers.fill_token(self.entry_key), LookupResult(None))
        entry = found.lookup.entry or tiers.peek(self.entry_key)
        if entry is not None and entry.is_settled:
            self._is_fetching = False
            wave = Wave(self._waits.fetcher.clock.monotonic_s())
            for each in list(self.waiters):
                self._answer(each, entry, wave)
            self._schedule()
            return
        request = msgspec.structs.replace(waiter.request, request_id=self._waits.fresh_id())
        flight = self._waits.flights.begin(self.key, self.entry_key.stack, _let_go)
        waiter.context.run(self._waits.fetcher.start, flight, request, waiter.eligible, found)

    def _finished(self, flight: Flight[Fetched], result: Fetched | GatewayError) -> None:
        """Take the result of any fetch of the record."""
        if isinstance(result, Fetched):
            # What is kept of it may outlive the request that was sent.
            result = _without_credentials(result, self._waits.fetcher.rules.identity_headers)
        now_s = self._waits.fetcher.clock.monotonic_s()
        self._began_s = max(self._began_s, flight.started_s)
        if flight.started_s >= self._began_s:
            self._is_fetching = False
        is_record = not isinstance(result, GatewayError) and result.fetched_response.head.status == 200
        if _is_final(result):
            self.latest = None
        elif isinstance(result, Fetched) and is_record and flight.started_s >= self._invalidated_s:
            self._keep(result, flight.started_s)
        wave = Wave(now_s)
        is_others = False
        for waiter in list(self.waiters):
            if flight.started_s < self._invalidated_s <= waiter.arrived_s:
                continue
            if not is_record and isinstance(result, Fetched) and not _is_for(result, waiter):
                # What another was refused is not for this one.
                is_others = True
            else:
                self._offer(waiter, result, wave)
        if self._is_fetching:
            return
        if is_others and _is_final(result):
            self._fetch(not_before_s=now_s)
        else:
            self._schedule()

    def _keep(self, fetched: Fetched, began_s: float) -> None:
        if began_s < self._latest_began_s:
            return
        known, new = self.latest, fetched.decision
        has_changed = (
            known is None or known.decision is None or new is None or known.decision.etag != new.etag
        )
        config = self._waits.config
        longer_s = min(self._interval_s * _GROWTH, max(config.max_interval_s, config.interval_s))
        self._interval_s = config.interval_s if has_changed else longer_s
        may_be_kept = new is not None and policy.may_be_given(new)
        is_small = len(fetched.fetched_response.body) <= _LARGEST_KEPT_BYTES
        self.latest = fetched if may_be_kept and is_small else None
        self._latest_began_s = began_s

    def _offer(self, waiter: Waiter, result: Fetched | GatewayError, wave: Wave) -> None:
        """Answer a waiter with a result if it ends the wait."""
        is_first = waiter.seen is None
        if isinstance(result, Fetched) and result.fetched_response.head.status == 200:
            waiter.seen = result
            ends = self._has_ended(result) or not waiter.has(result)
        else:
            waiter.refused = result
            ends = _is_final(result) or (is_first and not _is_throttled(result))
        if ends or waiter.is_over:
            self._answer(waiter, result, wave if ends else None)

    def _has_ended(self, fetched: Fetched) -> bool:
        """Whether there is nothing to wait for: the execution has ended, or this is no record."""
        decision = fetched.decision
        if decision is None or not decision.is_record:
            return True
        return decision.phase in self._waits.fetcher.rules.terminal_phases

    def _answer(self, waiter: Waiter, outcome: Outcome, wave: Wave | None = None) -> None:
        self.waiters.pop(waiter, None)
        if waiter.outcome.done():
            return
        if wave is not None:
            wave.waiting += 1
            waiter.wave = wave
        waiter.outcome.set_result(outcome)


def _without_credentials(fetched: Fetched, names: frozenset[bytes]) -> Fetched:
    response, eligible = fetched.fetched_response, fetched.eligible
    fields = IndexedFields(eligible.fields).without(names)
    return msgspec.structs.replace(
        fetched,
        fetched_response=msgspec.structs.replace(response, request=fields),
        eligible=msgspec.structs.replace(eligible, fields=fields, fetch_lines=None),
    )


def _is_for(result: Fetched, waiter: Waiter) -> bool:
    return result.eligible.identity.flight == waiter.eligible.identity.flight


def _is_throttled(result: Fetched | GatewayError) -> bool:
    return isinstance(result, Fetched) and result.fetched_response.head.status == 429


def _is_final(result: Fetched | GatewayError) -> bool:
    """Whether a response that is no record ends a wait also after a record: all but 429 and 5xx do."""
    if isinstance(result, GatewayError):
        return False
    status = result.fetched_response.head.status
    return status < 500 and status not in (200, 429)


def _let_go(result: Fetched | GatewayError) -> None:
    """Leave a body that is too large: whoever waits fetches it for himself."""
    if isinstance(result, Fetched) and result.exchange is not None:
        result.exchange.close()
