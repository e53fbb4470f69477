"""The raw client: exact sending, exact reading."""

import asyncio

import pytest

from tests.testbed.aos import Answer, ScriptedAos, truncated
from tests.testbed.client import RawClient, TruncatedResponse, fetch, request_bytes
from tests.testbed.wire import MalformedMessage


def test_a_request_is_built_exactly_as_told() -> None:
    assert request_bytes("GET", "/a?") == b"GET /a? HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert request_bytes("PUT", "/", [("host", "x"), (b"B", b"\xff")], b"ab") == (
        b"PUT / HTTP/1.1\r\nhost: x\r\nB: \xff\r\nContent-Length: 2\r\n\r\nab"
    )
    own = request_bytes("PUT", "/", [("Transfer-Encoding", "chunked")], b"0\r\n\r\n")
    assert own.endswith(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


async def test_fetch_sends_host_fields_and_token_in_this_order(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    await fetch(aos.address, "/", method="PUT", headers=[("A", "b")], token="secret", body=b"x")
    assert aos.received[0].headers == [
        (b"Host", aos.address.encode()),
        (b"A", b"b"),
        (b"X-Auth-Token", b"secret"),
        (b"Content-Length", b"1"),
    ]


async def test_chunks_trailers_and_fields_of_a_response_are_kept(aos: ScriptedAos) -> None:
    headers = [("X-a", "1"), ("x-A", "2")]
    aos.answer(Answer(headers=headers, framing="chunked", chunks=[b"ab", b"c"], trailers=[("T", "1")]))
    response = await fetch(aos.address, "/")
    assert (response.body, response.framing.chunk_sizes) == (b"abc", [2, 1])
    assert response.raw_body == b"2\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n"
    assert response.trailers == [(b"T", b"1")]
    assert response.all("x-a") == [b"1", b"2"]
    assert response.names() == [b"X-a", b"x-A", b"Transfer-Encoding"]
    assert response.version == b"HTTP/1.1"


@pytest.mark.parametrize("with_reset", [False, True])
async def test_a_broken_off_body_is_an_error_with_what_came(aos: ScriptedAos, with_reset: bool) -> None:
    whole = Answer(framing="chunked", chunks=[b"abc"])
    aos.answer(truncated(whole, len(whole.head()) + 8, with_reset=with_reset))
    async with await RawClient.connect(aos.address) as client:
        await client.send(request_bytes("GET", "/"))
        with pytest.raises(TruncatedResponse, match="200 broke off after 3 bytes") as caught:
            await client.read_response()
        assert caught.value.response.body == b"abc"
        assert client.was_reset is with_reset


async def test_a_silent_server_is_an_error_at_the_deadline(aos: ScriptedAos) -> None:
    async with await RawClient.connect(aos.address) as client:
        with pytest.raises(TimeoutError):
            await client.read_response(timeout_s=0.01)
        assert not await client.at_eof(timeout_s=0.01)


async def test_a_byte_too_many_is_no_end(aos: ScriptedAos) -> None:
    aos.answer(Answer(framing="length", headers=[("Content-Length", "1")], body=b"12"))
    async with await RawClient.connect(aos.address) as client:
        assert (await client.request("GET", "/")).body == b"1"
        assert not await client.at_eof()


async def test_a_malformed_response_is_an_error(aos: ScriptedAos) -> None:
    aos.queue(b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad field: 1\r\n\r\n")
    for _ in range(2):
        with pytest.raises(MalformedMessage):
            await fetch(aos.address, "/")


async def test_half_closing_leaves_the_answer_readable(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer(body=b"late")))
    async with await RawClient.connect(aos.address) as client:
        await client.send(request_bytes("GET", "/"))
        await gate.wait_reached()
        client.half_close()
        gate.open()
        assert (await client.read_response()).body == b"late"


async def test_leaving_with_a_reset_is_seen_as_one(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(Answer()))
    async with await RawClient.connect(aos.address) as client:
        await client.send(request_bytes("GET", "/"))
        await gate.wait_reached()
        client.abort()
        await aos.wait_until(lambda: aos.open_connections == 0, "the reset")


async def test_many_clients_work_at_once(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"x" * 100_000))
    responses = await asyncio.gather(*(fetch(aos.address, f"/{n}") for n in range(100)))
    assert {len(response.body) for response in responses} == {100_000}
    assert aos.connections == 100
