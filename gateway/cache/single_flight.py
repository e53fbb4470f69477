"""Single flight: concurrent equal requests of one caller cost the upstream one call."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from gateway.clock import Clock
from gateway.core.caching.key import FlightKey
from gateway.core.http.errors import GatewayError
from gateway.errors import DeadlinePassed
from gateway.store.invalidations import Changes

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
OnResult = Callable[[T | GatewayError], None]
"""Called once, with what a fetch gave or why it gave nothing."""


def _nothing() -> None:
    pass


class Flight(msgspec.Struct, Generic[T], eq=False):
    """One fetch under way, and who waits for it.

    Attributes:
        key: who asks for what; ``None`` when nobody may join.
        stack: case-folded stack id.
        since: the number of the last change of any stack before it.
        record: what it fetches, by `EntryKey.local`; ``None`` when nobody is to hear of it.
        started_s: monotonic time of its start.
        fetched_s: monotonic time before which nothing of its result was fetched.
        joinable_until_s: monotonic time.
        stop: ends its work when its time is over.
    """

    _flights: "SingleFlight[T]"
    _leader: OnResult[T] | None
    key: FlightKey | None
    stack: bytes
    since: int
    record: bytes | None
    started_s: float
    fetched_s: float
    joinable_until_s: float
    stop: Callable[[], None] = _nothing
    _waiting: list[OnResult[T]] = []

    @property
    def leader_waits(self) -> bool:
        """Whoever began it is still there to take its result."""
        return self._leader is not None

    def join(self, on_result: OnResult[T]) -> None:
        """Wait for its result too."""
        self._waiting.append(on_result)

    def leave(self, on_result: OnResult[T]) -> None:
        """Do not wait any more; that disturbs nobody else."""
        if on_result == self._leader:
            self._leader = None
        elif on_result in self._waiting:
            self._waiting.remove(on_result)

    def finish(self, result: T | GatewayError) -> None:
        """Give its result to all who wait, whoever began it first; a second result is dropped."""
        flights, leader = self._flights, self._leader
        if not flights.end(self):
            return
        takers = [] if leader is None else [leader]
        # It would be a cycle.
        self._leader = None
        if self._waiting:
            takers += self._waiting
            self._waiting = []
        if flights.watchers and (watcher := flights.watchers.get(self.record)) is not None:
            takers.append(functools.partial(watcher, self))
        for on_result in takers:
            try:
                on_result(result)
            except Exception as error:
                # The others must hear of it all the same.
                _log.error("a result could not be taken: %s", type(error).__name__, exc_info=error)


class SingleFlight(Generic[T]):
    """The fetches of one gateway that others may join.

    Args:
        timeout_s: how long each of them may take.

    Attributes:
        join_max_age_s: nobody joins one that began longer ago.
        clock: monotonic time.
        changes: of stacks: nobody joins a flight whose stack has changed since it began.
        watchers: called with each flight of a record that ends, and its result.
    """

    def __init__(self, timeout_s: float, join_max_age_s: float, clock: Clock, changes: Changes) -> None:
        self._timeout_s = timeout_s
        self.join_max_age_s = join_max_age_s
        self.clock = clock
        self.changes = changes
        self._loop = asyncio.get_running_loop()
        # In the order in which they began, so one timer is enough for all deadlines.
        self._under_way: dict[Flight[T], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.watchers: dict[bytes | None, Callable[[Flight[T], T | GatewayError], None]] = {}
        self._open: dict[FlightKey, Flight[T]] = {}
        self._all_ended: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self._under_way)

    def joinable(self, key: FlightKey) -> Flight[T] | None:
        """Return the flight that an equal request may join now, or ``None``."""
        flight = self._open.get(key)
        if (
            flight is None
            or self.clock.monotonic_s() > flight.joinable_until_s
            or self.changes.has_changed(flight.stack, flight.since)
        ):
            return None
        return flight

    def begin(
        self, key: FlightKey | None, stack: bytes, on_result: OnResult[T], record: bytes | None = None
    ) -> Flight[T]:
        """Begin a fetch, in place of any older one; with a key others may join it.

        Returns:
            The flight; whoever does its work calls `Flight.finish`.
        """
        now_s = self.clock.monotonic_s()
        since, until_s = self.changes.number, now_s + self.join_max_age_s
        flight = Flight(self, on_result, key, stack, since, record, now_s, now_s, until_s)
        self._under_way[flight] = None
        if key is not None:
            self._open[key] = flight
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._end_late)
        return flight

    def end(self, flight: Flight[T]) -> bool:
        """Let nobody join a flight any more; ``False`` when it has ended before."""
        if self._under_way.pop(flight, flight) is not None:
            return False
        if flight.key is not None and self._open.get(flight.key) is flight:
            del self._open[flight.key]
        if self._all_ended is not None and not self._under_way:
            self._all_ended.set()
        return True

    async def in_time(self, work: Awaitable[R], since_s: float | None = None) -> R:
        """Wait for something that nobody shares, as long as for a flight.

        Args:
            work: what is waited for.
            since_s: monotonic time from which that counts; ``None``: now.

        Raises:
            GatewayError: what it failed with, or `DeadlinePassed`.
        """
        try:
            passed_s = 0.0 if since_s is None else self.clock.monotonic_s() - since_s
            async with asyncio.timeout(self._timeout_s - passed_s):
                return await work
        except TimeoutError as error:
            raise DeadlinePassed from error

    async def close(self, timeout_s: float) -> None:
        """Let flights end within a time, then stop the rest."""
        if self._under_way:
            self._all_ended = asyncio.Event()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_ended.wait()
            except TimeoutError:
                for flight in list(self._under_way):
                    self._stop(flight)
        if self._timer is not None:
            self._timer.cancel()

    def _end_late(self) -> None:
        """Stop the flights whose time is over."""
        self._timer = None
        now_s = self.clock.monotonic_s()
        for flight in list(self._under_way):
            left_s = flight.started_s + self._timeout_s - now_s
            if left_s > 0:
                self._timer = self._loop.call_later(left_s, self._end_late)
                break
            self._stop(flight)

    def _stop(self, flight: Flight[T]) -> None:
        # The end of another one may have ended it.
        if flight in self._under_way:
            flight.stop()
            flight.finish(DeadlinePassed())
