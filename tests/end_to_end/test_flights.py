"""Concurrent equal requests of one caller cost the upstream one call."""

import asyncio

import pytest

from tests.testbed.aos import (
    TARGET,
    Answer,
    AnyAnswer,
    ScriptedAos,
    close_unanswered,
    never,
    record,
    reset_unanswered,
    truncated,
)
from tests.testbed.client import RawClient, RawResponse, request_bytes
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.secrets import token

from .kit import ALICE, BOB, MovableTime, all_busy, cache_status, get, is_hit, running_record, settled

_CALLERS = 200

_ONE_CALL: dict[str, tuple[AnyAnswer, int]] = {
    "Succeeded": (settled(), 200),
    "Running": (running_record(), 200),
    "404": (Answer(404, body=b'{"code": "AOS.0404"}'), 404),
    "500": (Answer(500, body=b"boom"), 500),
    "cut": (close_unanswered, 502),
    "reset": (reset_unanswered, 502),
    "cut in the body": (truncated(settled(), 300), 502),
}


def _start(gateway: RunningGateway, tokens: list[bytes]) -> list[asyncio.Task[RawResponse]]:
    return [asyncio.create_task(get(gateway, token=one)) for one in tokens]


@pytest.mark.parametrize(("answer", "status"), _ONE_CALL.values(), ids=_ONE_CALL.keys())
async def test_concurrent_equal_requests_cost_one_call_on_a_fresh_connection(
    aos: ScriptedAos, gateway: RunningGateway, answer: AnyAnswer, status: int
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(answer))
    asked = _start(gateway, [ALICE] * _CALLERS)
    await all_busy(gateway, _CALLERS)
    gate.open()
    answers = await asyncio.gather(*asked)
    assert {response.status for response in answers} == {status}
    assert len({response.body for response in answers}) == (1 if status != 502 else _CALLERS)
    assert len(aos.heads) == 1
    if status != 502:
        assert sum("collapsed" in cache_status(response) for response in answers) == _CALLERS - 1


@pytest.mark.parametrize("cut", [close_unanswered, reset_unanswered])
async def test_a_reused_connection_that_is_cut_costs_one_call_more(
    aos: ScriptedAos, gateway: RunningGateway, cut: AnyAnswer
) -> None:
    gate = aos.gate()
    aos.queue(running_record())
    aos.answer(gate.before(cut))
    await get(gateway)
    asked = _start(gateway, [ALICE] * _CALLERS)
    await all_busy(gateway, _CALLERS + 1)
    gate.open()
    answers = await asyncio.gather(*asked)
    assert {response.status for response in answers} == {502}
    assert len(aos.heads) == 3
    assert [one.connection for one in aos.heads] == [1, 1, 2]


async def test_ten_tokens_cost_ten_calls(aos: ScriptedAos, gateway: RunningGateway) -> None:
    tokens = [token(f"caller {number}", 100) for number in range(10)]
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    asked = _start(gateway, tokens * 20)
    await all_busy(gateway, _CALLERS)
    gate.open()
    assert {response.status for response in await asyncio.gather(*asked)} == {200}
    assert len(aos.received) == 10
    assert sorted(received.all("x-auth-token") for received in aos.received) == sorted([t] for t in tokens)


