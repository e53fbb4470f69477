"""Bounds the exchanges with the upstream, and queues the requests beyond."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable

import msgspec

from gateway.clock import Clock
from gateway.errors import Overloaded

PATIENCE_S = 1.0
"""How long a caller may keep an exchange waiting before that counts."""


def _nothing() -> None:
    pass


class Slots:
    """The places of a pool.

    An exchange whose caller keeps it waiting, one who sends or reads slowly, is parked: it leaves its place
    to another. As many may be parked as there are places. Those beyond stay where they are until somebody has
    to wait for a place; then the slow exchange that has moved least recently is ended. So slow callers can't
    stop the others, and there is a bound all the same.

    Args:
        places: bound of exchanges that are not parked.
        max_waiting: bound of requests that wait for a place.
        wait_s: how long each of them waits.

    Attributes:
        wait_s: the same; it can be changed.
        parked: exchanges that are parked now.
    """

    def __init__(self, places: int, max_waiting: int, wait_s: float) -> None:
        self.parked = 0
        self._places = places
        self._max_waiting = max_waiting
        self.wait_s = wait_s
        self._placed = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        # Whose callers keep them waiting now; and those of them that have a place.
        self._slow: dict[Slot, None] = {}
        self._staying: dict[Slot, None] = {}
        # Ended for others, but not gone yet.
        self._ended: set[Slot] = set()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return len(self._queue)

    @property
    def in_use(self) -> int:
        """Exchanges under way, parked ones too."""
        return self._placed + self.parked

    def take_now(self, now_s: float) -> "Slot | None":
        """Return a place for what begins now; ``None`` when it would have to be waited for."""
        if self._placed >= self._places:
            return None
        self._placed += 1
        return Slot(self, now_s)

    async def take(self, clock: Clock) -> "Slot":
        """Return a place, waiting for one if need be; who came first is first.

        Raises:
            Overloaded: too many wait already, or none became free in time.
        """
        if (slot := self.take_now(clock.monotonic_s())) is not None:
            return slot
        if len(self._queue) >= self._max_waiting:
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._make_room()
        try:
            async with asyncio.timeout(self.wait_s):
                await turn
        except BaseException as error:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    self._queue.remove(turn)
            else:
                # Its turn had come when it gave up.
                self._leave_place()
            if isinstance(error, TimeoutError):
                raise Overloaded from error
            raise
        return Slot(self, clock.monotonic_s())

    def wait_for_caller(self, slot: "Slot") -> None:
        """Let an exchange leave its place if there is room beside, since its caller keeps it waiting."""
        self._slow[slot] = None
        if slot.is_parked:
            return
        if self.parked < self._places:
            self._park(slot)
        else:
            self._staying[slot] = None
            self._make_room()

    def go_on(self, slot: "Slot") -> None:
        """The caller keeps an exchange waiting no longer; it stays where it is."""
        self._slow.pop(slot, None)
        self._staying.pop(slot, None)

    def leave(self, slot: "Slot") -> None:
        """End one exchange; may be repeated."""
        if slot.is_free:
            return
        slot.is_free = True
        if slot.give_way is not _nothing:
            # A method of the exchange, which holds this, would leave a cycle to the garbage collector.
            slot.give_way = _nothing
        if self._slow or self._ended:
            self.go_on(slot)
            self._ended.discard(slot)
        if not slot.is_parked:
            if self._queue:
                self._leave_place()
            else:
                self._placed -= 1
            return
        self.parked -= 1
        if self._staying:
            self._park(next(iter(self._staying)))

    def _make_room(self) -> None:
        """End slow exchanges, one for each request that waits, while any of them has a place."""
        loop = asyncio.get_running_loop()
        while self._is_in_the_way():
            slowest = min(self._slow, key=lambda slot: slot.moved_s)
            if loop.time() < slowest.slow_since_s + PATIENCE_S:
                if self._looking is None:
                    self._looking = loop.call_later(PATIENCE_S / 4, self._look_again)
                return
            self.go_on(slowest)
            self._ended.add(slowest)
            slowest.give_way()

    def _is_in_the_way(self) -> bool:
        """Tell whether a request waits for a place that a slow exchange has, and that none will leave."""
        # The room of a parked one that has ended is for one of those that have a place.
        parked = sum(slot.is_parked for slot in self._ended)
        return parked < len(self._staying) and len(self._ended) < self.waiting

    def _look_again(self) -> None:
        self._looking = None
        self._make_room()

    def _park(self, slot: "Slot") -> None:
        self._staying.pop(slot, None)
        slot.is_parked = True
        self.parked += 1
        self._leave_place()

    def _leave_place(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                # The place passes to who has waited longest.
                turn.set_result(None)
                return
        self._placed -= 1


class Slot(msgspec.Struct, eq=False):
    """The place of one exchange.

    Attributes:
        began_s: monotonic time at which the exchange began.
        give_way: ends the exchange soon.
        is_parked: it has left its place to another.
        slow_since_s: the loop's time from which on its caller could keep it waiting; endless before that.
        moved_s: the loop's time of its last movement since.
        is_free: the exchange has ended.
    """

    _slots: Slots
    began_s: float
    give_way: Callable[[], None] = _nothing
    is_parked: bool = False
    slow_since_s: float = math.inf
    moved_s: float = 0.0
    is_free: bool = False

    def moves(self) -> None:
        """Record progress; its caller may keep it waiting from now on."""
        self.moved_s = asyncio.get_running_loop().time()
        self.slow_since_s = min(self.slow_since_s, self.moved_s)

    def wait_for_caller(self) -> None:
        """Leave the place to another, because the caller keeps this exchange waiting; may be repeated."""
        if not self.is_free:
            self._slots.wait_for_caller(self)

    def go_on(self) -> None:
        """Say that the caller keeps it waiting no longer; may be repeated."""
        self._slots.go_on(self)
