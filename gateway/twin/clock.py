"""The twin's time: starts at a fixed moment, runs at real speed and can jump ahead."""

import time


class Clock:
    """Modelled Unix time in seconds."""

    def __init__(self, epoch_s: float) -> None:
        """Start the clock at `epoch_s`."""
        self._origin_s = epoch_s - time.monotonic()
        self._jumped_s = 0.0
        self._frozen_at_s: float | None = None

    def now_s(self) -> float:
        """Return the modelled time, which never goes back."""
        return self._origin_s + time.monotonic() if self._frozen_at_s is None else self._frozen_at_s

    def wall_s(self) -> float:
        """Return the real time, moved by the jumps: what others compare with their own clocks."""
        return time.time() + self._jumped_s

    @property
    def is_frozen(self) -> bool:
        """Whether only jumps move the time."""
        return self._frozen_at_s is not None

    def advance(self, by_s: float) -> None:
        """Jump ahead."""
        self._origin_s += by_s
        self._jumped_s += by_s
        if self._frozen_at_s is not None:
            self._frozen_at_s += by_s

    def freeze(self) -> None:
        """Let only `advance` move the time, so that runs repeat to the byte."""
        self._frozen_at_s = self.now_s()

    def thaw(self) -> None:
        """Let the time run again."""
        if self._frozen_at_s is not None:
            self._origin_s = self._frozen_at_s - time.monotonic()
            self._frozen_at_s = None
