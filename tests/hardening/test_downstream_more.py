"""More raw requests that break or bend HTTP, and ends of connections: no request lost, no connection held."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, RawResponse, TruncatedResponse
from tests.testbed.gateway import GatewayProcess, RunningGateway, running

from .segments import WAYS, send_split

_HOST = b"Host: h\r\n"
_GET = b"GET /x HTTP/1.1\r\n" + _HOST + b"\r\n"
_NEXT = b"GET /next HTTP/1.1\r\n" + _HOST + b"\r\n"
_CHUNKED = b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"
_PASSWORD = b"zqxjpassword"


async def _sent(gateway: RunningGateway, data: bytes, way: str = "whole") -> RawResponse:
    """Send bytes, and tell what the last answer before the connection's end is."""
    async with await RawClient.connect(gateway.address) as client:
        await send_split(client, data, way)
        answer = await client.read_response()
        assert await client.at_eof(3)
    return answer


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize(
    "options",
    [
        b"Connection: close, keep-alive\r\n",
        b"Connection: keep-alive, close\r\n",
        b"Connection: keep-alive\r\nConnection: close\r\n",
        b"Connection: close\r\nConnection: keep-alive\r\n",
        b"connection: x-a,\tCLOSE\r\n",
    ],
)
async def test_close_ends_a_connection_whatever_stands_beside_it(
    aos: ScriptedAos, gateway: RunningGateway, options: bytes, version: bytes
) -> None:
    data = b"GET /x " + version + b"\r\n" + _HOST + options + b"\r\n"
    answer = await _sent(gateway, data + _NEXT)
    assert (answer.status, answer.get("connection")) == (200, b"close")
    assert [received.target for received in aos.received] == ["/x"]


_UNBOUNDED_CHUNKS = {
    "extension": b"3;" + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n",
    "extensions": (b"1;" + b"a" * 4000 + b"\r\na\r\n") * 20 + b"0\r\n\r\n",
    "zeros": b"0" * 100_000 + b"3\r\nabc\r\n0\r\n\r\n",
    "trailers": b"3\r\nabc\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "size of 64 bits": b"FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    "size with a sign": b"8000000000000003\r\nabc\r\n0\r\n\r\n",
    "size after a good chunk": b"3\r\nabc\r\n8000000000000003\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rest", _UNBOUNDED_CHUNKS.values(), ids=_UNBOUNDED_CHUNKS.keys())
async def test_chunks_without_bound_are_refused(
    aos: ScriptedAos, gateway: RunningGateway, rest: bytes, way: str
) -> None:
    assert (await _sent(gateway, _CHUNKED + rest, way)).status == 400
    assert aos.received == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("begins", [b"\r", b"\n", b"\r\n\r", b"\r\n\n", b"\n\r\n"])
async def test_a_bare_line_end_before_a_request_is_refused(
    aos: ScriptedAos, gateway: RunningGateway, begins: bytes, way: str
) -> None:
    assert (await _sent(gateway, begins + _GET, way)).status == 400
    assert aos.received == []


@pytest.mark.parametrize(
    "host", [b"h:65536", b"h:99999", b"h,h", b":80", b"[1::2::3]", b"[::ffff:999.1.1.1]", b"[::1]x"]
)
async def test_a_host_that_names_no_host_is_refused(
    aos: ScriptedAos, gateway: RunningGateway, host: bytes
) -> None:
    assert (await _sent(gateway, b"GET /x HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")).status == 400
    assert (await _sent(gateway, b"GET http://" + host + b"/x HTTP/1.0\r\n\r\n")).status == 400
    assert aos.received == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"A /x HTTP/1.1", 400),
        (b"GET /x HTTP/3.0", 505),
        (b"GET /x HTTP/9.9", 505),
        (b"GET /x HTTP/1.10", 400),
    ],
)
async def test_a_request_line_has_one_status_however_it_is_cut(
    gateway: RunningGateway, line: bytes, status: int
) -> None:
    data = line + b"\r\n" + _HOST + b"\r\n"
    for end in range(1, len(line) + 3):
        async with await RawClient.connect(gateway.address) as client:
            await client.send(data[:end])
            # A turn for its parts to be read apart.
            for _ in range(4):
                await asyncio.sleep(0)
            await client.send(data[end:])
            assert ((await client.read_response()).status, end) == (status, end)


