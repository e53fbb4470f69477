"""Connections that begin with a PROXY protocol header, which is read before TLS and HTTP.

They are accepted here, not by the loop's own server: the loop is handed a socket whose header was taken off,
so TLS or HTTP begin with the first bytes that it reads.
"""

import asyncio
import contextlib
import logging
import socket
import ssl

from gateway.core.http.proxy_header import MOST_READ_BYTES, BadProxyHeader, ProxyHeader, Unfit, proxy_header
from gateway.downstream.connection import DownstreamServer
from gateway.downstream.connection_origin import peer_of
from gateway.runtime.listeners import ListeningSockets, tls_options
from gateway.tasks import TaskSet

# Connections whose header is awaited when as many are open as may be: they are told so when it has come.
_MOST_BEYOND = 32
# Until more descriptors may be free.
_PAUSE_S = 1.0
_SKIPPED_BYTES = 65_536
_log = logging.getLogger("gateway.downstream.proxy_protocol")


class ProxiedConnections:
    """Reads headers and hands the connections on; the server's configuration bounds what is awaited here."""

    def __init__(self, server: DownstreamServer) -> None:
        self._server = server
        self._tasks = TaskSet()
        # Whose header has not come yet; the socket is closed with its task.
        self._awaiting: dict[asyncio.Task[None], socket.socket] = {}

    def __len__(self) -> int:
        """How many have not sent their header; a handshake of TLS that is not done is nobody's request."""
        return len(self._awaiting)

    def accept(self, sockets: ListeningSockets, tls: ssl.SSLContext | None) -> "ProxiedAcceptor":
        """Accept connections until the returned acceptor is closed, see `ListeningSockets.accept`."""
        return ProxiedAcceptor(self, sockets, tls)

    def take(self, connection: socket.socket, peername: object, tls: ssl.SSLContext | None) -> None:
        """Take a connection that was accepted."""
        server = self._server
        most = server.config.max_connections
        if len(self._tasks) >= max(most - len(server.connections), _MOST_BEYOND):
            server.metrics.connections_refused += 1
            connection.close()
            return
        task = self._tasks.start(
            self._open(connection, peer_of(connection, peername), tls), "proxied-connection"
        )
        self._awaiting[task] = connection
        task.add_done_callback(self._close_unless_handed_on)

    def close_idle(self) -> None:
        """Close what has not sent its header."""
        for task in list(self._awaiting):
            task.cancel()

    async def close(self) -> None:
        """Close what is not handed on."""
        await self._tasks.cancel()

    async def _open(self, connection: socket.socket, peer: str, tls: ssl.SSLContext | None) -> None:
        header = await self._header(connection, peer)
        task = asyncio.current_task()
        if header is None or task is None:
            return
        # The loop's from here on.
        del self._awaiting[task]
        # An error means that no TLS came of it, or that nobody is there any more.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._server(header), connection, **tls_options(tls)
            )

    def _close_unless_handed_on(self, task: asyncio.Task[None]) -> None:
        if (connection := self._awaiting.pop(task, None)) is not None:
            connection.close()

    async def _header(self, connection: socket.socket, peer: str) -> ProxyHeader | None:
        """Take the header off a connection; ``None``, counted and logged, when there is none that is good."""
        trusted = self._server.trusted_proxies
        try:
            if trusted and not trusted.has(peer):
                raise BadProxyHeader(Unfit.UNTRUSTED)
            async with asyncio.timeout(self._server.config.header_timeout_s):
                return await _read_header(connection)
        except BadProxyHeader as error:
            why = error.why
        except TimeoutError:
            why = Unfit.LATE
        except OSError:
            why = Unfit.ENDED
        self._server.metrics.connections_unfit[why.value] += 1
        # Load balancers try whether the port is open.
        level = logging.DEBUG if why is Unfit.ENDED else logging.WARNING
        _log.log(level, "connection of %s closed: PROXY protocol header %s", peer, why.value)
        return None


class ProxiedAcceptor:
    """Accepts on copies of listening sockets, until it is closed."""

    def __init__(
        self, connections: ProxiedConnections, sockets: ListeningSockets, tls: ssl.SSLContext | None
    ) -> None:
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._sockets = list(sockets.copies())
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept nothing more; what is accepted already goes on."""
        self._leave()
        for each in self._sockets:
            each.close()
        self._sockets = []

    def _listen(self) -> None:
        self._pause = None
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each)

    def _leave(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        else:
            for each in self._sockets:
                self._loop.remove_reader(each)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, peername = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # Another process was quicker, or the caller has left.
            return
        except OSError as error:
            _log.warning("cannot accept connections for %s s: %s", _PAUSE_S, error.strerror)
            self._leave()
            self._pause = self._loop.call_later(_PAUSE_S, self._listen)
            return
        connection.setblocking(False)
        self._connections.take(connection, peername, self._tls)


async def _read_header(connection: socket.socket) -> ProxyHeader:
    """Take a header off a connection, and not one byte more; raise `BadProxyHeader` if there is none."""
    data = b""
    while True:
        seen = await _receive(connection, MOST_READ_BYTES - len(data), socket.MSG_PEEK)
        header = proxy_header(data + seen)
        # All that an unfinished header needs belongs to it.
        taken = len(seen) if header is None else min(len(seen), header.length - len(data))
        data += connection.recv(taken)
        if header is None:
            continue
        left = header.length - len(data)
        while left:
            left -= len(await _receive(connection, min(left, _SKIPPED_BYTES)))
        return header


async def _receive(connection: socket.socket, most_bytes: int, flags: int = 0) -> bytes:
    """Wait for bytes of a socket that the loop has no transport for; raise `OSError` at its end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = connection.recv(most_bytes, flags)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
        else:
            if not data:
                raise ConnectionResetError
            return data
