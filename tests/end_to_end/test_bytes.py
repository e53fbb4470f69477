"""What the upstream says reaches the caller byte for byte, and what the caller says the upstream."""

import asyncio
import gzip
import re
from typing import Literal

import pytest

from tests.testbed.answers import Conversation, as_bytes
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, record
from tests.testbed.client import RawClient, RawResponse, fetch, request_bytes
from tests.testbed.gateway import RunningGateway
from tests.testbed.payloads import EXECUTION, payload, payload_names
from tests.testbed.wire import Field

from .kit import ALICE, OTHER_ROUTE, get, is_hit, pairs, settled

_Framing = Literal["length", "chunked", "close"]
_FRAMINGS: list[_Framing] = ["length", "chunked", "close"]
_VIA = re.compile(rb"1\.1 aos-gateway \([0-9a-f]{8}\)")
_ODD_FIELDS: list[tuple[str | bytes, str | bytes]] = [
    ("x-ODD-Case", "One"),
    ("X-Repeated", "first"),
    ("Content-Type", "application/json;charset=UTF-8"),
    ("x-repeated", "second"),
    ("X-Empty", ""),
    ("X-Inner", "two  blanks,\tand a tab"),
    (b"X-Latin", b"caf\xe9 \xff"),
    ("X_Underscore", "kept"),
    ("X-Repeated", "first"),
    ("Set-Cookie", "a=1; Path=/"),
    ("Set-Cookie", "b=2; HttpOnly"),
    ("Cache-Status", "elsewhere; hit, other; fwd=miss"),
    ("Server", "AOS/1.0"),
    ("Date", "Tue, 15 Nov 1994 08:12:31 GMT"),
    ("Warning", '199 - "odd"'),
    ("Via", "1.0 inner"),
    ("X-Request-Id", "theirs"),
    ("Location", "http://elsewhere.example/%7e?q=%20"),
    ("WWW-Authenticate", 'Basic realm="x"'),
]
_BODIES = {
    "AOS error": payload("error__aos_02_0021"),
    "API gateway error": payload("error__apigw"),
    "HTML": b"<html>\r\n<h1>502 Bad Gateway</h1>\x00\xff\r\n</html>",
    "empty": b"",
}


def _upstream_fields(response: RawResponse) -> list[Field]:
    """The response's fields without what the gateway appends."""
    fields = list(response.headers)
    own = [field for field in fields if field[0] == b"Via" and _VIA.fullmatch(field[1])]
    assert len(own) == 1
    # A 200 that reads as a record gets an ETag; nothing in these tests has one of this form.
    made = re.compile(rb'"[0-9a-f]{32}"')
    found = [field for field in fields if not (field[0] == b"ETag" and made.fullmatch(field[1]))]
    return [field for field in found if field not in own and not _is_ours(field)]


def _is_ours(field: Field) -> bool:
    return field[0] == b"Cache-Status" and field[1].startswith(b"aos-gateway")


@pytest.mark.parametrize("framing", _FRAMINGS)
async def test_every_example_body_passes_byte_for_byte(
    aos: ScriptedAos, gateway: RunningGateway, framing: _Framing
) -> None:
    for name in payload_names():
        body = payload(name)
        aos.answer(Answer(headers=[("Content-Type", "application/json")], body=body, framing=framing))
        for target in (TARGET, OTHER_ROUTE):
            answers = [await get(gateway, target, token=name.encode()) for _ in range(2)]
            assert [answer.body for answer in answers] == [body, body], name
            is_stored = name == EXECUTION and target == TARGET and framing != "close"
            assert is_hit(answers[1]) is is_stored, name


async def test_the_record_without_kind_is_stored_and_hit(aos: ScriptedAos, gateway: RunningGateway) -> None:
    body = payload(EXECUTION).replace(b'"kind"', b'"kinD"', 1)
    aos.answer(Answer(body=body))
    await get(gateway)
    answer = await get(gateway)
    assert is_hit(answer)
    assert answer.body == body


@pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES.keys())
@pytest.mark.parametrize("status", [200, 401, 599])
async def test_status_head_and_body_pass_unchanged(
    aos: ScriptedAos, gateway: RunningGateway, status: int, body: bytes
) -> None:
    aos.answer(Answer(status, "As It Came", _ODD_FIELDS, body))
    for target in (TARGET, OTHER_ROUTE):
        answer = await get(gateway, target)
        assert (answer.version, answer.status, answer.reason) == (b"HTTP/1.1", status, b"As It Came")
        length = (b"Content-Length", b"%d" % len(body))
        assert _upstream_fields(answer) == [*pairs(_ODD_FIELDS), length]
        assert answer.body == body
        assert answer.all("cache-status")[0] == b"elsewhere; hit, other; fwd=miss"
        assert answer.get("proxy-status") is None