_WHOLE = {
    "a read": (_GET, 200),
    "a write": (b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\nabc", 200),
    "a chunked write": (_CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", 200),
    "no request": (b"BAD\r\n\r\n", 400),
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "bad framing": (b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: -1\r\n\r\n", 400),
    "a bad chunk": (_CHUNKED + b"zz\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), _WHOLE.values(), ids=_WHOLE.keys())
async def test_who_ends_its_own_side_behind_a_request_is_answered(
    gateway: RunningGateway, data: bytes, status: int
) -> None:
    async with await RawClient.connect(gateway.address) as client:
        client.writer.write(data)
        client.half_close()
        assert (await client.read_response()).status == status
        assert await client.at_eof(3)


@pytest.mark.parametrize("data", [b"GET /x HT", _CHUNKED + b"3\r\nab", _CHUNKED + b"3\r\nabc\r\n0\r\n"])
async def test_what_ends_before_it_is_whole_is_never_sent_whole(
    aos: ScriptedAos, gateway: RunningGateway, data: bytes
) -> None:
    async with await RawClient.connect(gateway.address) as client:
        await client.send(data)
        client.half_close()
        assert await client.at_eof(3)
    assert aos.received == []


async def test_an_idle_connection_is_closed_though_a_head_was_under_way_at_its_first_time_out(
    aos: ScriptedAos,
) -> None:
    aos.answer(Answer(body=b"x"))
    async with (
        running(aos.url, server__keepalive_timeout_s=0.4) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(_GET + _NEXT[:9])
        assert (await client.read_response()).status == 200
        # The time-out is what is waited for.
        assert not await client.at_eof(0.6)
        await client.send(_NEXT[9:])
        assert (await client.read_response()).status == 200
        assert await client.at_eof(2)


async def test_a_head_that_has_begun_is_taken_to_its_end_in_a_drain(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"x"))
    async with (
        running(aos.url) as gateway,
        await RawClient.connect(gateway.address) as fresh,
        await RawClient.connect(gateway.address) as kept,
        await RawClient.connect(gateway.address) as idle,
    ):
        await kept.send(_GET + _NEXT[:9])
        assert (await kept.read_response()).status == 200
        await fresh.send(_NEXT[:9])
        await idle.send(_GET)
        assert (await idle.read_response()).status == 200
        closing = asyncio.create_task(gateway.app.close(5))
        assert await idle.at_eof(3)
        for client in (fresh, kept):
            await client.send(_NEXT[9:])
            answer = await client.read_response()
            assert (answer.status, answer.get("connection")) == (200, b"close")
            assert await client.at_eof(3)
        await closing
    assert aos.count(target="/next") == 2


@pytest.mark.parametrize("rest", [_NEXT, b"PUT /next HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\nabc"])
async def test_a_pipelined_request_that_was_read_is_answered_in_a_drain(
    aos: ScriptedAos, rest: bytes
) -> None:
    gate = aos.gate()
    aos.on("GET", "/x", gate.before(Answer(body=b"first")))
    aos.on("GET", "/next", Answer(body=b"second"))
    aos.on("PUT", "/next", Answer(body=b"second"))
    async with (
        running(aos.url) as gateway,
        await RawClient.connect(gateway.address) as idle,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(_GET + rest)
        await gate.wait_reached()
        closing = asyncio.create_task(gateway.app.close(5))
        assert await idle.at_eof(3)
        gate.open()
        assert (await client.read_response()).body == b"first"
        answer = await client.read_response()
        assert (answer.body, answer.get("connection")) == (b"second", b"close")
        assert await client.at_eof(3)
        await closing


async def test_a_body_that_only_the_end_delimits_and_that_broke_off_ends_in_a_reset(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()

    async def cut(_: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await gate.passed()
        conversation.close()

    aos.answer(cut)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(b"GET /x HTTP/1.0\r\n\r\n")
        await client.read_head()
        assert await client.read_some() == b"abc"
        gate.open()
        with pytest.raises(TruncatedResponse):
            await client.read_body()
        assert client.was_reset


@pytest.fixture
async def process(aos: ScriptedAos) -> AsyncIterator[GatewayProcess]:
    """A gateway as a process of its own."""
    aos.answer(Answer(body=b"x"))
    started = GatewayProcess("--upstream", aos.url)
    try:
        yield await started.ready()
    finally:
        started.discard()


async def test_no_password_of_a_target_is_logged(process: GatewayProcess) -> None:
    for line in (
        b"GET http://u:" + _PASSWORD + b"@h/x HTTP/1.1",
        b"CONNECT u:" + _PASSWORD + b"@h:443 HTTP/1.1",
        b"GET /x?t=" + _PASSWORD + b" HTTP/1.1",
        b"GET /x#" + _PASSWORD + b" HTTP/1.1",
    ):
        async with await RawClient.connect(process.address) as client:
            await client.send(line + b"\r\n" + _HOST + b"Connection: close\r\n\r\n")
            await client.read_response()
    assert await process.stop() == 0
    assert _PASSWORD.decode() not in process.output()


_HEALTHY = b"POST /good HTTP/1.1\r\n" + _HOST + b"Content-Length: 100\r\n\r\n"
_SLOW_BODY = b"POST /slow HTTP/1.1\r\n" + _HOST + b"Content-Length: 100\r\n\r\na"
_SLOW_READER = b"GET /big HTTP/1.1\r\n" + _HOST + b"\r\n"


@pytest.mark.parametrize(
    "slow",
    [[_SLOW_BODY, _SLOW_READER] * 4, [_SLOW_BODY] * 24, [_SLOW_READER] * 24],
    ids=["as many as places", "many bodies", "many readers"],
)
async def test_slow_bodies_and_slow_readers_do_not_take_every_upstream_connection(
    aos: ScriptedAos, slow: list[bytes]
) -> None:
    """However many they are, there is a place for those who are quick, and uploads that go on end well."""
    aos.on("GET", "/big", Answer(body=b"x" * 8_000_000))
    aos.on("GET", "/x", Answer(body=b"x"))
    aos.on("POST", "/", Answer(body=b"x"))
    clients: list[RawClient] = []
    try:
        async with running(aos.url, upstream__max_connections=8) as gateway:
            for data in [_HEALTHY, *slow, b""]:
                clients.append(await RawClient.connect(gateway.address))
                await clients[-1].send(data)
            healthy, quick = clients[0], clients[-1]
            going_on = asyncio.create_task(_drip(healthy, 100))
            for _ in range(3):
                await quick.send(_GET)
                assert (await quick.read_response(timeout_s=8)).status == 200
            assert gateway.app.upstream.slots.in_use <= 2 * 8
            await going_on
            assert (await healthy.read_response("POST")).status == 200
    finally:
        for client in clients:
            client.abort()


async def _drip(client: RawClient, size: int) -> None:
    for _ in range(size):
        await client.send(b"a")
        await asyncio.sleep(0.02)


async def test_every_byte_in_every_place_of_a_head_is_refused_or_carried_exactly(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    token = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
    wanted = 0
    for number in range(256):
        byte = bytes([number])
        if byte == b":":
            continue  # ends a name wherever it stands
        places = {
            b"GET /a" + byte + b"b HTTP/1.1\r\n" + _HOST + b"\r\n": b"!" <= byte <= b"~" and byte != b"#",
            b"GET /a?" + byte + b" HTTP/1.1\r\n" + _HOST + b"\r\n": b"!" <= byte <= b"~" and byte != b"#",
            b"GET /a HTTP/1.1\r\n" + _HOST + b"A: b" + byte + b"c\r\n\r\n": byte == b"\t"
            or (byte >= b" " and byte != b"\x7f"),
            b"GET /a HTTP/1.1\r\n" + _HOST + b"A" + byte + b"c: d\r\n\r\n": bool(token.match(byte)),
        }
        for data, is_carried in places.items():
            async with await RawClient.connect(gateway.address) as client:
                await client.send(data)
                answer = await client.read_response()
            assert (answer.status, data) == (200 if is_carried else 400, data)
            if is_carried:
                wanted += 1
                got = aos.received[-1]
                kept = [line for line in data.split(b"\r\n")[2:] if line]
                assert got.target == data.split(b" ")[1].decode()
                assert all(line in got.raw_head.split(b"\r\n") for line in kept)
    assert len(aos.received) == wanted
