"""The other workers: invalidations go through the parent, shared memory counts them."""

import asyncio
import contextlib
from collections.abc import Callable

from gateway.server.messages import Invalidate, Message
from gateway.server.shared_counts import SharedCounts
from gateway.store.peers import Invalidation

# How long a look-up waits for an invalidation: the parent or the sender may be busy, stopped or gone.
_RECEIVED_S = 0.25


class ChannelPeers:
    """The `gateway.store.peers.WorkerPeers` of worker ``number``; ``send`` sends to the parent at once."""

    def __init__(self, number: int, send: Callable[[Message], object], counts: SharedCounts) -> None:
        # The memory tier calls this for each hit.
        self.is_current = counts.is_current
        self.workers = len(counts.read())
        self.skip_missing = counts.catch_up
        self._number = number
        self._send = send
        self._counts = counts
        # Set for a moment with each message.
        self._has_received = asyncio.Event()

    def send(self, invalidations: list[Invalidation]) -> None:
        self._send(Invalidate(self._number, self._counts.raise_own(), invalidations))

    def send_uncounted(self, invalidation: Invalidation) -> None:
        self._send(Invalidate(self._number, 0, [invalidation]))

    def received(self, message: Invalidate) -> bool:
        """Count a message as received; ``False`` when one before it has not come."""
        is_next = self._counts.receive(message.sender, message.number)
        self._has_received.set()
        self._has_received.clear()
        return is_next

    async def wait_current(self) -> bool:
        sent = self._counts.read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECEIVED_S):
                while not self._counts.covers(sent):
                    await self._has_received.wait()
        return self._counts.covers(sent)
