"""Ends of connections, by either side and in a drain: no request lost, no connection held."""

import asyncio

import pytest

from tests.testbed.answers import AnswerCall, Conversation, Received
from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, RawResponse, TruncatedResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.wire import ConnectionCut

_HOST = b"Host: h\r\n"
_GET = b"GET /x HTTP/1.1\r\n" + _HOST + b"\r\n"
_NEXT = b"GET /next HTTP/1.1\r\n" + _HOST + b"\r\n"
_CHUNKED = b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"


async def _sent(gateway: RunningGateway, data: bytes) -> RawResponse:
    """Send bytes, and return the response before the connection's end."""
    async with await RawClient.connect(gateway.address) as client:
        await client.send(data)
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
async def test_a_half_closed_connection_gets_its_response(
    gateway: RunningGateway, data: bytes, status: int
) -> None:
    async with await RawClient.connect(gateway.address) as client:
        client.writer.write(data)
        client.half_close()
        assert (await client.read_response()).status == status
        assert await client.at_eof(3)


@pytest.mark.parametrize("behind", [_NEXT, b"BAD\r\n\r\n"])
async def test_a_connection_that_lingers_ends_with_its_caller(gateway: RunningGateway, behind: bytes) -> None:
    """Also where the bytes of a pipelined request have paused reading."""
    async with await RawClient.connect(gateway.address) as client:
        await client.send(_GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + behind)
        assert (await client.read_response()).status == 200
    await _no_connections(gateway)


async def test_a_connection_whose_caller_has_ended_its_side_does_not_linger(gateway: RunningGateway) -> None:
    async with await RawClient.connect(gateway.address) as client:
        client.writer.write(_WHOLE["a chunked write"][0])
        client.half_close()
        assert (await client.read_response()).status == 200
        await _no_connections(gateway)


async def _no_connections(gateway: RunningGateway) -> None:
    # Half of what a connection may linger.
    async with asyncio.timeout(0.5):
        while gateway.app.server.connections:
            await asyncio.sleep(0.01)


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


def _stalling(gateway: RunningGateway, framing: bytes) -> AnswerCall:
    """Return an answer that ends as soon as the gateway keeps some of it for a caller who does not read."""

    async def answer(_: Received, conversation: Conversation) -> None:
        (connection,) = gateway.app.server.connections
        transport = connection.transport
        assert transport is not None
        await conversation.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        while not transport.get_write_buffer_size():
            piece = b"x" * 32_768
            await conversation.send(b"8000\r\n%b\r\n" % piece if framing else piece)
            await asyncio.sleep(0.01)
        if framing:
            await conversation.send(b"0\r\n\r\n")
        conversation.close()

    return answer


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked\r\n"], ids=["close", "chunked"])
async def test_a_caller_who_takes_nothing_of_a_body_that_only_the_end_delimits_sees_a_reset(
    aos: ScriptedAos, framing: bytes
) -> None:
    """Also when the gateway has it whole: what the kernel has not taken is not cut without a sign."""
    async with running(aos.url, server__body_timeout_s=0.2) as gateway:
        aos.answer(_stalling(gateway, framing))
        async with await RawClient.connect(gateway.address) as client:
            await client.send(b"GET /x HTTP/1.0\r\n\r\n")
            async with asyncio.timeout(5):
                while gateway.app.server.connections:
                    await asyncio.sleep(0.02)
            with pytest.raises((TruncatedResponse, ConnectionCut)):
                await client.read_response()
            assert client.was_reset
