"""One poller for all who wait for the same record: fetches it until there is news for each of them."""

import asyncio
import functools
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from gateway.cache.fetcher import Fetcher
from gateway.cache.results import Fetched
from gateway.cache.single_flight import Flight, SingleFlight
from gateway.cache.throttle import Throttle
from gateway.cache.waiter import Outcome, Waiter, Wave
from gateway.config.model import WaitConfig
from gateway.core.caching import policy
from gateway.core.caching.key import EntryKey, FlightKey
from gateway.core.caching.retry_after import retry_after_s
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import IndexedFields
from gateway.store.lookup import EarlyLookup, LookupResult

_GROWTH = 1.5
_JITTER = 0.1
# Larger responses are kept neither for who comes later nor for the end of a wait.
_LARGEST_KEPT_BYTES = 65_536
# While everybody is held back, whether somebody is not any more is looked at again after this at the latest.
_LONGEST_HOLD_S = 5.0
_LONGEST_RETRY_AFTER_S = 60.0
_MOST_TRIED = 100
_REQUEST_ID = frozenset({b"x-request-id"})


@dataclass(repr=False)
class Polling:
    """What all pollers of a process work with.

    Attributes:
        throttle: callers whom AOS asked to wait.
        fresh_id: names a request of a poller.
    """

    config: WaitConfig
    flights: SingleFlight[Fetched]
    fetcher: Fetcher
    throttle: Throttle
    fresh_id: Callable[[], bytes]


