"""Listening sockets: opened once, handed on to whoever accepts on them, on TCP addresses and Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gateway.address import Address, TcpAddress, UnixAddress

_BACKLOG = 1024
_HANDSHAKE_S = 15.0
# A caller that does not answer the end of TLS holds up nobody's drain.
_SHUTDOWN_S = 1.0
# Python 3.13 would remove the file of a Unix socket with the first of those who accept on it.
_KEEPS_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class ListeningSockets:
    """The sockets of one address, as long as anybody may accept on them.

    Attributes:
        address: where they really are: a port of 0 is filled in.
    """

    def __init__(self, address: Address, sockets: Iterable[socket.socket], *, is_ours: bool = True) -> None:
        """Take sockets that listen already.

        Args:
            address: as configured.
            sockets: at least one.
            is_ours: the file of a Unix socket is removed with them.
        """
        self._sockets = list(sockets)
        self._is_ours = is_ours
        self.address = _real(address, self._sockets[0])

    @property
    def descriptors(self) -> list[int]:
        """Their file descriptors, for a process that inherits them."""
        return [each.fileno() for each in self._sockets]

    def copies(self) -> Iterator[socket.socket]:
        """Yield copies to accept on: closing them resets no connection that waits for others."""
        for each in self._sockets:
            copy = each.dup()
            copy.setblocking(False)
            yield copy

    async def accept(
        self, make_protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None = None
    ) -> Acceptor:
        """Accept connections until the returned acceptor is closed; these sockets stay open.

        Args:
            make_protocol: makes the protocol of each connection.
            tls: for connections over TLS; ``None`` for plain ones.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": _BACKLOG, **tls_options(tls)}
        servers = []
        for copy in self.copies():
            if copy.family == socket.AF_UNIX:
                servers.append(
                    await loop.create_unix_server(make_protocol, sock=copy, **options, **_KEEPS_FILE)
                )
            else:
                servers.append(await loop.create_server(make_protocol, sock=copy, **options))
        return Acceptor(servers)

    def leave(self) -> None:
        """Close them here; others may go on."""
        for each in self._sockets:
            each.close()

    def hand_over(self) -> None:
        """Leave the file of a Unix socket to whoever accepts on it from now on."""
        self._is_ours = False

    def remove_file(self) -> None:
        """Remove the file of a closed Unix socket, once, unless it is another's."""
        if self._is_ours and isinstance(self.address, UnixAddress):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address.path)
        self._is_ours = False


class Acceptor:
    """Accepts on copies of listening sockets."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    def close(self) -> None:
        """Accept nothing more; what is accepted already goes on."""
        for server in self._servers:
            server.close()


async def open_sockets(address: Address) -> ListeningSockets:
    """Open the sockets of an address.

    Raises:
        OSError: it cannot be bound.
    """
    match address:
        case TcpAddress():
            return ListeningSockets(address, await _open_tcp(address))
        case UnixAddress(path=path):
            await _remove_stale_socket(path)
            return ListeningSockets(address, [_bound(socket.AF_UNIX, path)])


def tls_options(tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Return how a loop is told to speak TLS with callers; nothing when it is not to."""
    if tls is None:
        return {}
    return {"ssl": tls, "ssl_handshake_timeout": _HANDSHAKE_S, "ssl_shutdown_timeout": _SHUTDOWN_S}


def address_of(descriptor: int) -> Address:
    """Return where a listening socket is that somebody else has opened."""
    with socket.socket(fileno=os.dup(descriptor)) as given:
        name = given.getsockname()
        if given.family == socket.AF_UNIX:
            return UnixAddress(path=os.fsdecode(name))
        return TcpAddress(host=name[0], port=name[1])


def inherited_sockets(
    address: Address, descriptors: Iterable[int], *, is_ours: bool = False
) -> ListeningSockets:
    """Take sockets that another process has opened.

    Args:
        address: as configured.
        descriptors: of listening sockets; they belong to this process from now on.
        is_ours: see `ListeningSockets`.
    """
    return ListeningSockets(address, [socket.socket(fileno=each) for each in descriptors], is_ours=is_ours)


async def _open_tcp(address: TcpAddress) -> list[socket.socket]:
    """Open one socket for each address that the host stands for, as asyncio does."""
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
            try:
                sockets.append(_bound(family, where))
            except OSError as error:
                # A name may stand for an address of a family that this machine does not have.
                if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL} or len(found) == 1:
                    raise
    except BaseException:
        for each in sockets:
            each.close()
        raise
    if not sockets:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return sockets


def _bound(family: int, where: Any) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(where)
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


def _real(address: Address, opened: socket.socket) -> Address:
    if isinstance(address, UnixAddress):
        return address
    return TcpAddress(host=address.host, port=opened.getsockname()[1])


async def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more; binding would fail, or take over one in use.

    Raises:
        OSError: somebody listens there.
    """
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        return
    else:
        writer.close()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
