"""What was learned last, bounded in number and bytes."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

_MOST = 4_096
_BYTES = 8_388_608

T = TypeVar("T")


class Recent(OrderedDict[bytes, T]):
    """What was learned last.

    Args:
        bytes_of: what a value counts for in bytes, beside its key.
    """

    def __init__(self, bytes_of: Callable[[T], int] = lambda _: 0) -> None:
        super().__init__()
        self._bytes = 0
        self._bytes_of = bytes_of

    def put(self, key: bytes, value: T) -> None:
        """Keep something, in place of the oldest."""
        self._remove(key)
        self[key] = value
        self._bytes += len(key) + self._bytes_of(value)
        while len(self) > _MOST or self._bytes > _BYTES:
            self._remove(next(iter(self)))

    def discard(self, is_over: Callable[[T], bool]) -> None:
        """Forget some of it."""
        for key in [key for key, value in self.items() if is_over(value)]:
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        if key in self:
            self._bytes -= len(key) + self._bytes_of(self.pop(key))
