"""Peers that are slow in one of three ways, hundreds at once, driven by one steady clock."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum

from . import address as addresses

_RECEIVE_BYTES = 4096


class Slow(Enum):
    """In which way."""

    HEAD = "slow head"
    BODY = "slow body"
    READING = "slow reading"


class SlowPeer(asyncio.Protocol):
    """One connection that takes its time.

    Attributes:
        slow: in which way.
        received: what came back, its beginning.
        is_gone: whether the connection has ended, as far as this side has looked.
    """

    def __init__(self, slow: Slow, opening: bytes) -> None:
        self.slow = slow
        self.received = b""
        self.is_gone = False
        self._opening = opening
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the beginning."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._opening)
        if self.slow is Slow.READING:
            # A turn later: Python 3.11.2 starts to read after this call, whatever it says.
            asyncio.get_running_loop().call_soon(transport.pause_reading)

    def data_received(self, data: bytes) -> None:
        """Keep the beginning; a slow reader pauses."""
        self.received += data[: _RECEIVE_BYTES - len(self.received)]
        if self.slow is Slow.READING and self._transport is not None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end."""
        self.is_gone = True

    def step(self) -> None:
        """Send one byte more, or read a little."""
        if self.is_gone or self._transport is None or self._transport.is_closing():
            return
        if self.slow is Slow.READING:
            if not self._transport.is_reading():
                self._transport.resume_reading()
        else:
            self._transport.write(b"a")

    def leave(self) -> None:
        """End the connection with a reset, so that no port is kept for long."""
        if self._transport is not None:
            self._transport.abort()


async def _connect(host: str, port: int, peer: SlowPeer) -> SlowPeer:
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    try:
        sock.setblocking(False)
        # Before connecting: else the kernel would take a whole record on the peer's behalf.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        await loop.sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    await loop.create_connection(lambda: peer, sock=sock)
    return peer


@asynccontextmanager
async def slow_peers(
    address: str, of_each: int, *, read: bytes, upload: bytes, step_s: float | None
) -> AsyncIterator[Sequence[SlowPeer]]:
    """Connect many peers of each kind; they leave at the end.

    Args:
        address: of the gateway, `host:port`.
        of_each: how many of each kind.
        read: the request of slow readers; its response should be long.
        upload: the head of the request of those whose body is slow; its Content-Length should be large.
        step_s: the time between two steps of one peer, spread evenly over all; None takes no more steps.
    """
    where = addresses.split(address)
    assert not isinstance(where, str)
    openings = {Slow.HEAD: b"GET /v2/stacks HTTP/1.1\r\nX-Slow: ", Slow.BODY: upload, Slow.READING: read}
    peers: list[SlowPeer] = []
    stepping: asyncio.Task[None] | None = None
    try:
        for _ in range(of_each):
            for slow, opening in openings.items():
                peers.append(await _connect(*where, SlowPeer(slow, opening)))
        if step_s is not None:
            stepping = asyncio.create_task(_step(peers, step_s), name="slow peers")
        yield peers
    finally:
        if stepping is not None:
            stepping.cancel()
        for peer in peers:
            peer.leave()


async def _step(peers: Sequence[SlowPeer], step_s: float) -> None:
    for peer in itertools.cycle(peers):
        peer.step()
        await asyncio.sleep(step_s / len(peers))
