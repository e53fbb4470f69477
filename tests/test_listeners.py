"""Listening sockets that are handed on."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from gateway.address import TcpAddress, UnixAddress
from gateway.listeners import ListeningSockets, address_of, inherited_sockets, open_sockets

ANY_PORT = TcpAddress(host="127.0.0.1", port=0)


class Greets(asyncio.Protocol):
    """Writes one byte to whoever connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"x")
        transport.close()


async def greeted(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_what_waits_while_nobody_accepts_is_accepted_by_the_next() -> None:
    sockets = await open_sockets(ANY_PORT)
    assert isinstance(sockets.address, TcpAddress)
    first = await sockets.accept(Greets)
    assert await greeted(sockets.address.port) == b"x"
    first.close()
    await asyncio.sleep(0)
    waiting = asyncio.create_task(greeted(sockets.address.port))
    with socket.create_connection(("127.0.0.1", sockets.address.port)):
        second = await sockets.accept(Greets)
        assert await waiting == b"x"
    second.close()
    sockets.leave()
    with pytest.raises(ConnectionRefusedError):
        await greeted(sockets.address.port)


async def test_an_inherited_socket_goes_on_when_the_first_owner_leaves() -> None:
    sockets = await open_sockets(ANY_PORT)
    inherited = inherited_sockets(ANY_PORT, [os.dup(sockets.descriptors[0])])
    assert inherited.address == sockets.address
    assert address_of(inherited.descriptors[0]) == sockets.address
    sockets.leave()
    acceptor = await inherited.accept(Greets)
    assert isinstance(inherited.address, TcpAddress)
    assert await greeted(inherited.address.port) == b"x"
    acceptor.close()
    inherited.leave()


async def test_the_file_of_a_unix_socket_is_removed_by_its_last_owner_alone(socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    address = UnixAddress(path=str(path))

    def ended(sockets: ListeningSockets) -> bool:
        sockets.leave()
        sockets.remove_file()
        return not path.exists()

    sockets = await open_sockets(address)
    copy = inherited_sockets(address, [os.dup(sockets.descriptors[0])])
    assert not ended(copy)
    with pytest.raises(OSError, match="in use"):
        await open_sockets(address)
    sockets.hand_over()
    assert not ended(sockets)
    # Nobody listens there any more, so the file is stale.
    sockets = await open_sockets(address)
    assert ended(sockets)
    path.write_text("another's")
    sockets.remove_file()
    assert path.exists()


async def test_a_name_is_listened_on_at_each_of_its_addresses() -> None:
    sockets = await open_sockets(TcpAddress(host="", port=0))
    assert 1 <= len(sockets.descriptors) <= 2
    sockets.leave()
