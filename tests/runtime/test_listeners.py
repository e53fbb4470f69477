"""Listening sockets that are handed on."""

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.config.address import Mode, TcpAddress, UnixAddress
from gateway.downstream.proxy_protocol import ProxiedAcceptor, ProxiedConnections
from gateway.runtime.listeners import ListeningSockets, address_of, inherited_sockets, open_sockets, why_not

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


async def test_a_backlog_is_accepted_by_the_next_acceptor() -> None:
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


@pytest.mark.parametrize("is_proxied", [False, True])
def test_a_busy_event_loop_accepts_many_in_a_turn(*, is_proxied: bool) -> None:
    callers = 64
    accepted: list[object] = []

    class Counts(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)
            transport.close()

    class Takes(ProxiedConnections):
        def __init__(self) -> None:
            pass

        def take(self, connection: socket.socket, peername: object, tls: ssl.SSLContext | None) -> None:
            accepted.append(peername)
            connection.close()

    async def turns_until_accepted() -> int:
        sockets = await open_sockets(ANY_PORT)
        assert isinstance(sockets.address, TcpAddress)
        acceptor: contextlib.AbstractContextManager[object]
        if is_proxied:
            acceptor = contextlib.closing(ProxiedAcceptor(Takes(), sockets, None))
        else:
            acceptor = await sockets.accept(Counts)
        turns = 0
        with acceptor, contextlib.ExitStack() as open_callers:
            for _ in range(callers):
                open_callers.enter_context(socket.create_connection(("127.0.0.1", sockets.address.port)))
            while len(accepted) < callers:
                turns += 1
                await asyncio.sleep(0)
        sockets.leave()
        return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(turns_until_accepted()) < callers / 4


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
    sockets = await open_sockets(address)
    copy = inherited_sockets(address, [os.dup(sockets.descriptors[0])])
    with pytest.raises(OSError, match="in use"):
        await open_sockets(address)
    file = sockets.file
    assert file is not None
    sockets.hand_over()
    sockets.leave()
    assert path.exists()
    copy.file = file
    copy.leave()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    sockets = await open_sockets(UnixAddress(path=str(path)))
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()
    sockets.leave()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["another socket", "a file", "a link to the socket", "nothing"])
async def test_a_file_that_replaced_a_socket_stays(socket_folder: Path, kind: str) -> None:
    path, other = socket_folder / "x.sock", socket_folder / "moved.sock"
    sockets = await open_sockets(UnixAddress(path=str(path)))
    path.rename(other)
    with socket.socket(socket.AF_UNIX) as another:
        match kind:
            case "another socket":
                another.bind(str(path))
            case "a file":
                path.write_text("x")
            case "a link to the socket":
                path.symlink_to(other)
        before = os.listdir(socket_folder)
        sockets.leave()
        assert os.listdir(socket_folder) == before


@pytest.mark.parametrize(
    "kind", ["a file", "a pipe", "a folder", "a link to a file", "a link to nothing", "a link"]
)
async def test_only_a_socket_is_replaced(socket_folder: Path, kind: str) -> None:
    path, other = socket_folder / "x.sock", socket_folder / "other"
    match kind:
        case "a file":
            path.write_text("x")
        case "a pipe":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a link to nothing":
            path.symlink_to(other)
        case "a link to a file":
            other.write_text("x")
            path.symlink_to(other)
        case "a link":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(other))
            path.symlink_to(other)
    before = [(each.name, each.lstat().st_mode) for each in sorted(socket_folder.iterdir())]
    with pytest.raises(OSError, match="is no socket") as raised:
        await open_sockets(UnixAddress(path=str(path)))
    assert "not replaced" in why_not(raised.value)
    assert [(each.name, each.lstat().st_mode) for each in sorted(socket_folder.iterdir())] == before


async def test_a_listener_that_accepts_nothing_and_one_of_another_kind_are_in_use(
    socket_folder: Path,
) -> None:
    path = socket_folder / "x.sock"
    address = UnixAddress(path=str(path))
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as waiting:
        full.bind(str(path))
        full.listen(0)
        waiting.setblocking(False)
        waiting.connect(str(path))
        async with asyncio.timeout(1):
            with pytest.raises(OSError, match="in use"):
                await open_sockets(address)
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(path))
        with pytest.raises(OSError, match="in use"):
            await open_sockets(address)
    assert path.exists()


async def test_of_many_that_find_a_stale_socket_one_listens(socket_folder: Path) -> None:
    path = socket_folder / "x.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    opening = [open_sockets(UnixAddress(path=str(path))) for _ in range(8)]
    opened = await asyncio.gather(*opening, return_exceptions=True)
    (only,) = [each for each in opened if isinstance(each, ListeningSockets)]
    acceptor = await only.accept(Greets)
    reader, writer = await asyncio.open_unix_connection(path)
    assert await reader.read() == b"x"
    writer.close()
    acceptor.close()
    only.leave()


@pytest.mark.parametrize("bits", [0o600, 0o660, 0o666, 0o622])
async def test_a_unix_socket_has_its_rights_from_the_first_moment(
    socket_folder: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = socket_folder / "x.sock"
    seen: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: Any, /) -> None:
            super().bind(address)
            seen.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    for umask in (0o000, 0o077):
        former = os.umask(umask)
        try:
            sockets = await open_sockets(UnixAddress(path=str(path)), Mode(bits))
            assert os.umask(umask) == umask
        finally:
            os.umask(former)
        assert stat.S_IMODE(path.stat().st_mode) == bits
        sockets.leave()
    assert seen == [bits, bits]


async def test_a_name_is_listened_on_at_each_of_its_addresses() -> None:
    sockets = await open_sockets(TcpAddress(host="", port=0))
    assert 1 <= len(sockets.descriptors) <= 2
    sockets.leave()
