"""A timer that wakes the event loop within some ten microseconds of a moment.

The loops' own timers know whole milliseconds only, which would be lag at every rate. Linux has timers that
are file descriptors; elsewhere the last milliseconds are spent going round the loop.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_COARSE_S: Final = 0.002


class Timer(Protocol):
    """Calls back once at or after the moment that was set last."""

    def at(self, moment_s: float) -> None:
        """Set the moment (`time.monotonic`, seconds); a past one is now."""

    def close(self) -> None:
        """Never call back again."""


class _Span(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Span), ("value", _Span))


class _DescriptorTimer:
    """See timerfd_create(2). It is always set anew in the callback, which also clears what had expired."""

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._setting = _Setting()
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, on_time)

    def at(self, moment_s: float) -> None:
        # Nanosecond 0 of second 0 would disarm it.
        nanoseconds = max(int(moment_s * 1e9), 1)
        self._setting.value.seconds, self._setting.value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(self._setting), None)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class _TurningTimer:
    """The loop's own timer until shortly before, then turn after turn of the loop."""

    def __init__(self, on_time: Callable[[], None]) -> None:
        self._on_time = on_time
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._moment_s = 0.0

    def at(self, moment_s: float) -> None:
        self.close()
        self._moment_s = moment_s
        left_s = moment_s - time.monotonic() - _COARSE_S
        if left_s > 0:
            self._handle = self._loop.call_later(left_s, self._turn)
        else:
            self._handle = self._loop.call_soon(self._turn)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _turn(self) -> None:
        if time.monotonic() >= self._moment_s:
            self._handle = None
            self._on_time()
        else:
            self._handle = self._loop.call_soon(self._turn)


def make_timer(on_time: Callable[[], None]) -> Timer:
    """Make a timer of the running loop that is not set yet."""
    return _DescriptorTimer(on_time) if sys.platform == "linux" else _TurningTimer(on_time)
