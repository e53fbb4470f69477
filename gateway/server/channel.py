"""The socket pair that carries messages between the parent and a worker."""

import asyncio
import contextlib
import socket

import msgspec

from gateway.server import messages
from gateway.server.messages import Message
from gateway.tasks import at_most

_LENGTH_BYTES = 4
# Longer than any message; metrics are the longest.
_MOST_BYTES = 16_777_216
# Beyond it the other process counts as hung.
_MOST_UNSENT_BYTES = 8_388_608
_FLUSH_S = 1.0


class Channel:
    """One end of the socket pair between the parent and a worker; use it inside one event loop.

    Messages arrive whole and in order. The channel breaks when the other process ends.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> "Channel":
        """Make a channel over one end of a socket pair."""
        return cls(*await asyncio.open_connection(sock=connected))

    def send(self, message: Message) -> bool:
        """Send a message without waiting, unless the channel is broken; ``False`` if the other end hangs."""
        if self._writer.is_closing():
            return True
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            return False
        data = messages.pack(message)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        return True

    async def receive(self) -> Message | None:
        """Return the next message; ``None`` at the end."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > _MOST_BYTES:
                return None
            return messages.read(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            return None

    async def flush(self) -> None:
        """Wait for a moment until all messages have been written."""
        with contextlib.suppress(OSError):
            await at_most(_FLUSH_S, self._writer.drain())

    def close(self) -> None:
        self._writer.close()
