"""Request bodies that are held whole, because their signature goes before them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from gateway.errors import BodyTooLarge, TooManyBodies

LARGEST_BYTES = 12_000_000
"""Bound of one body; the API gateway in front of AOS takes no larger ones."""


class HeldBodies:
    """The bodies that one process holds at a time.

    Args:
        limit_bytes: bound of all together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left_bytes = limit_bytes

    @contextlib.asynccontextmanager
    async def hold(self, chunks: AsyncIterator[bytes], length: int | None) -> AsyncIterator[bytes]:
        """Read a body whole, and hold it to the end of the context.

        Args:
            chunks: its pieces.
            length: declared bytes; ``None`` when not declared.

        Raises:
            GatewayError: it is too large, there is no room, or its caller leaves or stalls.
        """
        pieces: list[bytes] = []
        received = taken = 0
        try:
            taken = self._take(length or 0)
            async for piece in chunks:
                received += len(piece)
                if received > taken:
                    taken += self._take(len(piece), taken)
                pieces.append(piece)
            content = b"".join(pieces)
            pieces.clear()
            yield content
        finally:
            self._left_bytes += taken

    def _take(self, more_bytes: int, taken_bytes: int = 0) -> int:
        if taken_bytes + more_bytes > LARGEST_BYTES:
            raise BodyTooLarge
        if more_bytes > self._left_bytes:
            raise TooManyBodies
        self._left_bytes -= more_bytes
        return more_bytes
