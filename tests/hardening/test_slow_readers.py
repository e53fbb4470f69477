"""Peers who take their time with what is written to them: the steady ones get all of it, the others are cut."""

import asyncio
import json
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import address as addresses
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, request_bytes
from tests.testbed.gateway import GatewayProcess, StartGateway, running
from tests.testbed.tls import Authority

_LIMIT_S = 0.4
# More than the kernels keep on the way, and what takes longer than the limit to read.
_BIG_BYTES = 8_000_000
_PIECE_BYTES = 65_536
_BYTES_PER_S = 7_000_000
_LARGE = f"/v2/stacks/{STACK_ID}/actions/large"
_RECORD = record(padding="x" * _BIG_BYTES)
# What is asked for, and by whom.
_WAYS = {
    "hit": (TARGET, "alice"),
    "miss": (TARGET, "bob"),
    "too-large": (_LARGE, "alice"),
    "passing": ("/v2/stacks", "alice"),
}


@pytest.fixture
def start(aos: ScriptedAos, start_gateway: StartGateway) -> StartGateway:
    """Start a gateway as a process of its own, with settings by `section__key`; it has alice's record."""
    aos.on("GET", TARGET, Answer(body=_RECORD))
    aos.on("GET", _LARGE, Answer(body=record(name="large", padding="x" * (_BIG_BYTES + 1_000_000))))
    aos.on("GET", "/v2/stacks", Answer(body=_RECORD))
    settings = {"server__body_timeout_s": _LIMIT_S, "cache__max_body_bytes": _BIG_BYTES + 500_000}
    return partial(start_gateway, **settings)


async def _ask(
    address: str, way: str, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask over a connection whose kernel takes little on the way."""
    where = addresses.split(address)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
    await asyncio.get_running_loop().sock_connect(sock, where)
    host = where[0] if tls is not None else None
    reader, writer = await asyncio.open_connection(
        sock=sock, ssl=tls, server_hostname=host, limit=_PIECE_BYTES
    )
    target, token = _WAYS[way]
    writer.write(request_bytes("GET", target, [("X-Auth-Token", token), ("X-Request-Id", way)]))
    return reader, writer


async def _read(reader: asyncio.StreamReader, size: int) -> int:
    """Read slowly but steadily, and return how many bytes came."""
    read = 0
    while read < size and (piece := await reader.read(_PIECE_BYTES)):
        read += len(piece)
        await asyncio.sleep(len(piece) / _BYTES_PER_S)
    return read


async def _read_all(address: str, tls: ssl.SSLContext | None = None) -> dict[str, bool]:
    """Read every response slowly at once; return which have come whole."""
    async with await RawClient.connect(address, tls=tls) as client:
        assert (await client.request("GET", TARGET, [("X-Auth-Token", "alice")])).body == _RECORD
    asked = {way: await _ask(address, way, tls) for way in _WAYS}
    try:
        read = await asyncio.gather(
            *(_read(reader, _BIG_BYTES) for reader, _ in asked.values()), return_exceptions=True
        )
        return {
            way: isinstance(size, int) and size >= _BIG_BYTES for way, size in zip(asked, read, strict=True)
        }
    finally:
        for _, writer in asked.values():
            writer.transport.abort()


async def test_a_steady_slow_reader_gets_all_of_a_large_answer(start: StartGateway) -> None:
    gateway = await start()
    assert await _read_all(gateway.address) == dict.fromkeys(_WAYS, True)


async def test_a_steady_slow_reader_gets_all_of_it_over_tls(start: StartGateway, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.files("127.0.0.1")
    gateway = await start(server__tls_cert=certificate, server__tls_key=key)
    assert await _read_all(gateway.address, authority.client_context()) == dict.fromkeys(_WAYS, True)


async def test_who_stops_reading_is_cut_and_the_log_says_what_was_sent(start: StartGateway) -> None:
    gateway = await start()
    async with await RawClient.connect(gateway.address) as client:
        await client.request("GET", TARGET, [("X-Auth-Token", "alice")])
    asked = {way: await _ask(gateway.address, way, None) for way in _WAYS}
    sizes = await asyncio.gather(*(_read(reader, 1_000_000) for reader, _ in asked.values()))
    read = dict(zip(asked, sizes, strict=True))
    async with asyncio.timeout(10 * _LIMIT_S):
        while not (lines := _lines(gateway)).keys() >= _WAYS.keys():
            await asyncio.sleep(_LIMIT_S / 10)
    for way, (_, writer) in asked.items():
        assert read[way] <= lines[way]["sent_bytes"] <= read[way] + 1_000_000, way
        writer.transport.abort()


def _lines(gateway: GatewayProcess) -> dict[str, dict[str, Any]]:
    """The access lines by the request's id."""
    found = [json.loads(line) for line in gateway.output().splitlines() if '"request_id"' in line]
    return {line["request_id"]: line for line in found}


async def _take_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request with a body of `_BIG_BYTES` slowly but steadily, and answer it."""
    await reader.readuntil(b"\r\n\r\n")
    got = await _read(reader, _BIG_BYTES)
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nX-Got: %d\r\n\r\n" % got)
    await reader.read()
    writer.close()


async def test_an_upload_goes_on_while_the_upstream_takes_it_slowly() -> None:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
    sock.bind(("127.0.0.1", 0))
    is_over = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _take_slowly(reader, writer)
        await writer.wait_closed()
        is_over.set()

    upstream = await asyncio.start_server(take, sock=sock, limit=_PIECE_BYTES)
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with (
        upstream,
        running(url, upstream__read_timeout_s=_LIMIT_S) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        answer = await client.request("PUT", "/x", body=b"x" * _BIG_BYTES, timeout_s=10)
        assert (answer.status, answer.get("x-got")) == (201, b"%d" % _BIG_BYTES)
    await is_over.wait()
