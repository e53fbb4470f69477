"""Waiting for a condition without polling: every state change wakes the waiters."""

import asyncio
from collections.abc import Callable

Words = str | Callable[[], str]


class Watch:
    """Wakes waiters whenever its owner says that something changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        """Wake every waiter, so that it looks at its condition again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def next_change(self, timeout_s: float | None = None) -> None:
        """Wait for the next change, or until the time is over.

        Args:
            timeout_s: longest wait in seconds; None waits until a change or cancellation.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    async def until(self, predicate: Callable[[], bool], what: Words, timeout_s: float = 5.0) -> None:
        """Wait until the predicate holds.

        Args:
            predicate: looked at now and after each change.
            what: what is waited for, for the error text; a callable is called on timeout.
            timeout_s: deadline in seconds.

        Raises:
            TimeoutError: the deadline passed first; its text says what was waited for.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not predicate():
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise TimeoutError(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}")
            await self.next_change(left_s)