@pytest.mark.parametrize("reason", ["", "two  blanks", b"caf\xe9\tb", "x" * 500])
async def test_the_reason_phrase_passes_unchanged_on_miss_and_hit(
    aos: ScriptedAos, gateway: RunningGateway, reason: str | bytes
) -> None:
    aos.answer(Answer(200, reason, body=record()))
    for _ in range(2):
        assert (await get(gateway)).reason == as_bytes(reason)
    assert aos.count() == 1


async def test_a_hit_has_the_kept_fields_in_order_and_case_and_the_same_bytes(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    kept = [field for field in _ODD_FIELDS if field[0] not in {"Set-Cookie", "Via", "X-Request-Id"}]
    aos.answer(Answer(headers=[*kept, ("ETag", '"own"'), ("X-Request-Id", "theirs")], body=record()))
    await get(gateway)
    hit = await get(gateway, TARGET, ("X-Request-Id", "mine"))
    assert is_hit(hit)
    assert hit.body == record()
    length = (b"Content-Length", b"%d" % len(record()))
    found = [field for field in _upstream_fields(hit) if field[0] not in {b"Age", b"X-Request-Id"}]
    assert found == [*pairs(kept), (b"ETag", b'"own"'), length]
    assert hit.get("x-request-id") == b"mine"


@pytest.mark.parametrize("chunks", [[b"one", b"\x00\xff", b"three" * 5000], [b"x"], []])
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("target", [TARGET, OTHER_ROUTE])
async def test_chunked_and_close_delimited_answers_pass_whole(
    aos: ScriptedAos, gateway: RunningGateway, target: str, framing: _Framing, chunks: list[bytes]
) -> None:
    aos.answer(Answer(404, chunks=chunks, framing=framing))
    answer = await get(gateway, target)
    assert answer.body == b"".join(chunks)
    assert answer.get("connection") is None


async def test_content_coding_is_left_alone(aos: ScriptedAos, gateway: RunningGateway) -> None:
    packed = gzip.compress(b"plain" * 100)
    aos.answer(Answer(headers=[("Content-Encoding", "gzip")], body=packed))
    answer = await get(gateway, OTHER_ROUTE, ("Accept-Encoding", "br;q=1, gzip;q=0.5"))
    assert answer.body == packed
    assert aos.received[0].all("accept-encoding") == [b"br;q=1, gzip;q=0.5"]


async def test_nothing_is_added_that_the_contract_does_not_name(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(body=b"x"))
    answer = await fetch(gateway.address, OTHER_ROUTE)
    assert answer.names() == [b"Content-Length", b"Via", b"Cache-Status"]
    assert aos.received[0].names() == [
        b"Host",
        b"Via",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"X-Request-Id",
    ]


async def test_a_multipart_upload_arrives_byte_for_byte(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(201))
    part = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n' + bytes(range(256)) * 2000 + b"\r\n"
    body = part * 3 + b"--b--\r\n"
    answer = await get(
        gateway,
        "/v2/templates",
        ("Content-Type", "multipart/form-data; boundary=b"),
        method="POST",
        body=body,
    )
    assert answer.status == 201
    assert aos.received[0].body == body
    assert aos.received[0].get("content-type") == b"multipart/form-data; boundary=b"


async def test_an_answer_streams_through_before_its_end(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gates = [aos.gate(), aos.gate()]

    async def answer(_: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await gates[0].passed()
        await conversation.send(b"3\r\none\r\n")
        await gates[1].passed()
        await conversation.send(b"3\r\ntwo\r\n0\r\n\r\n")

    aos.answer(answer)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("GET", OTHER_ROUTE))
        assert (await client.read_head()).status == 200
        gates[0].open()
        assert await client.read_some() == b"one"
        gates[1].open()
        assert (await client.read_body()).body == b"onetwo"


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_streams_through_before_its_end(
    aos: ScriptedAos, gateway: RunningGateway, chunked: bool
) -> None:
    async def answer(_: Received, conversation: Conversation) -> None:
        await conversation.read_body()
        await conversation.answer(Answer(200, body=b"done"))

    aos.on("POST", "/v2/x", answer, at="head")
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "6")
    pieces = [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"] if chunked else [b"one", b"two"]
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("POST", "/v2/x", [framing]))
        await aos.wait_heads(1)
        await client.send(pieces[0])
        await aos.wait_until(lambda: aos.heads[0].body == b"one", "the first piece")
        await client.send(pieces[1])
        assert (await client.read_response("POST")).body == b"done"
    assert aos.received[0].body == b"onetwo"
    assert aos.received[0].all("content-length") == ([] if chunked else [b"6"])


@pytest.mark.parametrize("chunked", [False, True])
async def test_both_directions_stream_at_once(
    aos: ScriptedAos, gateway: RunningGateway, chunked: bool
) -> None:
    async def echo(received: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for size in (3, 6):
            await conversation.read_body(size)
            await conversation.send(received.body[size - 3 : size])

    aos.on("POST", "/v2/x", echo, at="head")
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "6")
    pieces = [b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"] if chunked else [b"one", b"two"]
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("POST", "/v2/x", [framing]))
        assert (await client.read_head("POST")).status == 200
        await client.send(pieces[0])
        assert await client.read_some() == b"one"
        await client.send(pieces[1])
        assert (await client.read_body()).body == b"onetwo"


async def test_an_http_10_caller_gets_the_body_to_the_end_of_the_connection(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(chunks=[b"one", b"two"], framing="chunked"))
    async with await RawClient.connect(gateway.address) as client:
        await client.send(b"GET /v2/stacks HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = await client.read_response()
        assert answer.get("transfer-encoding") is None
        assert answer.body == b"onetwo"
        assert await client.at_eof()


@pytest.mark.parametrize("host", [b"", b"Host: x\r\n"])
async def test_an_http_10_caller_may_keep_the_connection(
    aos: ScriptedAos, gateway: RunningGateway, host: bytes
) -> None:
    aos.answer(settled())
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(2):
            head = b"GET %s HTTP/1.0\r\n%sConnection: keep-alive\r\nX-Auth-Token: t\r\n\r\n"
            await client.send(head % (TARGET.encode(), host))
            answer = await client.read_response()
            assert answer.body == record()
            assert answer.get("connection") == b"keep-alive"
    assert aos.count() == 1


async def test_interim_answers_of_the_upstream_do_not_become_the_answer(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    aos.answer(interim + Answer(200, body=b"real").whole())
    for _ in range(2):
        answer = await get(gateway, OTHER_ROUTE)
        assert (answer.status, answer.body) == (200, b"real")


async def test_redirects_and_cookies_pass_untouched(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(302, headers=[("Location", "/elsewhere"), ("Set-Cookie", "a=1")]))
    for _ in range(2):
        answer = await get(gateway, OTHER_ROUTE)
        assert (answer.status, answer.get("location")) == (302, b"/elsewhere")
        assert answer.get("set-cookie") == b"a=1"
    assert [received.get("cookie") for received in aos.received] == [None, None]


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_body_pass(aos: ScriptedAos, gateway: RunningGateway, status: int) -> None:
    aos.answer(Answer(status, headers=[("ETag", '"x"')]))
    async with await RawClient.connect(gateway.address) as client:
        for target in (TARGET, OTHER_ROUTE, OTHER_ROUTE):
            answer = await client.request("GET", target, [("X-Auth-Token", ALICE)])
            assert (answer.status, answer.body) == (status, b"")
            assert answer.get("content-length") is None
            assert answer.get("transfer-encoding") is None
    assert aos.connections == 1


async def test_a_head_on_another_route_passes_with_its_length(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(headers=[("Content-Length", "12345")], framing="none"))
    answer = await get(gateway, OTHER_ROUTE, method="HEAD")
    assert answer.get("content-length") == b"12345"
    assert answer.body == b""


async def test_concurrent_streams_do_not_mix(aos: ScriptedAos, gateway: RunningGateway) -> None:
    async def answer(received: Received, conversation: Conversation) -> None:
        chunks = [received.target.encode() * 50] * 20
        await conversation.answer(Answer(chunks=chunks, framing="chunked"))

    aos.answer(answer)
    targets = [f"/v2/x/{number}" for number in range(20)]
    answers = await asyncio.gather(*(get(gateway, target) for target in targets))
    assert [response.body for response in answers] == [target.encode() * 1000 for target in targets]
