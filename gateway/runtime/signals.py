"""Signals as an awaitable queue."""

import asyncio
import signal
from collections.abc import Sequence

STOPPING = (signal.SIGTERM, signal.SIGINT)
HELD = (signal.SIGHUP, signal.SIGUSR2)
"""Signals that would end a process which is still starting."""


def hold() -> None:
    """Block these signals until `Signals` handles them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


class Signals:
    def __init__(self, numbers: Sequence[signal.Signals] = STOPPING) -> None:
        self._numbers = numbers
        self._queue: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def __aenter__(self) -> "Signals":
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.add_signal_handler(number, self._queue.put_nowait, number)
        # Deliver signals blocked since `hold`. Before any child process starts: it would inherit the mask.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        return self

    async def __aexit__(self, *_: object) -> None:
        for number in self._numbers:
            asyncio.get_running_loop().remove_signal_handler(number)

    async def next(self) -> signal.Signals:
        return await self._queue.get()

    async def wait(self) -> None:
        """Wait for a signal to stop; others stay queued for `next`."""
        others: list[signal.Signals] = []
        try:
            while (number := await self.next()) not in STOPPING:
                others.append(number)
        finally:
            for number in others:
                self._queue.put_nowait(number)
