"""How many exchanges with the upstream there may be, and who waits for one to end."""

from __future__ import annotations

import asyncio

from gateway.errors import Overloaded


class Slots:
    """The places of a pool.

    An exchange whose caller keeps it waiting, one who sends or reads slowly, is parked: it leaves its place
    to another. As many may be parked as there are places; beyond that they stay where they are. So slow
    callers can't stop the others, and there is a bound all the same.

    Args:
        places: bound of exchanges that are not parked.
        max_waiting: bound of requests that wait for a place.
        wait_s: how long each of them waits.

    Attributes:
        wait_s: the same; it can be changed.
        waiting: requests that wait now.
        parked: exchanges that are parked now.
    """

    def __init__(self, places: int, max_waiting: int, wait_s: float) -> None:
        self.waiting = 0
        self.parked = 0
        self._places = places
        self._max_waiting = max_waiting
        self.wait_s = wait_s
        self._free = asyncio.Semaphore(places)
        self._placed = 0

    @property
    def in_use(self) -> int:
        """Exchanges under way, parked ones too."""
        return self._placed + self.parked

    async def take(self) -> Slot:
        """Return a place, waiting for one if need be.

        Raises:
            Overloaded: too many wait already, or none became free in time.
        """
        if self._free.locked():
            await self._wait()
        else:
            # Does not wait, and needs no deadline.
            await self._free.acquire()
        self._placed += 1
        return Slot(self)

    async def _wait(self) -> None:
        if self.waiting >= self._max_waiting:
            raise Overloaded
        self.waiting += 1
        try:
            async with asyncio.timeout(self.wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise Overloaded from error
        finally:
            self.waiting -= 1

    def park(self) -> bool:
        """Let one exchange leave its place; ``False`` when too many have done so."""
        if self.parked >= self._places:
            return False
        self.parked += 1
        self._leave_place()
        return True

    def leave(self, *, is_parked: bool) -> None:
        """End one exchange."""
        if is_parked:
            self.parked -= 1
        else:
            self._leave_place()

    def _leave_place(self) -> None:
        self._placed -= 1
        self._free.release()


class Slot:
    """The place of one exchange.

    Attributes:
        began_s: monotonic time at which the exchange began.
    """

    __slots__ = ("_is_free", "_is_parked", "_slots", "began_s")

    def __init__(self, slots: Slots) -> None:
        self.began_s = 0.0
        self._slots = slots
        self._is_parked = False
        self._is_free = False

    def park(self) -> None:
        """Leave the place to another, because the caller keeps this exchange waiting; may be repeated."""
        if not (self._is_parked or self._is_free):
            self._is_parked = self._slots.park()

    def free(self) -> None:
        """End the exchange; may be repeated."""
        if not self._is_free:
            self._is_free = True
            self._slots.leave(is_parked=self._is_parked)
