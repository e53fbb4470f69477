"""Wall time, comparable between replicas, and monotonic time within one process."""

import time
from collections.abc import Callable

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """Sources of time, in seconds.

    Attributes:
        wall_s: seconds since the epoch; may jump.
        monotonic_s: seconds since an arbitrary start; never goes back.
    """

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
