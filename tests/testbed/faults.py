"""How a network can misbehave, as values."""

from dataclasses import dataclass
from enum import Enum, auto


class Way(Enum):
    """Where bytes go: UP is from the client to the target, DOWN is back."""

    UP = auto()
    DOWN = auto()


class Kind(Enum):
    """What is done to a connection.

    PASS lets it be. CUT ends both sides cleanly. RESET ends both with RST. STALL holds everything back and
    keeps it for later. HALF_OPEN takes the target away without telling the client, whose bytes vanish.
    """

    PASS = auto()
    CUT = auto()
    RESET = auto()
    STALL = auto()
    HALF_OPEN = auto()


@dataclass(frozen=True)
class Mode:
    """How the proxy behaves, on open connections and on new ones.

    Attributes:
        kind: what is done.
        ways: the directions that a STALL holds back.
        after_up_bytes: per connection, counted from when the mode was set: the kind takes effect once
            exactly this much has gone up; None is at once.
        after_down_bytes: the same for the way down; with both, both must be reached.
        delay_up_s: how long each piece waits on its way up, at least.
        delay_down_s: the same on its way down.
        bytes_per_s: what each direction of a connection carries at most; None has no limit.
    """

    kind: Kind = Kind.PASS
    ways: frozenset[Way] = frozenset(Way)
    after_up_bytes: int | None = None
    after_down_bytes: int | None = None
    delay_up_s: float = 0.0
    delay_down_s: float = 0.0
    bytes_per_s: float | None = None

    def after_bytes(self, way: Way) -> int | None:
        """The limit of one direction."""
        return self.after_up_bytes if way is Way.UP else self.after_down_bytes

    def delay_s(self, way: Way) -> float:
        """The delay of one direction."""
        return self.delay_up_s if way is Way.UP else self.delay_down_s

    def carrying_s(self, size: int) -> float:
        """How long this many bytes are on their way."""
        return size / self.bytes_per_s if self.bytes_per_s else 0.0


PASS = Mode()
CUT = Mode(Kind.CUT)
RESET = Mode(Kind.RESET)
STALL = Mode(Kind.STALL)
HALF_OPEN = Mode(Kind.HALF_OPEN)
