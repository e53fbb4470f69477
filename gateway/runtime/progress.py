"""Writing to a peer who may be slow: it is waited for as long as it takes something, and no longer."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Protocol

# How often in the time for nothing a peer is looked at.
_LOOKS = 4


class Peer(Protocol):
    """A connection that is written to."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """``None`` when it is lost."""

    @property
    def writing_paused(self) -> bool:
        """The transport wants no more for now."""


def unsent_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes that were written have not reached the peer's machine yet.

    Only an estimate over TLS: what is encrypted already and still here is not counted.
    """
    unsent = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            (kept,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
            unsent += kept
    return unsent


async def drained(peer: Peer, timeout_s: float, drain: Callable[[], Awaitable[None]]) -> bool:
    """Wait until a peer has taken enough for more to be written.

    Args:
        peer: its connection.
        timeout_s: how long it may take nothing.
        drain: waits until the transport lets more be written.

    Returns:
        Whether there was anything to wait for.

    Raises:
        TimeoutError: it has taken nothing for that long, or up to a quarter longer.
        ConnectionError: it has left.
    """
    transport = peer.transport
    if transport is None or not peer.writing_paused:
        return False
    loop = asyncio.get_running_loop()
    left_bytes = unsent_bytes(transport)
    looking: asyncio.TimerHandle

    def look() -> None:
        nonlocal left_bytes, looking
        now_left_bytes = unsent_bytes(transport)
        if now_left_bytes < left_bytes:
            left_bytes = now_left_bytes
            deadline.reschedule(loop.time() + timeout_s)
        looking = loop.call_later(timeout_s / _LOOKS, look)

    async with asyncio.timeout(timeout_s) as deadline:
        looking = loop.call_later(timeout_s / _LOOKS, look)
        try:
            await drain()
        finally:
            looking.cancel()
    return True


async def taken(peer: Peer, timeout_s: float) -> None:
    """Wait until a peer has taken all that was written, or takes nothing more, or has left.

    Args:
        peer: its connection.
        timeout_s: how long it may take nothing elsewhere; it is looked at several times in it.
    """
    left_bytes = None
    while (transport := peer.transport) is not None:
        now_left_bytes = unsent_bytes(transport)
        if not now_left_bytes or now_left_bytes == left_bytes:
            return
        left_bytes = now_left_bytes
        await asyncio.sleep(timeout_s / _LOOKS)


def cut_later(transport: asyncio.WriteTransport | None, timeout_s: float) -> None:
    """Cut a connection that is being closed, if its peer has not taken the rest by then.

    Closing waits for ever for a peer who takes nothing.
    """
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(timeout_s, transport.abort)
