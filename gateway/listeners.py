"""Opening and naming listeners on TCP addresses and Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable

from gateway.address import Address, TcpAddress, UnixAddress

_BACKLOG = 1024


async def listen(make_protocol: Callable[[], asyncio.BaseProtocol], address: Address) -> asyncio.Server:
    """Open a listener.

    Raises:
        OSError: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    match address:
        case TcpAddress(host=host, port=port):
            return await loop.create_server(make_protocol, host, port, backlog=_BACKLOG)
        case UnixAddress(path=path):
            await _remove_stale_socket(path)
            return await loop.create_unix_server(make_protocol, path, backlog=_BACKLOG)


def bound_address(listener: asyncio.Server, address: Address) -> Address:
    """Return where a listener really is: a port of 0 is filled in."""
    if isinstance(address, UnixAddress):
        return address
    return TcpAddress(host=address.host, port=listener.sockets[0].getsockname()[1])


def remove_socket(address: Address) -> None:
    """Remove the file of a closed Unix listener, if there is one."""
    if isinstance(address, UnixAddress):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address.path)


async def _remove_stale_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more; asyncio would take over one in use as well.

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