class Poller:
    """Fetches one record again and again while anybody waits for it.

    Attributes:
        waiters: those who wait, longest first.
        latest: the newest record; ``None`` before the first and after a write.
    """

    def __init__(
        self, polling: Polling, key: FlightKey, entry_key: EntryKey, on_idle: "Callable[[Poller], None]"
    ) -> None:
        self.key = key
        self.entry_key = entry_key
        self.waiters: dict[Waiter, None] = {}
        self.latest: Fetched | None = None
        self._polling = polling
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        # Monotonic time at which the fetch of the latest record began, and the last fetch of all.
        self._latest_began_s = self._began_s = float("-inf")
        # Of the newest record, also where that is not kept.
        self._etag: bytes | None = None
        # What was fetched before is not for those who come later.
        self._dropped_s = float("-inf")
        # AOS, out of order, wants to hear nothing until then.
        self._resumes_s = float("-inf")
        self._interval_s = polling.config.interval_s
        self._is_fetching = False
        # What another replica began to fetch before will not do.
        self._not_before_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        polling.flights.watchers[entry_key.local] = self._finished

    def add(self, waiter: Waiter) -> None:
        """Let a caller wait; he may be answered before this returns."""
        self.waiters[waiter] = None
        self._interval_s = self._polling.config.interval_s
        is_due = self._began_s < waiter.not_before_s
        waiter.not_before_s = max(waiter.not_before_s, self._dropped_s)
        latest = self.since(waiter.not_before_s)
        if latest is not None:
            self._offer(waiter, latest, Wave(self._polling.fetcher.clock.monotonic_s()))
        if is_due and latest is None:
            self._fetch([waiter], waiter.not_before_s)
        else:
            self._schedule()

    def since(self, not_before_s: float) -> Fetched | None:
        """Return the newest record if its fetch did not begin before a monotonic time."""
        return self.latest if self._latest_began_s >= not_before_s else None

    def time_over(self, waiter: Waiter) -> None:
        """Answer a caller whose time is over, at the latest with what is under way."""
        known = waiter.seen or waiter.refused
        if known is not None or not self._is_fetching:
            self._answer(waiter, known)
        else:
            waiter.is_over = True

    def dismiss(self, waiter: Waiter) -> None:
        """Let a caller look up anew."""
        self._answer(waiter, None)

    def invalidate(self) -> None:
        """Give nobody who comes from now on what was fetched until now, and fetch for him at once."""
        self.drop()
        self._began_s = float("-inf")

    def drop(self) -> None:
        """Give nobody who comes from now on what was fetched until now."""
        self.latest = None
        self._dropped_s = self._polling.fetcher.clock.monotonic_s()

    def _schedule(self, after_s: float = 0.0) -> None:
        """Fetch when the interval is over, if anybody waits; else end when nobody has come back by then."""
        if self._timer is not None:
            self._timer.cancel()
        due_s = max(self._began_s + self._interval_s, self._resumes_s)
        pause_s = max(after_s, due_s - self._polling.fetcher.clock.monotonic_s())
        self._timer = self._loop.call_later(pause_s * (1.0 + _JITTER * random.random()), self._due)

    def _due(self) -> None:
        self._timer = None
        if self._is_fetching:
            return
        if self.waiters:
            # The jitter may be none: what was fetched when the interval began is known already.
            newest_s = self._polling.fetcher.clock.monotonic_s() - self._interval_s * (1.0 - _JITTER)
            self._fetch(self.waiters, newest_s)
        else:
            del self._polling.flights.watchers[self.entry_key.local]
            self._on_idle(self)

    def _fetch(self, senders: Iterable[Waiter], not_before_s: float) -> None:
        """Fetch on behalf of the first who is not held back, unless that is done already.

        Args:
            senders: some who wait.
            not_before_s: a fetch under way that began then or later will do.
        """
        if (self._is_fetching and self._began_s >= not_before_s) or self._joins(not_before_s):
            return
        sender, held_s = self._free(senders)
        if sender is not None:
            self._is_fetching, self._began_s = True, self._polling.fetcher.clock.monotonic_s()
            self._not_before_s = not_before_s
            self._polling.fetcher.tiers.lookup_soon(self.entry_key, self._send)
        elif self._timer is None:
            self._schedule(held_s)

    def _joins(self, not_before_s: float) -> bool:
        """Wait for a fetch that somebody else has begun then or later, if there is one."""
        flight = self._polling.flights.joinable(self.key)
        if flight is None or flight.started_s < not_before_s:
            return False
        self._is_fetching, self._began_s = True, flight.started_s
        return True

    def _free(self, senders: Iterable[Waiter]) -> tuple[Waiter | None, float]:
        """Return the first who is not held back, or how long until one of them may not be any more."""
        shortest_s = _LONGEST_HOLD_S
        for waiter in itertools.islice(senders, _MOST_TRIED):
            held_s = self._polling.throttle.wait_s(waiter.eligible.identity.user)
            if held_s is None:
                return waiter, 0.0
            shortest_s = min(shortest_s, held_s)
        return None, shortest_s

    def _send(self, found: EarlyLookup | None) -> None:
        """Send the request of who has waited longest, unless what a look-up gave answers everybody."""
        tiers, clock = self._polling.fetcher.tiers, self._polling.fetcher.clock
        if not self._is_fetching or self._joins(self._began_s):
            # Another's fetch was quicker than the look-up.
            return
        if found is None:
            found = EarlyLookup(tiers.fill_token(self.entry_key), LookupResult(None))
        entry = found.lookup.entry or tiers.peek(self.entry_key)
        if entry is not None and entry.is_settled:
            wave, now_s = Wave(clock.monotonic_s()), entry.now_s(clock.wall_s(), clock.monotonic_s())
            for each in list(self.waiters):
                if each.may_have(entry, now_s):
                    self._answer(each, entry, wave)
        sender, held_s = self._free(self.waiters)
        if sender is None:
            self._is_fetching = False
            self._end_late()
            self._schedule(held_s if self.waiters else 0.0)
            return
        fields = IndexedFields(sender.request.fields).without(_REQUEST_ID)
        request = msgspec.structs.replace(sender.request, fields=fields, request_id=self._polling.fresh_id())
        flight = self._polling.flights.begin(self.key, self.entry_key.stack, _let_go, self.entry_key.local)
        self._began_s = flight.started_s
        # What its request says of copies binds the first look alone.
        is_first = not sender.has_seen and sender.refused is None
        start = functools.partial(
            self._polling.fetcher.start,
            life_s=self._polling.config.interval_s,
            takes_over=is_first and sender.eligible.directives.no_cache,
            not_before_s=self._not_before_s,
        )
        sender.context.run(start, flight, request, sender.eligible, found)

    def _finished(self, flight: Flight[Fetched], result: Fetched | GatewayError) -> None:
        """Take the result of any fetch of the record."""
        if isinstance(result, Fetched):
            # What is kept of it may outlive the request that was sent.
            result = _without_credentials(result, self._polling.fetcher.rules.identity_headers)
        if flight.started_s >= self._began_s:
            self._is_fetching, self._began_s = False, flight.started_s
            self._resumes_s = self._polling.fetcher.clock.monotonic_s() + self._retry_after_s(result)
        fetched_s = flight.fetched_s
        if fetched_s >= max(self._dropped_s, self._latest_began_s):
            self._keep(result, fetched_s)
        wave = Wave(self._polling.fetcher.clock.monotonic_s())
        takers = [waiter for waiter in self.waiters if fetched_s >= waiter.not_before_s]
        is_others = not _is_for_all(result) and not all(_is_for(result, waiter) for waiter in takers)
        for waiter in takers:
            if is_others and not _is_for(result, waiter):
                continue
            # What began before is not news.
            waiter.not_before_s = fetched_s
            self._offer(waiter, result, wave)
            if is_others and waiter in self.waiters:
                # The next fetch is another's.
                self.waiters[waiter] = self.waiters.pop(waiter)
        if self._is_fetching:
            return
        self._end_late()
        if is_others and _is_final(result) and self.waiters:
            self._fetch(self.waiters, self._polling.fetcher.clock.monotonic_s())
        else:
            self._schedule()

    def _end_late(self) -> None:
        """Answer those whose time is over: what they have waited for was not for them."""
        for waiter in [waiter for waiter in self.waiters if waiter.is_over]:
            self._answer(waiter, waiter.seen or waiter.refused)

    def _retry_after_s(self, result: Fetched | GatewayError) -> float:
        if isinstance(result, GatewayError) or result.fetched_response.head.status < 500:
            # A 429 holds back its caller alone.
            return 0.0
        fields = result.fetched_response.head.fields
        wait_s = retry_after_s(fields, self._polling.fetcher.clock.wall_s())
        return min(wait_s or 0.0, _LONGEST_RETRY_AFTER_S)

    def _keep(self, result: Fetched | GatewayError, began_s: float) -> None:
        """Keep a record for those who come later; what is none ends the one before, or changes nothing."""
        if _is_final(result) and not _ends_token_alone(result):
            self.latest, self._latest_began_s = None, began_s
        if isinstance(result, GatewayError) or result.fetched_response.head.status != 200:
            return
        known, self._etag = self._etag, None if result.decision is None else result.decision.etag
        has_changed = self._etag is None or self._etag != known
        config = self._polling.config
        longer_s = min(self._interval_s * _GROWTH, max(config.max_interval_s, config.interval_s))
        self._interval_s = config.interval_s if has_changed else longer_s
        self.latest = result if _is_for_all(result) and _is_small(result) else None
        self._latest_began_s = began_s

    def _offer(self, waiter: Waiter, result: Fetched | GatewayError, wave: Wave) -> None:
        """Answer a waiter with a result if it ends the wait."""
        if isinstance(result, Fetched) and result.fetched_response.head.status == 200:
            waiter.has_seen = True
            waiter.seen = result if _is_small(result) else None
            ends = self._has_ended(result) or not waiter.has(result)
        else:
            waiter.refused = result if _is_small(result) else None
            ends = _is_final(result) or not (waiter.has_seen or _is_throttled(result))
        if ends or waiter.is_over:
            self._answer(waiter, result, wave if ends else None)

    def _has_ended(self, fetched: Fetched) -> bool:
        """Whether there is nothing to wait for: the execution has ended, or this is no record."""
        decision = fetched.decision
        if decision is None or not decision.is_record:
            return True
        return decision.phase in self._polling.fetcher.rules.terminal_phases

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


def _is_for(result: Fetched | GatewayError, waiter: Waiter) -> bool:
    """Whether it answered this caller's own request."""
    if isinstance(result, GatewayError):
        return True
    return result.eligible.identity.credential == waiter.eligible.identity.credential


def _is_for_all(result: Fetched | GatewayError) -> bool:
    """Whether it is for all who share the poller, whosever request it answered."""
    if isinstance(result, GatewayError):
        return True
    return result.decision is not None and policy.may_be_given(result.decision)


def _ends_token_alone(result: Fetched | GatewayError) -> bool:
    """Whether AOS has refused one of several tokens of a user, which says nothing of the others."""
    if isinstance(result, GatewayError):
        return False
    return result.fetched_response.head.status == 401 and result.eligible.identity.is_one_of_many


def _is_small(result: Fetched | GatewayError) -> bool:
    return isinstance(result, GatewayError) or len(result.fetched_response.body) <= _LARGEST_KEPT_BYTES


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
