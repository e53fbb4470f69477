"""Listening sockets: opened once, handed on to whoever accepts on them, on TCP addresses and Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import msgspec

from gateway.config.address import OWNER_ONLY, Address, Mode, TcpAddress, UnixAddress

_ALL_RIGHTS = 0o777
_NO_SOCKET = "what is there is no socket, so it is not replaced"
_BACKLOG = 1024
# How long to wait for others that open sockets in the same folder, and how often to look.
_ALONE_S = 1.0
_LOOK_S = 0.01
_HANDSHAKE_S = 15.0
# A caller that does not answer the end of TLS holds up nobody's drain.
_SHUTDOWN_S = 1.0
# Python 3.13 would remove the file of a Unix socket with the first of those who accept on it.
_KEEPS_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class SocketFile(msgspec.Struct, frozen=True):
    """The file of a Unix socket, by what makes it this one and no other.

    Attributes:
        path: where it is.
        device: number of its file system.
        inode: its number there.
    """

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove it, unless it is gone or another has taken its place."""
        with contextlib.suppress(OSError):
            if _socket_file(self.path) == self:
                os.unlink(self.path)

    def allow(self, mode: Mode) -> None:
        """Give it other rights, unless it is gone or another has taken its place.

        Raises:
            OSError: this process may not.
        """
        with contextlib.suppress(FileNotFoundError):
            if _socket_file(self.path) == self:
                os.chmod(self.path, mode.bits)


class ListeningSockets:
    """The sockets of one address, as long as anybody may accept on them.

    Attributes:
        address: where they really are: a port of 0 is filled in.
        file: of a Unix socket, while it is to be removed with them.
    """

    def __init__(
        self, address: Address, sockets: Iterable[socket.socket], file: SocketFile | None = None
    ) -> None:
        """Take sockets that listen already.

        Args:
            address: as configured.
            sockets: at least one.
            file: of a Unix socket, when it is to be removed with them.
        """
        self._sockets = list(sockets)
        self.file = file
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
        """Close them here; others may go on. The file of a Unix socket goes first.

        While somebody listens there, no other process takes its place.
        """
        if self.file is not None:
            self.file.remove()
        self.file = None
        for each in self._sockets:
            each.close()

    def take_over(self, file: SocketFile) -> None:
        """Have the file of a Unix socket that another process has opened."""
        self.file = file

    def hand_over(self) -> None:
        """Leave the file of a Unix socket to whoever accepts on it from now on."""
        self.file = None


class Acceptor:
    """Accepts on copies of listening sockets."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        self._servers = servers

    def close(self) -> None:
        """Accept nothing more; what is accepted already goes on."""
        for server in self._servers:
            server.close()


async def open_sockets(address: Address, mode: Mode = OWNER_ONLY) -> ListeningSockets:
    """Open the sockets of an address.

    Args:
        address: as configured.
        mode: rights of the file of a Unix socket; who may write to it may connect (unix(7)).

    Raises:
        OSError: it cannot be bound.
    """
    match address:
        case TcpAddress():
            return ListeningSockets(address, await _open_tcp(address))
        case UnixAddress(path=path):
            async with _alone_in(os.path.dirname(path)):
                _make_way(path)
                opened = _bound(socket.AF_UNIX, path, mode)
                return ListeningSockets(address, [opened], _socket_file(path))


def why_not(error: OSError) -> str:
    """Return why an address cannot be bound, without the address, which asyncio's own text repeats."""
    if error.errno is None or error.errno <= 0:
        return "the name cannot be resolved"
    return _NO_SOCKET if error.errno == errno.EEXIST else os.strerror(error.errno)


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


def inherited_sockets(address: Address, descriptors: Iterable[int]) -> ListeningSockets:
    """Take sockets that another process has opened.

    Args:
        address: as configured.
        descriptors: of listening sockets; they belong to this process from now on.
    """
    return ListeningSockets(address, [socket.socket(fileno=each) for each in descriptors])


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


def _bound(family: int, where: Any, mode: Mode = OWNER_ONLY) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not changed after it is bound: for a moment others could connect.
        former = os.umask(_ALL_RIGHTS & ~mode.bits)
        try:
            opened.bind(where)
        finally:
            os.umask(former)
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


def _socket_file(path: str) -> SocketFile | None:
    """Return what is at a path; ``None`` unless it is a socket.

    Raises:
        OSError: it cannot be looked at, or nothing is there.
    """
    found = os.lstat(path)
    return SocketFile(path, found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _make_way(path: str) -> None:
    """Remove a socket that nobody listens on any more; binding would fail.

    Raises:
        OSError: somebody listens there, or it is something else than a socket.
    """
    try:
        found = _socket_file(path)
    except FileNotFoundError:
        return
    if found is None:
        raise OSError(errno.EEXIST, _NO_SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Never waits: a listener that accepts nothing answers as well.
        probe.setblocking(False)
        error = probe.connect_ex(path)
    if error == errno.ECONNREFUSED:
        found.remove()
    elif error in {errno.EACCES, errno.EPERM}:
        raise OSError(error, os.strerror(error))
    elif error != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@contextlib.asynccontextmanager
async def _alone_in(folder: str) -> AsyncIterator[None]:
    """Keep others of us from opening sockets in a folder meanwhile.

    Two that find the same stale socket would else remove each other's. It is best effort: who may not read
    the folder, or waits too long, goes on.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_ALONE_S):
                # The system tells nobody that a lock is free.
                while not _is_locked(descriptor):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
