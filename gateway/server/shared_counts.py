"""Counters in memory that several processes share: how much each of them has told the others."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from array import array
from typing import Final

_TYPE: Final = "Q"
_COUNT_BYTES = array(_TYPE).itemsize


def open_shared_counts(count: int) -> int:
    """Return the descriptor of that many counters, all 0, for processes that inherit it.

    Raises:
        OSError: the system has no memory to give.
    """
    if sys.platform == "linux":
        # A container may have no place for a file.
        descriptor = os.memfd_create("aos-gateway-counts")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, count * _COUNT_BYTES)
    return descriptor


class SharedCounts:
    """What each process has told, and what of it this one has heard.

    Each counter is written by one process alone, so no lock is needed: who has been answered after a counter
    was raised finds it raised.

    Args:
        descriptor: from `open_shared_counts`; it is closed.
        own: which counter is this process's.
    """

    def __init__(self, descriptor: int, own: int) -> None:
        try:
            self._shared = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._counts = memoryview(self._shared).cast(_TYPE)
        self._own = own
        self._heard = self.read()
        self._heard_bytes = self._heard.tobytes()

    def is_current(self) -> bool:
        """Tell whether everything that was told has been heard; never waits."""
        return self._shared[:] == self._heard_bytes

    def read(self) -> array[int]:
        """Return what each process has told until now."""
        return array(_TYPE, self._shared[:])

    def covers(self, told: array[int]) -> bool:
        """Tell whether everything that was told until `read` has been heard."""
        return all(heard >= number for heard, number in zip(self._heard, told, strict=True))

    def raise_own(self) -> int:
        """Count one more thing that this process tells, and return its number."""
        number = self._counts[self._own] + 1
        self._counts[self._own] = number
        self._hear(self._own, number)
        return number

    def hear(self, teller: int, number: int) -> bool:
        """Note what another process told; ``False`` when something before it has not been heard."""
        heard = self._heard[teller]
        if number > heard + 1:
            return False
        self._hear(teller, max(heard, number))
        return True

    def catch_up(self) -> None:
        """Take everything that was told until now for heard."""
        self._heard = self.read()
        self._heard_bytes = self._heard.tobytes()

    def _hear(self, teller: int, number: int) -> None:
        self._heard[teller] = number
        self._heard_bytes = self._heard.tobytes()
