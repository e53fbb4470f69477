"""Counters in memory shared by all workers: how many invalidations each of them has sent."""

import mmap
import os
import sys
import tempfile
from array import array
from typing import Final

_TYPE: Final = "Q"
_COUNT_BYTES = array(_TYPE).itemsize


def open_shared_counts(count: int) -> int:
    """Return the descriptor of that many counters, all 0, for child processes to inherit."""
    if sys.platform == "linux":
        # A container may have no writable folder.
        descriptor = os.memfd_create("aos-gateway-counts")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, count * _COUNT_BYTES)
    return descriptor


class SharedCounts:
    """How many messages each process has sent, and how many of them this one has received.

    Each counter has one writer, so no lock is needed: a counter raised before a response is seen as raised by
    every request that follows the response. The descriptor is closed; ``own`` is this process's index.
    """

    def __init__(self, descriptor: int, own: int) -> None:
        try:
            self._sent = memoryview(mmap.mmap(descriptor, 0)).cast(_TYPE)
        finally:
            os.close(descriptor)
        self._own = own
        self.catch_up()

    def is_current(self) -> bool:
        """Whether every message sent has been received; never waits."""
        return self._sent == self._received

    def read(self) -> "array[int]":
        """Return how many messages each process has sent."""
        return array(_TYPE, self._sent)

    def covers(self, sent: "array[int]") -> bool:
        """Whether every message sent before that `read` has been received."""
        return all(received >= number for received, number in zip(self._received, sent, strict=True))

    def raise_own(self) -> int:
        """Count a message of this process, and return its number."""
        number = self._sent[self._own] + 1
        self._sent[self._own] = self._received[self._own] = number
        return number

    def receive(self, sender: int, number: int) -> bool:
        """Count a message of another process; ``False`` if one before it is missing."""
        received = self._received[sender]
        if number > received + 1:
            return False
        self._received[sender] = max(received, number)
        return True

    def catch_up(self) -> None:
        """Count every message sent so far as received."""
        self._received = memoryview(self.read())
