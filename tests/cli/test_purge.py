"""The client of `POST /purge`: what it sends, and what it prints for each response."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.cli import purge
from gateway.config.address import Address, TcpAddress, UnixAddress, parse_address
from gateway.config.secret import Secret
from tests.testbed.address import free_port

_INVALIDATED = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"forgotten": true}'
)


class _Server:
    """Gives every request one answer and keeps what came."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.received = head + await reader.readexactly(length)
        writer.write(self.answer)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def _listening(answer: bytes, path: str | None = None) -> AsyncIterator[tuple[_Server, Address]]:
    server_side = _Server(answer)
    if path is not None:
        server: asyncio.Server = await asyncio.start_unix_server(server_side.serve, path)
        address: Address = UnixAddress(path=path)
    else:
        server = await asyncio.start_server(server_side.serve, "127.0.0.1", 0)
        address = TcpAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    async with server:
        yield server_side, address


def _json(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


async def test_a_purge_over_tcp_sends_the_id_and_the_token(capsys: pytest.CaptureFixture[str]) -> None:
    async with _listening(_INVALIDATED) as (server_side, address):
        assert await asyncio.to_thread(purge.run, address, "my-stäck", Secret("t0ken")) == 0
    head, _, body = server_side.received.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /purge HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t0ken\r\n" in head + b"\r\n"
    assert b"\r\nContent-Type: application/json\r\n" in head + b"\r\n"
    assert f"\r\nHost: {address}\r\n".encode() in head
    assert body == b'{"stack_id": "my-st\\u00e4ck"}'
    out, err = capsys.readouterr()
    assert out == "invalidated: every stored entry of stack my-stäck\n"
    assert err == ""


async def test_a_purge_over_a_unix_socket_calls_it_localhost_and_sends_no_empty_token(tmp_path: Path) -> None:
    async with _listening(_INVALIDATED, str(tmp_path / "admin.sock")) as (server_side, address):
        assert await asyncio.to_thread(purge.run, address, "my-stack", Secret()) == 0
    assert b"\r\nHost: localhost\r\n" in server_side.received
    assert b"Authorization" not in server_side.received


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (_json("401 Unauthorized", b"{}"), "not allowed to purge (401); set AOS_GATEWAY_SERVER__ADMIN_TOKEN"),
        (_json("503 x", b'{"message": "Redis \\u001b[2J\\n"}'), "not purged (503): Redis ?[2J?"),
        (_json("503 x", b'{"message": "' + b"x" * 900 + b'"}'), f"not purged (503): {'x' * 200}\n"),
        (
            _json("404 Not Found", b"<html>"),
            "not purged (404): the answer is not the gateway's; check --admin",
        ),
        (_json("200 OK", b'{"forgotten": false}'), "not purged (200): the answer is not the gateway's"),
        (_json("200 OK", b"[" * 9_000), "not purged (200): the answer is not the gateway's"),
        (_json("200 OK", b"\xff"), "not purged (200): the answer is not the gateway's"),
        (b"", "cannot purge over 127.0.0.1:"),
        (b"no http\r\n\r\n", "cannot purge over 127.0.0.1:"),
    ],
)
async def test_any_other_answer_is_one_line_and_exit_code_1(
    answer: bytes, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with _listening(answer) as (_, address):
        assert await asyncio.to_thread(purge.run, address, "my-stack", Secret("t0ken")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"aos-gateway: {line}")
    assert err.count("\n") == 1
    assert "t0ken" not in err


def test_a_refused_connection_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = (f"127.0.0.1:{free_port()}", f"unix:{tmp_path / 'none.sock'}")
    for text, reason in zip(closed, ("Connection refused", "No such file or directory"), strict=True):
        assert purge.run(parse_address(text), "my-stack", Secret()) == 1
        assert capsys.readouterr().err == (
            f"aos-gateway: cannot purge over {text}: {reason}; "
            "--admin has to be the gateway's server.admin_listen\n"
        )


def test_a_silent_gateway_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.setattr(purge, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = TcpAddress(host="127.0.0.1", port=silent.getsockname()[1])
        assert purge.run(address, "my-stack", Secret()) == 1
    assert "no answer in time" in capsys.readouterr().err
