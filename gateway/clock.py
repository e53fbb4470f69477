"""Wall time, comparable between replicas, and monotonic time within one process."""

import time
from collections.abc import Callable

import msgspec


class Clock(msgspec.Struct, frozen=True):
    """Times in seconds: since the epoch, which may jump, and since some start, which never goes back."""

    wall_s: Callable[[], float] = time.time
    monotonic_s: Callable[[], float] = time.monotonic
