"""Writes are sent once, and what they may have changed is invalidated."""

import asyncio

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import (
    ACTION_ID,
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    Received,
    ScriptedAos,
    close_unanswered,
    never,
    record,
    reset_unanswered,
    truncated,
)
from tests.testbed.client import RawClient, TruncatedResponse, request_bytes
from tests.testbed.gateway import RunningGateway, running

from .kit import ALICE, BOB, MovableTime, cache_status, get, is_hit, settled

_STACK = f"/v2/stacks/{STACK_ID}"
_ACTIONS = f"{_STACK}/actions"
_OVERRIDE = ("X-HTTP-Method-Override", "DELETE")


@pytest.mark.parametrize(
    ("body", "is_reused", "cut"),
    [
        (None, False, close_unanswered),
        (None, True, reset_unanswered),
        (b'{"action": "update"}', False, reset_unanswered),
        (b'{"action": "update"}', True, close_unanswered),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH", "OPTIONS"])
async def test_a_request_that_is_read_and_cut_off_was_received_exactly_once(
    aos: ScriptedAos, method: str, body: bytes | None, is_reused: bool, cut: AnyAnswer
) -> None:
    async with running(aos.url) as gateway:
        if is_reused:
            aos.queue(Answer(404))
            await get(gateway, "/warm")
        aos.answer(cut)
        answer = await get(gateway, _ACTIONS, method=method, body=body)
        assert answer.status == 502
        assert answer.get("proxy-status") == b"aos-gateway; error=connection_terminated"
        assert aos.count(method) == 1
        assert len(aos.heads) == 1 + is_reused


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_get_that_says_it_is_another_method_is_never_repeated(
    aos: ScriptedAos, gateway: RunningGateway, method: str
) -> None:
    aos.queue(Answer(404))
    await get(gateway, "/warm")
    aos.answer(close_unanswered)
    assert (await get(gateway, _STACK, _OVERRIDE, method=method)).status == 502
    assert len(aos.heads) == 2


@pytest.mark.parametrize("is_reused", [False, True])
async def test_an_upstream_that_stays_silent_has_received_a_write_once(
    aos: ScriptedAos, is_reused: bool
) -> None:
    async with running(aos.url, upstream__read_timeout_s=0.2) as gateway:
        if is_reused:
            aos.queue(Answer(404))
            await get(gateway, "/warm")
        aos.answer(never)
        assert (await get(gateway, _STACK, method="DELETE")).status == 504
    assert aos.count("DELETE") == 1


_MAY_HAVE_WRITTEN: dict[str, AnyAnswer] = {
    "200": Answer(200),
    "202": Answer(202, body=b"{}"),
    "204": Answer(204),
    "302": Answer(302),
    "500": Answer(500),
    "503": Answer(503),
    "cut": close_unanswered,
    "cut in the head": truncated(Answer(200, body=b"done"), 20),
    "an answer that is no HTTP": b"garbage\r\n\r\n",
}


@pytest.mark.parametrize("answer", _MAY_HAVE_WRITTEN.values(), ids=_MAY_HAVE_WRITTEN.keys())
async def test_a_write_that_may_have_been_done_makes_the_stacks_entries_unusable(
    aos: ScriptedAos, gateway: RunningGateway, answer: AnyAnswer
) -> None:
    aos.on("GET", _STACK, settled())
    for token in (ALICE, BOB):
        await get(gateway, token=token)
    aos.on("PUT", _STACK, answer)
    await get(gateway, _STACK, method="PUT")
    for token in (ALICE, BOB):
        assert not is_hit(await get(gateway, token=token))
    assert aos.count("GET") == 4


@pytest.mark.parametrize("status", [400, 404, 499])
async def test_a_failed_write_changes_nothing(aos: ScriptedAos, gateway: RunningGateway, status: int) -> None:
    aos.on("GET", _STACK, settled())
    await get(gateway)
    aos.on("DELETE", _STACK, Answer(status))
    await get(gateway, _STACK, method="DELETE")
    assert is_hit(await get(gateway))


async def test_a_write_that_never_reached_the_upstream_changes_nothing(free_port: int) -> None:
    aos = ScriptedAos(port=free_port)
    async with running(f"http://127.0.0.1:{free_port}") as gateway:
        async with aos:
            aos.answer(Answer(headers=[("Connection", "close")], body=record()))
            await get(gateway)
        assert (await get(gateway, _STACK, method="DELETE")).status == 502
        assert is_hit(await get(gateway))


async def test_a_write_invalidates_before_the_first_byte_of_its_response(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.on("GET", _STACK, settled())
    aos.on("DELETE", _STACK, Answer(202, body=b"done", body_gate=gate))
    await get(gateway)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("DELETE", _STACK))
        await client.read_head("DELETE")
        assert not is_hit(await get(gateway))
        gate.open()
        await client.read_body()


async def test_until_a_write_is_answered_entries_are_used(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.on("GET", _STACK, settled())
    aos.on("DELETE", _STACK, gate.before(Answer(202)))
    await get(gateway)
    write = asyncio.create_task(get(gateway, _STACK, method="DELETE"))
    await gate.wait_reached()
    assert is_hit(await get(gateway))
    gate.open()
    await write
    assert not is_hit(await get(gateway))


async def test_a_writer_who_leaves_has_written_all_the_same(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.on("GET", _STACK, settled())
    aos.on("DELETE", _STACK, gate.before(Answer(202)))
    await get(gateway)
    client = await RawClient.connect(gateway.address)
    await client.send(request_bytes("DELETE", _STACK))
    await gate.wait_reached()
    client.abort()
    gate.open()
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while is_hit(await get(gateway)):
            pass


async def test_a_writer_who_breaks_off_his_body_leaves_nothing_stored(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.on("GET", _STACK, settled())
    aos.on("PUT", _STACK, Answer(202))
    await get(gateway)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("PUT", _ACTIONS, [("Content-Length", "10")]) + b"abc")
        await aos.wait_heads(2)
    await aos.wait_until(lambda: bool(aos.cut), "the upstream to see the cut")
    assert not aos.heads[1].complete
    async with asyncio.timeout(5):
        while is_hit(await get(gateway)):
            pass


async def test_a_fetch_under_way_during_a_write_answers_who_had_joined_and_is_not_stored(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.on("GET", _STACK, settled())
    aos.on("GET", _STACK, gate.before(settled()), times=1)
    aos.on("DELETE", _STACK, Answer(202))
    older = asyncio.create_task(get(gateway))
    await gate.wait_reached()
    await get(gateway, _STACK, method="DELETE")
    newer = await get(gateway)
    assert "collapsed" not in cache_status(newer)
    gate.open()
    assert cache_status(await older) == "aos-gateway; fwd=uri-miss; fwd-status=200; detail=invalidated"
    assert aos.count("GET") == 2


@pytest.mark.parametrize(
    "target",
    [
        _STACK,
        f"{_ACTIONS}?force=true",
        f"/V2//STACKS/{STACK_ID.upper()}/",
        f"/v2/%2573tacks%2F{STACK_ID}",
        f"/v2/stacks/x/../{STACK_ID};v=1",
    ],
)
async def test_a_write_counts_however_its_target_is_spelled(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.on("GET", _STACK, settled())
    aos.on("DELETE", "/", Answer(202))
    await get(gateway)
    await get(gateway, target, method="DELETE")
    assert not is_hit(await get(gateway))


async def test_a_write_to_a_stack_counts_for_its_id_in_any_case(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    odd = f"/v2/stacks/{STACK_ID.upper()}/actions/{ACTION_ID}"
    aos.on("GET", "/", settled())
    aos.on("DELETE", "/", Answer(202))
    await get(gateway, odd)
    assert is_hit(await get(gateway, odd))
    await get(gateway, _STACK, method="DELETE")
    assert not is_hit(await get(gateway, odd))


@pytest.mark.parametrize("target", ["/v2/stacks/other", "/v2/stacks"])
async def test_a_write_elsewhere_leaves_the_stack_alone(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.on("GET", "/", settled())
    aos.on("POST", "/", Answer(202))
    await get(gateway)
    await get(gateway, target, method="POST", body=b"{}")
    assert is_hit(await get(gateway))


@pytest.mark.parametrize("name", ["x-http-method", "X_HTTP_METHOD_OVERRIDE"])
async def test_a_get_that_says_it_is_another_method_counts_as_a_write(
    aos: ScriptedAos, gateway: RunningGateway, name: str
) -> None:
    aos.answer(settled())
    await get(gateway)
    answer = await get(gateway, TARGET, (name, "DELETE"))
    assert cache_status(answer) == "aos-gateway; fwd=bypass; fwd-status=200; detail=identity"
    assert not is_hit(await get(gateway))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_reading_a_stack_is_no_write(aos: ScriptedAos, gateway: RunningGateway, method: str) -> None:
    aos.answer(settled())
    await get(gateway)
    await get(gateway, _STACK, method=method)
    assert is_hit(await get(gateway))


async def test_a_signed_write_counts_too(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("GET", "/", settled())
    aos.on("DELETE", "/", Answer(202))
    await get(gateway)
    signed = ("Authorization", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature=00")
    await get(gateway, _STACK, ("Host", aos.address), signed, method="DELETE")
    assert not is_hit(await get(gateway))


async def test_what_is_stored_soon_after_a_write_lives_briefly(aos: ScriptedAos) -> None:
    time = MovableTime()
    aos.on("GET", "/", settled())
    aos.on("PUT", "/", Answer(202))
    async with running(aos.url, clock=time.clock) as gateway:
        await get(gateway, _ACTIONS, method="PUT", body=b"{}")
        await get(gateway)
        assert cache_status(await get(gateway)) in {"aos-gateway; hit; ttl=29", "aos-gateway; hit; ttl=30"}
        time.ahead_s = 31
        assert not is_hit(await get(gateway))
        time.ahead_s = 700
        await get(gateway)
        assert cache_status(await get(gateway)) in {"aos-gateway; hit; ttl=299", "aos-gateway; hit; ttl=300"}


async def test_an_upload_that_the_upstream_refuses_early_gets_that_answer(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    rejection = Answer(413, headers=[("Connection", "close")], body=b"too much")

    async def refuse(_: Received, conversation: Conversation) -> None:
        await conversation.answer(rejection)

    aos.on("POST", "/v2/templates", refuse, at="head")
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("POST", "/v2/templates", [("Content-Length", "1000")]) + b"abc")
        answer = await client.read_response("POST")
        assert (answer.status, answer.body) == (413, b"too much")
        # What is left of the body must not be taken for the next request.
        assert answer.get("connection") == b"close"


async def test_an_answer_to_a_write_that_breaks_off_is_cut(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(truncated(Answer(202, body=b"x" * 100), 80))
    with pytest.raises(TruncatedResponse):
        await get(gateway, _STACK, method="DELETE")
    assert aos.count("DELETE") == 1
