"""The side towards callers: listeners, keep-alive, bounds, rejections and the drain."""

import asyncio
import logging
from pathlib import Path

import pytest

from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.response import assert_refused

from .kit import ALICE, BOB, OTHER_ROUTE, flood, get, is_hit, settled, until

_TOKEN = ("X-Auth-Token", ALICE)
_GET = request_bytes("GET", TARGET, [_TOKEN])


async def test_a_unix_socket_serves_like_a_tcp_address(aos: ScriptedAos, socket_folder: Path) -> None:
    aos.answer(settled())
    path = socket_folder / "gateway.sock"
    async with running(aos.url, server__listen=f"unix:{path}", cache__scope="shared") as gateway:
        for token in (ALICE, BOB):
            answer = await fetch(gateway.address, TARGET, token=token)
            assert answer.body == record()
        assert is_hit(answer)
        assert (await get(gateway, OTHER_ROUTE, ("Host", "any.example"))).status == 200
        assert aos.received[-1].get("x-forwarded-for") in {None, b"unknown"}
    assert not path.exists()


async def test_one_connection_carries_many_requests(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("POST", "/", Answer(201, body=b"made"))
    aos.answer(settled())
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(3):
            answer = await client.request("GET", TARGET, [_TOKEN])
            assert answer.body == record()
            assert answer.get("connection") is None
            assert (await client.request("POST", "/x", body=b"{}")).body == b"made"
            assert (await client.request("HEAD", OTHER_ROUTE)).status == 200


async def test_pipelined_requests_are_answered_in_order(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.on("GET", "/slow", gate.before(Answer(body=b"slow")))
    aos.on("GET", "/quick", Answer(body=b"quick"))
    aos.on("PUT", "/put", Answer(body=b"put"))
    async with await RawClient.connect(gateway.address) as client:
        put = request_bytes("PUT", "/put", body=b"abc")
        await client.send(request_bytes("GET", "/slow") + put + request_bytes("GET", "/quick"))
        await gate.wait_reached()
        assert len(aos.heads) == 1
        gate.open()
        assert [(await client.read_response()).body for _ in range(3)] == [b"slow", b"put", b"quick"]


async def test_an_idle_connection_is_closed(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with (
        running(aos.url, server__keepalive_timeout_s=0.2) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.request("GET", TARGET, [_TOKEN])
        assert await client.at_eof(3)


async def test_a_caller_who_says_close_is_closed(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    async with await RawClient.connect(gateway.address) as client:
        answer = await client.request("GET", TARGET, [_TOKEN, ("Connection", "close")])
        assert answer.get("connection") == b"close"
        assert await client.at_eof()


@pytest.mark.parametrize("begins", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_slow_head_is_answered_with_408(aos: ScriptedAos, begins: bytes) -> None:
    async with (
        running(aos.url, server__header_timeout_s=0.2) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(begins)
        assert_refused(await client.read_response(), 408)
        assert await client.at_eof()


async def test_a_slow_head_on_a_used_connection_is_answered_with_408(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with (
        running(aos.url, server__header_timeout_s=0.2) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.request("GET", TARGET, [_TOKEN])
        await client.send(b"GET / HT")
        assert_refused(await client.read_response(), 408)


@pytest.mark.parametrize("first", [_GET, request_bytes("POST", "/x", body=b"abc")])
async def test_a_slow_head_right_behind_a_request_has_its_own_deadline_not_the_idle_time(
    aos: ScriptedAos, first: bytes
) -> None:
    aos.answer(settled())
    async with (
        running(aos.url, server__keepalive_timeout_s=0.1, server__header_timeout_s=0.3) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(first + b"GET / HT")
        assert (await client.read_response()).status == 200
        assert_refused(await client.read_response(), 408)
        assert await client.at_eof(3)


async def test_a_slow_fetch_is_not_mistaken_for_a_slow_head(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    async with (
        running(aos.url, server__header_timeout_s=0.1) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(_GET)
        await gate.wait_reached()
        with pytest.raises(TimeoutError):
            await client.read_head(timeout_s=0.3)
        gate.open()
        assert (await client.read_response()).status == 200


@pytest.mark.parametrize(
    "head",
    [
        request_bytes("GET", TARGET, [("X-A", "x" * 70_000)]),
        request_bytes("GET", TARGET, [(f"X-{number}", "x" * 7_000) for number in range(10)]),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1 << 20, 1000])
async def test_a_head_too_large_is_answered_with_431(
    aos: ScriptedAos, gateway: RunningGateway, head: bytes, piece_bytes: int
) -> None:
    async with await RawClient.connect(gateway.address) as client:
        for start in range(0, len(head), piece_bytes):
            client.writer.write(head[start : start + piece_bytes])
            await asyncio.sleep(0)
        assert_refused(await client.read_response(), 431)
    assert aos.heads == []


@pytest.mark.parametrize("piece_bytes", [1 << 20, 1000])
async def test_a_target_too_long_is_answered_with_414(
    aos: ScriptedAos, gateway: RunningGateway, piece_bytes: int
) -> None:
    sent = request_bytes("GET", "/" + "x" * 70_000)
    async with await RawClient.connect(gateway.address) as client:
        for start in range(0, len(sent), piece_bytes):
            client.writer.write(sent[start : start + piece_bytes])
            await asyncio.sleep(0)
        assert_refused(await client.read_response(), 414)
    assert aos.heads == []


async def test_a_token_of_60_kb_fits(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    for _ in range(2):
        answer = await get(gateway, token=b"t" * 60_000)
        assert answer.status == 200
    assert is_hit(answer)


async def test_more_fields_than_any_client_sends_are_refused(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    answer = await get(gateway, TARGET, *[("X-A", "1")] * 600)
    assert answer.status in {400, 431}
    assert aos.heads == []


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token : t\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
async def test_a_malformed_request_is_answered_with_a_problem_and_no_traceback(
    aos: ScriptedAos, gateway: RunningGateway, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(sent + _GET)
        answer = await client.read_response()
        assert_refused(answer, 400)
        assert answer.json()["code"] == "GATEWAY.4000001"
        # Whatever follows is not read: nobody knows where it would begin.
        assert await client.at_eof()
    assert aos.heads == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("sent", [b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"GET /\r\n\r\n"])
async def test_another_http_is_refused(aos: ScriptedAos, gateway: RunningGateway, sent: bytes) -> None:
    async with await RawClient.connect(gateway.address) as client:
        await client.send(sent)
        answer = await client.read_response()
        assert answer.status in {400, 505}
        assert answer.get("content-type") == b"application/problem+json"
    assert aos.heads == []


async def test_malformed_chunks_break_off_the_request_upstream(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(200))
    async with await RawClient.connect(gateway.address) as client:
        head = request_bytes("POST", "/x", [("Transfer-Encoding", "chunked")])
        await client.send(head + b"3\r\nabc\r\n")
        await aos.wait_until(lambda: bool(aos.heads) and aos.heads[0].body == b"abc", "the first chunk")
        await client.send(b"zz\r\n")
        assert_refused(await client.read_response("POST"), 400)
    await aos.wait_until(lambda: bool(aos.cut), "the upstream to see the cut")
    assert aos.received == []


async def test_connections_beyond_the_bound_are_refused_with_503(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, server__max_connections=2) as gateway:
        first = await RawClient.connect(gateway.address)
        async with await RawClient.connect(gateway.address) as second:
            await second.request("GET", TARGET, [_TOKEN])
            async with await RawClient.connect(gateway.address) as third:
                answer = await third.read_response()
                assert_refused(answer, 503)
                assert answer.get("retry-after") == b"1"
                assert await third.at_eof()
            assert is_hit(await second.request("GET", TARGET, [_TOKEN]))
        await first.close()
        await until(lambda: len(gateway.app.server.connections) <= 1)
        assert is_hit(await get(gateway))


async def test_connections_of_one_address_beyond_its_bound_are_refused_and_others_are_not(
    aos: ScriptedAos,
) -> None:
    aos.answer(settled())
    async with running(aos.url, server__max_connections_per_peer=2) as gateway:
        async with (
            await RawClient.connect(gateway.address),
            await RawClient.connect(gateway.address) as second,
        ):
            async with await RawClient.connect(gateway.address) as third:
                # Bytes that nobody reads would reset the connection and lose the response.
                await third.send(_GET + b"x" * 100_000)
                assert_refused(await third.read_response(), 503)
                assert await third.at_eof()
            async with await RawClient.connect(gateway.address, source="127.0.0.2") as other:
                assert (await other.request("GET", TARGET, [_TOKEN])).status == 200
            assert is_hit(await second.request("GET", TARGET, [_TOKEN]))
        await until(lambda: not gateway.app.server.connections)
        for _ in range(3):
            assert is_hit(await get(gateway))


async def test_a_chunked_request_closes_its_connection_and_what_follows_is_dropped(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(200, body=b"ok"))
    chunked = request_bytes("POST", "/x", [("Transfer-Encoding", "chunked")])
    trailers = b"3\r\nabc\r\n0\r\nX-Auth-Token: smuggled\r\nX-Sum: 1\r\n\r\n"
    async with await RawClient.connect(gateway.address) as client:
        await client.send(chunked + trailers + _GET)
        answer = await client.read_response("POST")
        assert (answer.status, answer.get("connection")) == (200, b"close")
        assert await client.at_eof()
    assert [received.target for received in aos.received] == ["/x"]
    assert aos.received[0].body == b"abc"
    assert aos.received[0].get("x-auth-token") is None


async def test_a_caller_who_takes_nothing_is_cut_off(aos: ScriptedAos) -> None:
    aos.answer(flood)
    async with running(aos.url, server__body_timeout_s=0.3) as gateway:
        client = await RawClient.connect(gateway.address)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", OTHER_ROUTE))
        await aos.wait_heads(1)
        await aos.wait_until(lambda: aos.open_connections == 0, "the gateway to let go")
        assert gateway.app.upstream.slots.in_use == 0
        client.abort()


async def test_a_caller_who_half_closes_gets_his_answer(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    async with await RawClient.connect(gateway.address) as client:
        await client.send(_GET)
        await gate.wait_reached()
        client.half_close()
        gate.open()
        # aiohttp takes the end of a caller's side for the end of both.
        assert await client.at_eof() or (await client.read_response()).status == 200
