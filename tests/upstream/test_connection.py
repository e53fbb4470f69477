"""Bytes that nobody asked for, on a pooled connection."""

from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, record
from tests.testbed.client import fetch
from tests.testbed.gateway import running

_OTHER = "/v2/stacks"


async def test_half_a_head_on_an_idle_connection_closes_it(aos: ScriptedAos) -> None:
    """Half a head is in no message queue: without a watch on the bytes nobody would know of it."""
    waits_for_close: list[bool] = []
    gate = aos.gate()

    async def answer_then_begin_another(_: Received, conversation: Conversation) -> None:
        await conversation.answer(Answer(body=b"one"))
        await gate.passed()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Evil: ")
        waits_for_close.append(True)
        await conversation.wait_closed()
        waits_for_close.append(False)

    aos.queue(answer_then_begin_another)
    aos.answer(Answer(body=record()))
    async with running(aos.url) as gateway:
        assert (await fetch(gateway.address, _OTHER, token="a")).body == b"one"
        gate.open()
        await aos.wait_until(lambda: waits_for_close == [True, False], lambda: "the connection to be closed")
        assert (await fetch(gateway.address, TARGET, token="a")).body == record()
    assert aos.connections == 2
