"""Ends of connections that asyncio has no direct word for."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable


class WatchedReader(asyncio.StreamReader):
    """A stream reader that reports at once when the peer has closed or reset, even when nobody reads."""

    def __init__(self, on_gone: Callable[[], None]) -> None:
        """Args: on_gone: called when the peer has ended its side; may be called more than once."""
        super().__init__(loop=asyncio.get_running_loop())
        self._on_gone = on_gone
        self.peer_gone = False

    def feed_eof(self) -> None:
        """Record a clean end."""
        super().feed_eof()
        self._gone()

    def set_exception(self, exc: BaseException) -> None:
        """Record a reset."""
        super().set_exception(exc)  # type: ignore[arg-type]  # typeshed says Exception
        self._gone()

    def _gone(self) -> None:
        self.peer_gone = True
        self._on_gone()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, so that the peer sees a reset and not an end.

    On a Unix socket there is no RST; the peer sees an end.
    """
    sock = None
    with contextlib.suppress(AttributeError):  # asyncio's TLS transport raises it once it is gone
        sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        # Through a duplicate, because uvloop's socket object has no setsockopt.
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _abort(writer)


async def finish(writer: asyncio.StreamWriter, grace_s: float = 1.0) -> None:
    """Close a connection and wait until it is gone; abort it when the grace is over."""
    writer.close()
    try:
        async with asyncio.timeout(grace_s):
            await writer.wait_closed()
    except OSError:  # TimeoutError is one too
        _abort(writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(AttributeError):  # asyncio's TLS transport in Python 3.11.2, once it is gone
        writer.transport.abort()