@pytest.mark.parametrize("leaves", ["close", "abort"])
async def test_the_leader_who_leaves_harms_nobody(
    aos: ScriptedAos, gateway: RunningGateway, leaves: str
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    leader = await RawClient.connect(gateway.address)
    await leader.send(request_bytes("GET", TARGET, [("X-Auth-Token", ALICE)]))
    await gate.wait_reached()
    asked = _start(gateway, [ALICE] * 3)
    await all_busy(gateway, 4)
    if leaves == "abort":
        leader.abort()
    else:
        await leader.close()
    gate.open()
    answers = await asyncio.gather(*asked)
    assert {response.status for response in answers} == {200}
    assert len(aos.received) == 1
    assert is_hit(await get(gateway))


async def test_a_fetch_whose_only_caller_left_is_stored_all_the_same(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    async with await RawClient.connect(gateway.address) as leader:
        await leader.send(request_bytes("GET", TARGET, [("X-Auth-Token", ALICE)]))
        await gate.wait_reached()
    gate.open()
    assert (await get(gateway)).status == 200
    assert len(aos.received) == 1


@pytest.mark.parametrize(
    "directive", [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=0"), ("Pragma", "no-cache")]
)
async def test_a_no_cache_never_gets_the_answer_of_an_older_fetch(
    aos: ScriptedAos, gateway: RunningGateway, directive: tuple[str, str]
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(Answer(body=record("Failed"))), settled())
    (older,) = _start(gateway, [ALICE])
    await gate.wait_reached()
    anew = await get(gateway, TARGET, directive)
    assert anew.json()["status"]["objectStatus"]["phase"] == "Succeeded"
    assert cache_status(anew) == "aos-gateway; fwd=request; fwd-status=200; stored; detail=request-no-cache"
    gate.open()
    assert (await older).json()["status"]["objectStatus"]["phase"] == "Failed"
    assert len(aos.received) == 2


async def test_a_request_after_a_no_cache_joins_the_newer_fetch(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gates = [aos.gate(), aos.gate()]
    aos.queue(gates[0].before(Answer(body=record("Failed"))), gates[1].before(settled()))
    (older,) = _start(gateway, [ALICE])
    await gates[0].wait_reached()
    newer = asyncio.create_task(get(gateway, TARGET, ("Cache-Control", "no-cache")))
    await gates[1].wait_reached()
    (joins,) = _start(gateway, [ALICE])
    await all_busy(gateway, 3)
    gates[1].open()
    assert (await joins).body == (await newer).body
    assert cache_status(await joins).endswith("collapsed")
    gates[0].open()
    assert (await older).body != (await newer).body
    assert len(aos.received) == 2


async def test_two_no_caches_at_once_fetch_each_for_themselves(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    asked = [asyncio.create_task(get(gateway, TARGET, ("Cache-Control", "no-cache"))) for _ in range(2)]
    await aos.wait_received(2)
    gate.open()
    assert [response.status for response in await asyncio.gather(*asked)] == [200, 200]


async def test_nobody_joins_a_fetch_older_than_memory_ttl(aos: ScriptedAos) -> None:
    time = MovableTime()
    gate = aos.gate()
    aos.queue(gate.before(settled()), running_record())
    async with running(aos.url, clock=time.clock) as gateway:
        (older,) = _start(gateway, [ALICE])
        await gate.wait_reached()
        time.ahead_s = 31
        assert (await get(gateway)).json()["status"]["objectStatus"]["phase"] == "Running"
        gate.open()
        assert (await older).status == 200
    assert len(aos.received) == 2


async def test_a_silent_upstream_costs_all_who_wait_one_504_and_is_asked_anew_later(
    aos: ScriptedAos,
) -> None:
    aos.queue(never)
    aos.answer(settled())
    async with running(aos.url, upstream__total_timeout_s=0.3) as gateway:
        answers = await asyncio.gather(*_start(gateway, [ALICE] * 5))
        assert [response.status for response in answers] == [504] * 5
        assert {response.json()["code"] for response in answers} == {"GATEWAY.5040002"}
        assert len(aos.heads) == 1
        assert (await get(gateway)).status == 200
        assert gateway.app.upstream.slots.in_use == 0


@pytest.mark.parametrize("directives", [[], [("Cache-Control", "no-store")]])
async def test_a_dripping_body_meets_the_deadline_of_the_whole_fetch(
    aos: ScriptedAos, directives: list[tuple[str, str]]
) -> None:
    gate = aos.gate()
    aos.answer(Answer(body=record(), body_gate=gate))
    async with running(aos.url, upstream__total_timeout_s=0.2) as gateway:
        answer = await get(gateway, TARGET, *directives)
        assert answer.status == 504
        assert gateway.app.upstream.slots.in_use == 0
    assert aos.open_connections == 0


async def test_a_head_meets_the_deadline_of_the_whole_fetch(aos: ScriptedAos) -> None:
    aos.answer(never)
    async with running(aos.url, upstream__total_timeout_s=0.2) as gateway:
        assert (await get(gateway, method="HEAD")).status == 504
        assert gateway.app.upstream.slots.in_use == 0


async def test_a_failed_fetch_fails_for_all_who_joined_and_is_not_kept(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(truncated(settled(), 20)))
    aos.answer(settled())
    asked = _start(gateway, [ALICE] * 4)
    await all_busy(gateway, 4)
    gate.open()
    for response in await asyncio.gather(*asked):
        assert response.status == 502
        assert response.get("proxy-status") is not None
        assert "fwd=uri-miss" in cache_status(response)
    assert (await get(gateway)).status == 200
    assert len(aos.heads) == 2


async def test_a_body_too_large_streams_to_the_leader_and_the_others_fetch_for_themselves(
    aos: ScriptedAos,
) -> None:
    gate = aos.gate()
    large = Answer(body=record(spec__objectData="x" * 5000))
    aos.answer(gate.before(large))
    async with running(aos.url, cache__max_body_bytes=1000) as gateway:
        asked = _start(gateway, [ALICE] * 3)
        await all_busy(gateway, 3)
        gate.open()
        answers = await asyncio.gather(*asked)
        assert gateway.app.upstream.slots.in_use == 0
    assert all(response.body == large.body for response in answers)
    assert all("detail=too-large" in cache_status(response) for response in answers)
    assert len(aos.received) == 3


async def test_a_head_stays_out_of_flights(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled()))
    aos.answer(settled())
    (waits,) = _start(gateway, [ALICE])
    await gate.wait_reached()
    head = await get(gateway, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert [received.method for received in aos.received] == ["GET", "HEAD"]
    gate.open()
    await waits


async def test_different_variants_fly_apart(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    asked = [
        asyncio.create_task(get(gateway, TARGET, *headers))
        for headers in ([], [("Accept-Encoding", "gzip")], [("X-Language", "zh-cn")], [("Accept", "text/*")])
    ]
    await aos.wait_received(4)
    gate.open()
    await asyncio.gather(*asked)


async def test_a_second_caller_does_not_wait_for_the_first(aos: ScriptedAos, gateway: RunningGateway) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled()))
    aos.answer(settled())
    (waits,) = _start(gateway, [ALICE])
    await gate.wait_reached()
    assert (await get(gateway, token=BOB)).status == 200
    gate.open()
    assert (await waits).status == 200


async def test_each_answer_of_a_shared_fetch_heeds_its_own_condition(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled(("ETag", '"one"'))))
    conditions = ['"one"', '"two"', "*"]
    asked = []
    for condition in conditions:
        asked.append(asyncio.create_task(get(gateway, TARGET, ("If-None-Match", condition))))
    await all_busy(gateway, 3)
    gate.open()
    assert [response.status for response in await asyncio.gather(*asked)] == [304, 200, 304]
    assert len(aos.received) == 1
    assert aos.received[0].get("if-none-match") is None


async def test_an_older_fetch_does_not_replace_what_a_newer_one_has_stored(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled(body=record("Failed"))))
    aos.answer(settled())
    older = asyncio.ensure_future(get(gateway))
    await gate.wait_reached()
    newer = await get(gateway, TARGET, ("Cache-Control", "no-cache"))
    gate.open()
    assert b'"Failed"' in (await older).body
    hit = await get(gateway)
    assert is_hit(hit)
    assert hit.body == newer.body


@pytest.mark.parametrize("body", [record(), record("Running")], ids=["a record", "not storable"])
async def test_a_fetch_that_was_replaced_is_stored_while_the_newer_one_is_under_way(
    aos: ScriptedAos, body: bytes
) -> None:
    """Polls come faster than the upstream answers: each fetch is replaced before it ends."""
    time = MovableTime()
    async with running(aos.url, clock=time.clock) as gateway:
        older, newer = aos.gate(), aos.gate()
        aos.queue(older.before(settled()), newer.before(settled(body=body)))
        waits = []
        for gate in (older, newer):
            waits.append(asyncio.create_task(get(gateway)))
            await gate.wait_reached()
            time.ahead_s += 31  # nobody joins it any more
        older.open()
        await waits[0]
        assert is_hit(await get(gateway))
        newer.open()
        await waits[1]
        aos.answer(settled())
        # A later fetch that is not storable ends the entry, although it had seen none.
        assert is_hit(await get(gateway)) is (body == record())


@pytest.mark.parametrize("field", ["User-Agent", "Origin"])
async def test_a_shared_answer_chosen_by_a_field_is_not_for_who_sent_another_one(
    aos: ScriptedAos, gateway: RunningGateway, field: str
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled(("Vary", field))))
    asked = [asyncio.create_task(get(gateway, TARGET, (field, value))) for value in ("one", "other")]
    await all_busy(gateway, 2)
    gate.open()
    statuses = [cache_status(response) for response in await asyncio.gather(*asked)]
    assert [found for found in statuses if "collapsed" in found] == []
    assert sorted(received.get(field.lower()) or b"" for received in aos.received) == [b"one", b"other"]


async def test_a_head_with_another_validator_ends_the_stored_record(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(settled(("ETag", '"a"')))
    await get(gateway)
    fresh = ("Cache-Control", "no-cache")
    await get(gateway, TARGET, fresh, method="HEAD")
    assert is_hit(await get(gateway))
    aos.answer(settled(("ETag", '"b"')))
    await get(gateway, TARGET, fresh, method="HEAD")
    answer = await get(gateway)
    assert not is_hit(answer)
    assert answer.get("etag") == b'"b"'
