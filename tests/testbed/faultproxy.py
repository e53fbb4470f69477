"""A TCP proxy that makes a network misbehave on demand; it never changes a byte."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self

from . import address as addresses
from .faults import CUT, HALF_OPEN, PASS, RESET, STALL, Kind, Mode, Way
from .sockets import finish, reset
from .watch import Watch, Words

__all__ = ["CUT", "HALF_OPEN", "PASS", "RESET", "STALL", "FaultProxy", "Kind", "Mode", "Tap", "Way"]

_PIECE_BYTES = 65536
_RECORD_BYTES = 16 << 20
_SLICE_S = 0.02

Tap = Callable[[Way, bytes], Awaitable[None]]


class _Link:
    """One client connection and its connection to the target."""

    def __init__(self, proxy: "FaultProxy", client: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.client = client
        self.target: asyncio.StreamWriter | None = None
        self.is_open = True
        self.target_is_gone = False
        self.passed = dict.fromkeys(Way, 0)

    def kind(self) -> Kind:
        """What is in force on this link now."""
        if self.target_is_gone:
            return Kind.HALF_OPEN
        mode = self.proxy.mode
        limits = [(self.passed[way], mode.after_bytes(way)) for way in Way]
        return mode.kind if all(limit is None or passed >= limit for passed, limit in limits) else Kind.PASS

    def obey(self) -> None:
        """Do at once what can be done at once."""
        match self.kind():
            case Kind.CUT:
                self._each(asyncio.StreamWriter.close)
                self.is_open = False
            case Kind.RESET:
                self._each(reset)
                self.is_open = False
            case Kind.HALF_OPEN:
                self.target_is_gone = True
                if self.target is not None:
                    self.target.transport.abort()
            case Kind.PASS | Kind.STALL:
                pass

    def _each(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        for writer in (self.client, self.target):
            if writer is not None:
                end(writer)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Carry bytes both ways until both sides have ended or the mode has ended them."""
        try:
            self.obey()
            if self.is_open and not self.target_is_gone:
                answers, self.target = await addresses.connect(self.proxy.target)
                self.obey()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(Way.UP, reader))
                if self.target is not None:
                    pumps.create_task(self._pump(Way.DOWN, answers))
        except* OSError:
            # One side was reset, or the target can't be reached: the other side sees a reset as well.
            self._each(reset)
        finally:
            self.is_open = False
            writers = [writer for writer in (self.client, self.target) if writer is not None]
            for writer in writers:
                # Before the first wait: a cancel in it must not leave the other socket open.
                writer.close()
            for writer in writers:
                await finish(writer)

    async def _pump(self, way: Way, reader: asyncio.StreamReader) -> None:
        while self.is_open:
            try:
                piece = await reader.read(_PIECE_BYTES)
                came_s = asyncio.get_running_loop().time()
                await self._unstalled(way)
                await self._wait(came_s, partial(Mode.delay_s, way=way))
                if piece:
                    await self._tapped(way, piece)
                    await self._paced(way, piece)
                else:
                    await self._unstalled(way)
            except OSError:
                if way is Way.DOWN and self.target_is_gone:
                    return
                raise
            if not piece:
                self._end(way)
                return

    async def _tapped(self, way: Way, piece: bytes) -> None:
        if self.proxy.tap is None:
            return
        try:
            await self.proxy.tap(way, piece)
        except Exception as error:
            self.proxy.failures.append(f"the tap failed: {error!r}")
            raise ConnectionAbortedError from error

    async def _paced(self, way: Way, piece: bytes) -> None:
        loop = asyncio.get_running_loop()
        while piece:
            rate = self.proxy.mode.bytes_per_s
            share = max(1, int(rate * _SLICE_S)) if rate else len(piece)
            part, piece = piece[:share], piece[share:]
            await self._wait(loop.time(), partial(Mode.carrying_s, size=len(part)))
            await self._forward(way, part)

    async def _forward(self, way: Way, piece: bytes) -> None:
        while piece:
            await self._unstalled(way)
            limit = self.proxy.mode.after_bytes(way)
            left = 0 if limit is None else limit - self.passed[way]
            # A limit that is used up splits no more pieces: what it set off is in force by now, or waits
            # for the other way.
            part, piece = (piece[:left], piece[left:]) if left > 0 else (piece, b"")
            writer = self.client if way is Way.DOWN else self.target
            if writer is None or not self.is_open or self.target_is_gone:
                return
            writer.write(part)
            self.passed[way] += len(part)
            recorded = self.proxy.recorded[way]
            recorded += part[: _RECORD_BYTES - len(recorded)]
            await self._drained(writer)
            self.obey()
            self.proxy.watch.changed()

    async def _drained(self, writer: asyncio.StreamWriter) -> None:
        try:
            await writer.drain()
        except OSError:
            if not self.target_is_gone:
                raise

    def _end(self, way: Way) -> None:
        writer = self.client if way is Way.DOWN else self.target
        if writer is not None and self.is_open and not self.target_is_gone and not writer.is_closing():
            writer.write_eof()

    async def _unstalled(self, way: Way) -> None:
        while self.is_open and self.kind() is Kind.STALL and way in self.proxy.mode.ways:
            await self.proxy.watch.next_change()

    async def _wait(self, since_s: float, how_long_s: Callable[[Mode], float]) -> None:
        """Wait as long as the mode says, counted from a moment; a new mode counts at once."""
        loop = asyncio.get_running_loop()
        while self.is_open and (left_s := since_s + how_long_s(self.proxy.mode) - loop.time()) > 0:
            await self.proxy.watch.next_change(left_s)


class FaultProxy:
    """A proxy on a loopback port in front of any address; its mode can change at any time.

    Attributes:
        target: the address behind it.
        tap: called with each piece before it is passed on; may wait on a gate. None calls nothing.
        recorded: the bytes passed on, by direction; the first 16 MiB.
        failures: what went wrong in a tap; the fixture wants it empty.
        connections: how many connections were accepted.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        """Prepare a proxy; `start` or `async with` opens it.

        Args:
            target: `host:port`, `[v6]:port` or `unix:/path`.
            port: where clients connect; 0 takes a free one. To reject connections for a while, find it
                by `address.free_port`: then it stays free meanwhile.
        """
        self.target = target
        self.tap: Tap | None = None
        self.recorded = {way: bytearray() for way in Way}
        self.failures: list[str] = []
        self.connections = 0
        self.watch = Watch()
        self.port = port
        self._mode = PASS
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Where clients connect: `127.0.0.1:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are being passed on, stalled or half-open."""
        return sum(link.is_open for link in self._links.values())

    @property
    def mode(self) -> Mode:
        """How it behaves now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        for link in self._links.values():
            link.passed = dict.fromkeys(Way, 0)
            link.obey()
        self.watch.changed()

    async def start(self) -> Self:
        """Listen; the address is known afterwards, and the same again after `close`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is None:
            return
        self._server.close()
        links = dict(self._links)
        for task, link in links.items():
            link.client.transport.abort()
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wait_until(self, predicate: Callable[[], bool], what: Words, timeout_s: float = 5.0) -> None:
        """Wait for anything about the proxy's connections (deadline in seconds)."""
        await self.watch.until(predicate, what, timeout_s)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = _Link(self, writer)
        task = asyncio.create_task(link.run(reader), name=f"fault proxy connection {self.connections}")
        self._links[task] = link
        task.add_done_callback(self._ended)
        self.watch.changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._links[task]
        self.watch.changed()
