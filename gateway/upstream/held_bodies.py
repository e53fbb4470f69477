"""Request bodies that are held whole, because their signature goes before them."""

import contextlib
from collections.abc import AsyncIterator

from gateway.core.http.errors import MessageError
from gateway.errors import NoCredentials

LARGEST_BYTES = 12_000_000
"""Bound of one body; the API gateway in front of AOS takes no larger ones."""


class HeldBodies:
    """The bodies that one process holds at a time, with a bound of all together."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_bytes = limit_bytes

    @contextlib.asynccontextmanager
    async def hold(self, chunks: AsyncIterator[bytes], length: int | None) -> AsyncIterator[bytes]:
        """Read a body whole, of declared length or none, and hold it to the end of the context.

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
            self.left_bytes += taken

    def _take(self, more_bytes: int, taken_bytes: int = 0) -> int:
        if taken_bytes + more_bytes > LARGEST_BYTES:
            raise MessageError(413, "The request body is too large to be signed.")
        if more_bytes > self.left_bytes:
            raise NoCredentials("too many request bodies wait to be signed", 1.0)
        self.left_bytes -= more_bytes
        return more_bytes
