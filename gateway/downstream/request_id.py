"""What requests without an id of their own are called in logs, errors and hits."""

import secrets

_MASK = 2**64 - 1


class RequestIds:
    """Makes ids that are different in this process and, most likely, in any other.

    They walk through all 64-bit numbers by a secret odd step: asking the system for random bytes each time
    would cost a hit a fifth of its time, and a plain count would tell callers how many there are.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(8).encode("ascii")
        self._step = secrets.randbits(64) | 1
        self._last = secrets.randbits(64)

    def fresh(self) -> bytes:
        """Return a new id: 32 hexadecimal digits."""
        self._last = (self._last + self._step) & _MASK
        return b"%b%016x" % (self._process, self._last)
