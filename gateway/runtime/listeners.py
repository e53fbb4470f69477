"""Listening sockets on TCP addresses and Unix sockets, shared with other processes."""

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
# libuv accepts one connection on each in a turn of the event loop: on a busy one, new callers would starve.
_COPIES = 8
# How long to wait for the lock of a folder, and how often to try.
_LOCK_S = 1.0
_TRY_S = 0.01
_HANDSHAKE_S = 15.0
# A caller that does not close TLS must not delay the drain.
_SHUTDOWN_S = 1.0
# Python 3.13 would remove the file of a Unix socket with the first server that closes.
_KEEPS_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class SocketFile(msgspec.Struct, frozen=True):
    """The file of a Unix socket and its identity."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, unless it is gone or replaced."""
        with contextlib.suppress(OSError):
            if _socket_file(self.path) == self:
                os.unlink(self.path)

    def allow(self, mode: Mode) -> None:
        """Change its rights, unless it is gone or replaced; raise `OSError` where that is not permitted."""
        with contextlib.suppress(FileNotFoundError):
            if _socket_file(self.path) == self:
                os.chmod(self.path, mode.bits)


class ListeningSockets:
    """The listening sockets, at least one, of an address as it is bound: a port of 0 is filled in.

    ``file`` is that of a Unix socket, if `leave` is to remove it; ``None`` where another process owns it.
    """

    def __init__(
        self, address: Address, sockets: Iterable[socket.socket], file: SocketFile | None = None
    ) -> None:
        self._sockets = list(sockets)
        self.file = file
        self.address = address
        if isinstance(address, TcpAddress):
            self.address = TcpAddress(host=address.host, port=self._sockets[0].getsockname()[1])

    @property
    def descriptors(self) -> list[int]:
        return [each.fileno() for each in self._sockets]

    def copies(self) -> Iterator[socket.socket]:
        """Yield copies to accept on: closing a copy resets no connection in the backlog."""
        for each in self._sockets * _COPIES:
            copy = each.dup()
            copy.setblocking(False)
            yield copy

    async def accept(
        self, make_protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None = None
    ) -> contextlib.ExitStack:
        """Accept connections, over TLS if there is a context, until the returned stack is closed.

        These sockets and the connections stay open.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": _BACKLOG, **tls_options(tls)}
        accepting = contextlib.ExitStack()
        for copy in self.copies():
            if copy.family == socket.AF_UNIX:
                server = await loop.create_unix_server(make_protocol, sock=copy, **options, **_KEEPS_FILE)
            else:
                server = await loop.create_server(make_protocol, sock=copy, **options)
            accepting.callback(server.close)
        return accepting

    def leave(self) -> None:
        """Close them in this process, after removing the file of a Unix socket.

        In this order no other process can replace the file before it is removed.
        """
        if self.file is not None:
            self.file.remove()
        self.file = None
        for each in self._sockets:
            each.close()

    def hand_over(self) -> None:
        """Leave the file of a Unix socket to another process."""
        self.file = None


async def open_sockets(address: Address, mode: Mode = OWNER_ONLY) -> ListeningSockets:
    """Open the sockets of an address, or raise `OSError`; ``mode`` is that of a Unix socket's file."""
    match address:
        case TcpAddress():
            return ListeningSockets(address, await _open_tcp(address))
        case UnixAddress(path=path):
            async with _lock(os.path.dirname(path)):
                _remove_stale(path)
                opened = _bound(socket.AF_UNIX, path, mode)
                return ListeningSockets(address, [opened], _socket_file(path))


def why_not(error: OSError) -> str:
    """Return why an address cannot be bound, without the address that asyncio's text repeats."""
    if error.errno is None or error.errno <= 0:
        return "the name cannot be resolved"
    return _NO_SOCKET if error.errno == errno.EEXIST else os.strerror(error.errno)


def tls_options(tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Return the TLS arguments of `loop.create_server`; none for plain connections."""
    if tls is None:
        return {}
    return {"ssl": tls, "ssl_handshake_timeout": _HANDSHAKE_S, "ssl_shutdown_timeout": _SHUTDOWN_S}


def address_of(descriptor: int) -> Address:
    """Return the address of a listening socket opened by another process."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return UnixAddress(path=os.fsdecode(name))
        return TcpAddress(host=name[0], port=name[1])


def inherited_sockets(address: Address, descriptors: Iterable[int]) -> ListeningSockets:
    """Own listening sockets opened by another process, at an address as configured."""
    return ListeningSockets(address, [socket.socket(fileno=each) for each in descriptors])


async def _open_tcp(address: TcpAddress) -> list[socket.socket]:
    """Open one socket for each address of the host, as asyncio does."""
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
            try:
                sockets.append(opened.enter_context(_bound(family, where)))
            except OSError as error:
                # A name may resolve to an address family that this machine lacks.
                if error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL} or len(found) == 1:
                    raise
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        opened.pop_all()
    return sockets


def _bound(family: int, where: Any, mode: Mode = OWNER_ONLY) -> socket.socket:
    with contextlib.ExitStack() as closing:
        opened = closing.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not chmod after bind: others could connect in between.
        former = os.umask(_ALL_RIGHTS & ~mode.bits)
        try:
            opened.bind(where)
        finally:
            os.umask(former)
        opened.listen(_BACKLOG)
        opened.setblocking(False)
        closing.pop_all()
    return opened


def _socket_file(path: str) -> SocketFile | None:
    """Return the socket at a path; ``None`` for another kind of file, `OSError` for none."""
    found = os.lstat(path)
    return SocketFile(path, found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _remove_stale(path: str) -> None:
    """Remove a socket without a listener, which would make bind fail; raise `OSError` for anything else."""
    try:
        found = _socket_file(path)
    except FileNotFoundError:
        return
    if found is None:
        raise OSError(errno.EEXIST, _NO_SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Never waits: the kernel completes the connection, whether or not anybody accepts it.
        probe.setblocking(False)
        error = probe.connect_ex(path)
    if error == errno.ECONNREFUSED:
        found.remove()
    elif error in {errno.EACCES, errno.EPERM}:
        raise OSError(error, os.strerror(error))
    elif error != errno.ENOENT:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@contextlib.asynccontextmanager
async def _lock(folder: str) -> AsyncIterator[None]:
    """Lock a folder against other gateways that open sockets in it.

    Without it two that find the same stale socket could remove each other's. Best effort: go on without
    the lock if the folder is not readable or the wait too long.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_LOCK_S):
                # No event reports a free lock.
                while not _try_lock(descriptor):  # noqa: ASYNC110
                    await asyncio.sleep(_TRY_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
