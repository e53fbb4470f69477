"""An upstream whose bodies end in doubt, or whose interim answers claim to have one."""

import asyncio

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Received, ScriptedAos, record
from tests.testbed.gateway import RunningGateway, running

from .kit import BROKEN, OTHER, OWN, TARGETS, assert_not_used_again, get

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        b"3\r\nabc\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\n",
        b"3\r\nabc\r\n0\r\nA: b\x00\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA: b\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3;" + b"x" * 100_000,
        b"0\r\n" + b"X: yyyyyyyy\r\n" * 10_000,
    ],
)
async def test_chunks_that_others_may_read_in_another_way_never_look_whole(
    aos: ScriptedAos, gateway: RunningGateway, chunks: bytes, is_late: bool, target: str
) -> None:
    gate = aos.gate()

    async def answer(_: Received, conversation: Conversation) -> None:
        await conversation.send(_CHUNKED + b"1\r\nq\r\n")
        if is_late:
            await gate.passed()
        await conversation.send(chunks)

    aos.answer(answer)
    asking = asyncio.create_task(get(gateway, target))
    if is_late:
        await gate.wait_reached()
        gate.open()
    try:
        answered = await asking
    except BROKEN:
        assert target == OTHER
    else:
        assert answered.status == 502
        assert answered.get("proxy-status") is not None
    await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "more", [b"\r\n\r\n", b"\r\n\r\n\r\n\r\n", b"0\r\n\r\n", b"x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_bytes_behind_the_last_chunk_are_dropped_with_their_connection(
    aos: ScriptedAos, gateway: RunningGateway, more: bytes, target: str
) -> None:
    aos.answer(_CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + more)
    assert (await get(gateway, target)).body == b"abc"
    await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("target", TARGETS)
async def test_a_reset_does_not_end_a_body_without_a_length(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    async def reset(_: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\n\r\n" + record())
        conversation.abort()

    aos.answer(reset)
    try:
        assert (await get(gateway, target)).status == 502
    except BROKEN:
        assert target == OTHER


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("field", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_an_interim_answer_has_no_body_whatever_it_says(
    aos: ScriptedAos, gateway: RunningGateway, field: bytes, target: str
) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\n" + field + b"\r\n\r\n"
    aos.answer(interim * 2 + OWN.whole())
    for _ in range(2):
        answer = await get(gateway, target)
        assert (answer.status, answer.body) == (404, b"own")
    assert aos.connections == 1


@pytest.mark.parametrize("data", [b"SSH", b"\x00\x00\x04", b"HTTP/2", b"<html>"])
async def test_what_does_not_begin_like_http_is_refused_at_its_first_bytes(
    aos: ScriptedAos, gateway: RunningGateway, data: bytes
) -> None:
    async def greet(_: Received, conversation: Conversation) -> None:
        await conversation.send(data)
        await conversation.wait_closed()

    aos.answer(greet)
    assert (await get(gateway, TARGET)).status == 502


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize(
    ("sound", "damaged", "more"),
    [
        (b"Content-Length: 3", b"Content-Length: x", b""),
        (b"Content-Length: 3", b"Content-Length: 2", b""),
        (b"Content-Length: 3", b"Content-Length: 3", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"Date: Fri, 27", b"Date: Fri,\r27", b""),
        (b"Date: Fri", b"Date:\tFri", b""),
        (b"X-Request-Id: 1", b"X-Request-Id: \x00", b""),
        (b"X-Request-Id: 1\r\n", b"X-Request-Id:\n1\r\n", b""),
    ],
)
async def test_a_response_of_a_known_form_is_read_as_strictly_as_the_first(
    aos: ScriptedAos, lane: bool, sound: bytes, damaged: bytes, more: bytes
) -> None:
    whole = (
        b"HTTP/1.1 200 OK\r\nDate: Fri, 27 Nov 2026 18:00:00 GMT\r\nX-Request-Id: 1\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    async with running(aos.url, server__fast_lane=lane) as gateway:
        for data in (*[whole] * 4, whole.replace(sound, damaged) + more, whole):
            aos.answer(data)
            answer = await get(gateway, TARGET)
            if data == whole:
                assert (answer.status, answer.body) == (200, b"abc")
            elif damaged == b"Content-Length: 2":
                assert (answer.status, answer.body) == (200, b"ab")
            elif more or damaged == b"Date:\tFri":
                assert (answer.status, answer.body) == (200, b"abc")
            else:
                assert answer.status == 502
    # What came with bytes behind its end, or was refused, was the last on its connection.
    assert aos.connections == (1 if damaged == b"Date:\tFri" else 2)
