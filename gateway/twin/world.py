"""The twin's state, shared by the API and the control address."""

import time
from collections import Counter
from random import Random

from gateway.twin.fault_book import FaultBook
from gateway.twin.iam import Iam
from gateway.twin.model import Model
from gateway.twin.profiles import EPOCH_S, Profile
from gateway.twin.tokens import digest


class Clock:
    """Modelled Unix time in seconds: starts at a fixed moment, runs at real speed and can jump ahead."""

    def __init__(self, epoch_s: float) -> None:
        self._base_s = epoch_s
        # Monotonic time since when it runs from there; None: it is frozen there.
        self._since_s: float | None = time.monotonic()
        self._jumped_s = 0.0

    def now_s(self) -> float:
        """Return the modelled time, which never goes back."""
        return self._base_s + (0.0 if self._since_s is None else time.monotonic() - self._since_s)

    def wall_s(self) -> float:
        """Return the real time, moved by the jumps: what others compare with their own clocks."""
        return time.time() + self._jumped_s

    @property
    def is_frozen(self) -> bool:
        """Whether only jumps move the time."""
        return self._since_s is None

    def advance(self, by_s: float) -> None:
        self._base_s += by_s
        self._jumped_s += by_s

    def freeze(self) -> None:
        """Let only `advance` move the time, so that runs repeat to the byte."""
        self._base_s, self._since_s = self.now_s(), None

    def thaw(self) -> None:
        if self._since_s is None:
            self._since_s = time.monotonic()


class World:
    """The model with its clock, faults and IAM.

    Counts requests by route when their head is complete, responses by route and status, faults included.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        """Make the world as it is before the first request; all chance comes from the seed."""
        self.profile = profile
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Return to the state before the first request: time, stacks, faults, users, keys, tokens, counts."""
        self.clock = Clock(EPOCH_S)
        self.model = Model(self.profile, self.seed)
        self.faults = FaultBook()
        for throttle in self.profile.throttles:
            self.faults.add(throttle, self.clock.now_s())
        self.iam = Iam(self.seed)
        self.received: Counter[str] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self._request_count = 0
        self._rng = Random(f"{self.seed}/latency")

    def next_request_id(self) -> str:
        """Return the next X-Request-Id: 32 hex digits that follow from the seed."""
        self._request_count += 1
        return digest(f"{self.seed}/{self._request_count}")

    def latency_s(self) -> float:
        """Return the latency of the next response, real seconds."""
        low_s, high_s = self.profile.latency_s
        return self._rng.uniform(low_s, high_s) if high_s else 0.0
