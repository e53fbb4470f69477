"""Both sides of the HTTP tests: the scripted AOS, the raw client, and the example bodies."""

import asyncio
import json
import re

import pytest

from tests.testbed.answers import AnswerCall, Conversation
from tests.testbed.aos import (
    ABSENT,
    Answer,
    Received,
    ScriptedAos,
    close_unanswered,
    record,
    reset_unanswered,
    truncated,
)
from tests.testbed.client import RawClient, TruncatedResponse, fetch, request_bytes
from tests.testbed.payloads import EXECUTION, payload
from tests.testbed.tls import Authority
from tests.testbed.wire import ConnectionCut, MalformedMessage

BARE = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_a_request_is_recorded_byte_for_byte(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    raw = b"PUT /v2//a%2F?q= HTTP/1.1\r\nhOsT: a\r\nX-B: \xff 1 \r\nx-b:2\r\nContent-Length: 3\r\n\r\nabc"
    async with await RawClient.connect(aos.address) as client:
        await client.send(raw)
        await client.read_response("PUT")
    (received,) = aos.received
    assert received.raw_head + received.body == raw
    assert (received.method, received.target, received.connection) == ("PUT", "/v2//a%2F?q=", 1)
    assert received.headers == [
        (b"hOsT", b"a"),
        (b"X-B", b"\xff 1"),
        (b"x-b", b"2"),
        (b"Content-Length", b"3"),
    ]
    assert received.all("X-B") == [b"\xff 1", b"2"]
    assert received.get("content-length") == b"3"
    assert received.get("absent") is None
    with pytest.raises(ValueError, match="2 times"):
        received.get("x-b")


async def test_chunks_and_trailers_of_a_request_are_kept(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    head = request_bytes("POST", "/", [("Transfer-Encoding", "chunked")])
    chunks = b"3;a=1\r\nabc\r\n2\r\nde\r\n0\r\nX-T: v\r\n\r\n"
    async with await RawClient.connect(aos.address) as client:
        await client.send(head + chunks)
        await client.read_response("POST")
    (received,) = aos.received
    assert received.body == b"abcde"
    assert bytes(received.framing.raw) == chunks
    assert received.framing.chunk_sizes == [3, 2]
    assert received.framing.chunk_extensions == [b";a=1", b""]
    assert received.trailers == [(b"X-T", b"v")]


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (Answer(204), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            Answer(404, "Gone Fishing", [("X-a", "1"), ("x-A", "2")], b"body"),
            b"HTTP/1.1 404 Gone Fishing\r\nX-a: 1\r\nx-A: 2\r\nContent-Length: 4\r\n\r\nbody",
        ),
        (Answer(framing="none", body=b"x"), b"HTTP/1.1 200 OK\r\n\r\nx"),
        (Answer(799, framing="close", body=b"x"), b"HTTP/1.1 799 \r\n\r\nx"),
        (
            Answer(framing="chunked", chunks=[b"ab", b"c"], trailers=[("T", "1")]),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n",
        ),
        (Answer(headers=[("content-length", "9")]), b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
    ],
    ids=["bodiless", "length", "none", "close", "chunked", "own length"],
)
def test_framings_are_written_as_described(answer: Answer, wire: bytes) -> None:
    assert answer.whole() == wire


async def test_the_latest_rule_beats_the_queue_and_the_queue_beats_the_default(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"default"))
    aos.queue(Answer(body=b"queued"))
    aos.on("GET", "/a", Answer(body=b"rule"))
    aos.on(None, re.compile("/a/.*"), Answer(body=b"later rule"), times=1)
    bodies = [(await fetch(aos.address, target)).body for target in ("/a/1", "/a/1", "/b", "/b")]
    assert bodies == [b"later rule", b"rule", b"queued", b"default"]
    assert (aos.count("GET", "/a"), aos.count("PUT"), aos.connections) == (2, 0, 4)


async def test_a_request_that_nothing_is_scripted_for_is_a_violation() -> None:
    async with ScriptedAos() as aos:
        assert (await fetch(aos.address, "/x")).status == 501
        assert aos.violations == ["nothing scripted for GET /x"]


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /x HTTP/1.0\r\nHost: h\r\n\r\n",
        b"GET  /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\nA: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nA: \x00\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_a_violation_and_not_received(raw: bytes) -> None:
    async with ScriptedAos() as aos:
        aos.answer(Answer())
        async with await RawClient.connect(aos.address) as client:
            await client.send(raw)
            assert (await client.read_response()).status == 400
            assert await client.at_eof()
        assert len(aos.violations) == 1
        assert aos.received == []


async def test_a_request_broken_off_is_kept_apart(aos: ScriptedAos) -> None:
    async with await RawClient.connect(aos.address) as client:
        await client.send(b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        await aos.wait_until(lambda: bool(aos.heads) and aos.heads[0].body == b"abc", "three bytes")
    async with await RawClient.connect(aos.address) as client:
        await client.send(b"GET /y")
    await aos.wait_until(lambda: len(aos.cut) == 2, "two cuts")
    first, second = aos.cut
    assert isinstance(first, Received)
    assert (first.body, first.complete, second) == (b"abc", False, b"GET /y")
    assert aos.received == []


async def test_connections_are_kept_and_pipelined_requests_answered_in_order(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"1"))
    aos.queue(Answer(body=b"first"), Answer(body=b"last", headers=[("connection", "Close")]))
    async with await RawClient.connect(aos.address) as client:
        await client.send(BARE + BARE)
        assert [(await client.read_response()).body for _ in range(2)] == [b"first", b"last"]
        assert await client.at_eof()
    assert [received.connection for received in aos.received] == [1, 1]


