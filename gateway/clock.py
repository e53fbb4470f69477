"""The two clocks: wall time for what replicas compare, monotonic time for what one process measures."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """Where the time comes from, in seconds.

    Attributes:
        wall_s: seconds since the epoch; may jump.
        monotonic_s: seconds since some start; never goes back.
    """

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
