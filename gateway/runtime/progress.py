"""Writing to a slow peer: wait as long as it makes progress."""

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections.abc import Awaitable, Callable
from typing import Protocol

# Progress checks per timeout.
_CHECKS = 4


class Peer(Protocol):
    """A connection that is written to."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """``None`` when it is lost."""

    @property
    def writing_paused(self) -> bool:
        """The transport wants no more for now."""


def unsent_bytes(transport: asyncio.WriteTransport) -> int:
    """Return how many written bytes the peer's machine has not acknowledged.

    Only an estimate over TLS: encrypted bytes in user space are not counted.
    """
    unsent = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            (queued,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
            unsent += queued
    return unsent


async def drained(peer: Peer, timeout_s: float, drain: Callable[[], Awaitable[None]]) -> bool:
    """Wait until the transport accepts more, as ``drain`` does; return whether it had to wait.

    Raises `TimeoutError` without progress for this time, or up to a quarter longer, `ConnectionError` when
    the peer has closed the connection.
    """
    transport = peer.transport
    if transport is None or not peer.writing_paused:
        return False
    loop = asyncio.get_running_loop()
    remaining_bytes = unsent_bytes(transport)
    check_handle: asyncio.TimerHandle

    def check() -> None:
        nonlocal remaining_bytes, check_handle
        now_bytes = unsent_bytes(transport)
        if now_bytes < remaining_bytes:
            remaining_bytes = now_bytes
            deadline.reschedule(loop.time() + timeout_s)
        check_handle = loop.call_later(timeout_s / _CHECKS, check)

    async with asyncio.timeout(timeout_s) as deadline:
        check_handle = loop.call_later(timeout_s / _CHECKS, check)
        try:
            await drain()
        finally:
            check_handle.cancel()
    return True


async def taken(peer: Peer, timeout_s: float) -> None:
    """Wait until a peer has received everything, has closed, or makes no progress for a quarter of a time."""
    remaining_bytes = None
    while (transport := peer.transport) is not None:
        now_bytes = unsent_bytes(transport)
        if not now_bytes or now_bytes == remaining_bytes:
            return
        remaining_bytes = now_bytes
        await asyncio.sleep(timeout_s / _CHECKS)


def cut_later(transport: asyncio.WriteTransport | None, timeout_s: float) -> None:
    """Abort a closing connection if its write buffer is not empty by then.

    Closing waits for ever for a peer that reads nothing.
    """
    if transport is not None and transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(timeout_s, transport.abort)
