"""Signals as something to wait for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The next of some signals as something to wait for; others stay as they are."""

    def __init__(self, numbers: Sequence[signal.Signals] = STOPPING) -> None:
        self._numbers = numbers
        self._seen: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def __aenter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.add_signal_handler(number, self._seen.put_nowait, number)
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._numbers:
            loop.remove_signal_handler(number)

    async def next(self) -> signal.Signals:
        """Wait for the next signal and return it."""
        return await self._seen.get()

    async def wait(self) -> None:
        """Wait for the next signal that says stop; others before it are dropped."""
        while await self.next() not in STOPPING:
            pass
