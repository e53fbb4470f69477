"""Signals as something to wait for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

STOPPING = (signal.SIGTERM, signal.SIGINT)


HELD = (signal.SIGHUP, signal.SIGUSR2)
"""Without a handler these would end a process that is still starting."""


def hold() -> None:
    """Have what comes before there are `Signals` wait for them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


class Signals:
    """The next of some signals as something to wait for; others stay as they are."""

    def __init__(self, numbers: Sequence[signal.Signals] = STOPPING) -> None:
        self._numbers = numbers
        self._seen: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def __aenter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.add_signal_handler(number, self._seen.put_nowait, number)
        # What came since `hold` arrives now. Not earlier: a process that is started would inherit the mask.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.remove_signal_handler(number)

    async def next(self) -> signal.Signals:
        """Wait for the next signal and return it."""
        return await self._seen.get()

    async def wait(self) -> None:
        """Wait for the next signal that says stop; others stay for `next`."""
        others: list[signal.Signals] = []
        try:
            while (number := await self.next()) not in STOPPING:
                others.append(number)
        finally:
            for number in others:
                self._seen.put_nowait(number)