async def test_raw_bytes_are_answered_as_they_are(aos: ScriptedAos) -> None:
    raw = b"HTTP/1.1 103 Early\r\nA: 1\r\n\r\nHTTP/1.1  200 \r\nConnection: close\r\n\r\nx"
    aos.answer(raw.replace(b"1  2", b"1 2"))
    response = await fetch(aos.address, "/")
    assert [interim.status for interim in response.interim] == [103]
    assert (response.status, response.reason, response.body) == (200, b"", b"x")


async def test_an_answer_waits_for_its_gate(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    calls = [asyncio.ensure_future(fetch(aos.address, "/")) for _ in range(3)]
    await gate.wait_reached(3)
    await aos.wait_received(3)
    assert not any(call.done() for call in calls)
    gate.open()
    assert [response.status for response in await asyncio.gather(*calls)] == [200] * 3


async def test_an_answer_can_begin_before_the_body_is_read(aos: ScriptedAos) -> None:
    async def early(received: Received, connection: Conversation) -> None:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_body(at_least_bytes=2)
        half = received.body
        await connection.read_body()
        await connection.answer(Answer(body=half + b"|" + received.body))

    aos.on("PUT", "/", early, at="head")
    async with await RawClient.connect(aos.address) as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
        await aos.wait_until(lambda: bool(aos.heads) and aos.heads[0].body == b"ab", "half a body")
        assert aos.received == []
        await client.send(b"cd")
        response = await client.read_response("PUT")
    assert (response.body, len(response.interim)) == (b"ab|abcd", 1)


@pytest.mark.parametrize(("answer", "is_reset"), [(close_unanswered, False), (reset_unanswered, True)])
async def test_a_connection_can_end_without_an_answer(
    aos: ScriptedAos, answer: AnswerCall, is_reset: bool
) -> None:
    aos.answer(answer)
    async with await RawClient.connect(aos.address) as client:
        await client.send(BARE)
        with pytest.raises(ConnectionCut):
            await client.read_response()
        assert client.was_reset is is_reset
    assert len(aos.received) == 1
    await aos.wait_until(lambda: aos.open_connections == 0, "the end")


async def test_an_answer_can_break_off(aos: ScriptedAos) -> None:
    whole = Answer(body=b"0123456789")
    aos.answer(truncated(whole, len(whole.head()) + 4))
    with pytest.raises(TruncatedResponse) as caught:
        await fetch(aos.address, "/")
    assert caught.value.response.body == b"0123"


async def test_a_failing_answer_is_a_violation() -> None:
    async def fails(_: Received, __: Conversation) -> None:
        raise RuntimeError("oops")

    async with ScriptedAos() as aos:
        aos.answer(fails)
        with pytest.raises(ConnectionCut):
            await fetch(aos.address, "/")
        await aos.wait_until(lambda: aos.violations == ["an answer failed: RuntimeError('oops')"], "it")


async def test_a_wait_that_is_over_says_what_was_missing(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    await fetch(aos.address, "/seen")
    with pytest.raises(TimeoutError, match=r"2 requests; came: \['GET /seen'\]"):
        await aos.wait_received(2, timeout_s=0.01)
    with pytest.raises(TimeoutError, match="1 requests at a gate, 0 came"):
        await aos.gate().wait_reached(timeout_s=0.01)


async def test_closing_ends_what_is_held(authority: Authority) -> None:
    for tls in (None, authority.server_context(wants_client=False)):
        aos = await ScriptedAos(tls=tls).start()
        aos.answer(aos.gate().before(Answer()))
        client_tls = authority.client_context() if tls else None
        call = asyncio.ensure_future(fetch(aos.address, "/", tls=client_tls))
        await aos.wait_received(1)
        await aos.close()
        with pytest.raises(ConnectionCut):
            await call


def test_a_request_is_built_exactly() -> None:
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


def test_a_payload_is_found_by_an_unambiguous_beginning() -> None:
    assert payload("execution-single") == payload(EXECUTION)
    with pytest.raises(LookupError, match="2 payloads begin with 'stack-get'"):
        payload("stack-get")
    with pytest.raises(LookupError, match="0 payloads"):
        payload("nothing")


def test_a_record_is_the_example_with_the_changes_and_no_other() -> None:
    example = json.loads(record())
    assert example == json.loads(payload(EXECUTION))
    assert json.loads(record(None))["status"]["objectStatus"]["phase"] is None
    changed = json.loads(
        record(
            ABSENT,
            name="other",
            kind=ABSENT,
            status__progress=40,
            spec__new__deep=None,
            spec__actionName__below=ABSENT,
        )
    )
    example["metadata"]["name"] = "other"
    del example["kind"], example["status"]["objectStatus"]["phase"]
    example["status"]["progress"] = 40
    example["spec"]["new"] = {"deep": None}
    assert changed == example
