"""The other workers of this service, as the tiers need them."""

from typing import Protocol

import msgspec


class Invalidation(msgspec.Struct, frozen=True, gc=False):
    """A stack invalidated or an entry dropped by one worker, to be applied by the others.

    Attributes:
        stack: case-folded id of the stack; empty for an entry.
        settles: the write takes effect after its response.
        entry: `EntryKey.local` of the entry; empty for a stack.
    """

    stack: bytes = b""
    settles: bool = False
    entry: bytes = b""


class WorkerPeers(Protocol):
    """Sends invalidations to the other workers, and knows whether all of theirs have been received."""

    @property
    def workers(self) -> int:
        """How many there are, this one too."""

    def is_current(self) -> bool:
        """Whether every invalidation sent until now has been received; never waits."""

    async def wait_current(self) -> bool:
        """Wait, not for long, for every invalidation sent until now; ``False`` when one did not come."""

    def skip_missing(self) -> None:
        """Count every invalidation sent until now as received."""

    def send(self, invalidations: list[Invalidation]) -> None:
        """Send to all of them; from now on none serves a copy before it has received this."""

    def send_uncounted(self, invalidation: Invalidation) -> None:
        """Send to all of them; until they receive it they go on as before."""
