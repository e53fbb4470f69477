"""The record of a running execution is given again for `cache.ttl_running_s`, on both lanes."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token

from .kit import ALICE, BOB, MovableTime, all_busy, cache_status, get, is_hit, running_record, settled

_STACK = f"/v2/stacks/{STACK_ID}"
_TTL_S = 1.0


@pytest.fixture(params=[True, False], ids=["fast path", "parser"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has a fast path."""
    return bool(request.param)


@pytest.fixture
def now() -> MovableTime:
    return MovableTime()


@pytest.fixture
async def gateway(aos: ScriptedAos, fast_lane: bool, now: MovableTime) -> AsyncIterator[RunningGateway]:
    """A gateway that gives running records again for a second."""
    settings: dict[str, object] = {"server__fast_lane": fast_lane, "cache__ttl_running_s": _TTL_S}
    async with running(aos.url, clock=now.clock, **settings) as started:
        yield started


_GIVEN = {
    "running": record("Running"),
    "an unknown phase": record("Frobnicating"),
    "a delete": record(spec__actionName="delete"),
    "a moving part": record(status__subObjectStatuses={"vm": {"phase": "Running"}}),
}


@pytest.mark.parametrize("body", _GIVEN.values(), ids=_GIVEN)
async def test_it_is_given_again_until_its_deadline(
    aos: ScriptedAos, gateway: RunningGateway, now: MovableTime, fast_lane: bool, body: bytes
) -> None:
    aos.answer(Answer(body=body))
    first = await get(gateway)
    assert cache_status(first) == "aos-gateway; fwd=uri-miss; fwd-status=200; stored"
    now.ahead_s += 0.9 * _TTL_S
    again = await get(gateway)
    assert (again.status, again.body, again.get("Age")) == (200, body, b"0")
    assert cache_status(again) == "aos-gateway; hit; ttl=0; detail=running"
    assert again.get("ETag") == first.get("ETag")
    assert gateway.app.metrics.fast_hits == fast_lane
    assert aos.count() == 1
    now.ahead_s += 0.2 * _TTL_S
    assert not is_hit(await get(gateway))
    assert aos.count() == 2


_NEVER = {
    "an error": Answer(500, body=record("Running")),
    "no such execution": Answer(404, body=b"{}"),
    "no record": Answer(body=b"[]"),
    "a cut that is not seen": Answer(body=record("Running"), framing="close"),
    "another execution": Answer(body=record("Running", name="other")),
    "another kind": Answer(body=record("Running", kind="Stack")),
    "a phase twice": Answer(body=record("Running").replace(b'"phase"', b'"phase": "Running", "phase"', 1)),
    "no-store": Answer(headers=[("Cache-Control", "no-store")], body=record("Running")),
    "no time left": Answer(headers=[("Cache-Control", "max-age=0")], body=record("Running")),
    "a cookie": Answer(headers=[("Set-Cookie", "a=b")], body=record("Running")),
    "chosen by another field": Answer(headers=[("Vary", "User-Agent")], body=record("Running")),
}


@pytest.mark.parametrize("answer", _NEVER.values(), ids=_NEVER)
async def test_what_may_not_be_stored_for_another_reason_is_never_given_again(
    aos: ScriptedAos, gateway: RunningGateway, answer: Answer
) -> None:
    aos.answer(answer)
    for _ in range(2):
        assert not is_hit(await get(gateway))
    assert aos.count() == 2


async def test_it_is_off_by_default(aos: ScriptedAos, fast_lane: bool) -> None:
    aos.answer(running_record())
    async with running(aos.url, server__fast_lane=fast_lane) as gateway:
        for _ in range(2):
            response = await get(gateway)
            assert cache_status(response) == "aos-gateway; fwd=uri-miss; fwd-status=200; detail=phase"
    assert aos.count() == 2


async def _write(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("PUT", _STACK, Answer(202))
    assert (await get(gateway, _STACK, method="PUT", body=b"{}")).status == 202


async def _refuse(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("GET", TARGET, Answer(403), times=1)
    assert (await get(gateway, TARGET, ("Cache-Control", "no-cache"))).status == 403


async def _refuse_head(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.on("HEAD", TARGET, Answer(404), times=1)
    assert (await get(gateway, TARGET, ("Cache-Control", "no-cache"), method="HEAD")).status == 404


async def _purge(_: ScriptedAos, gateway: RunningGateway) -> None:
    await gateway.app.purge(STACK_ID.upper())


@pytest.mark.parametrize("end", [_write, _refuse, _refuse_head, _purge])
async def test_a_write_a_refusal_and_a_purge_end_it(
    aos: ScriptedAos, gateway: RunningGateway, end: object
) -> None:
    aos.answer(running_record())
    await get(gateway)
    assert is_hit(await get(gateway))
    assert callable(end)
    await end(aos, gateway)
    assert not is_hit(await get(gateway))


async def test_what_a_request_says_is_obeyed(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(running_record())
    etag = (await get(gateway)).get("ETag") or b""
    for fields, status, hits in (
        ([("Cache-Control", "only-if-cached")], 200, True),
        ([("If-None-Match", etag)], 304, True),
        ([("Cache-Control", "min-fresh=2")], 200, False),
        ([("Cache-Control", "max-age=0")], 200, False),
        ([("Pragma", "no-cache")], 200, False),
        ([("Accept", "text/event-stream, application/json;q=0.1")], 200, False),
        ([("Accept", "application/json"), ("Accept", "text/event-stream;q=0.1")], 200, False),
    ):
        for _ in range(2):
            response = await get(gateway, TARGET, *fields)
            assert (response.status, is_hit(response)) == (status, hits), fields
    assert aos.count() == 1 + 2 * 5


async def test_the_preference_of_a_head_travels_on(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(running_record())
    await get(gateway)
    assert is_hit(await get(gateway, method="HEAD"))
    assert not is_hit(await get(gateway, TARGET, ("Prefer", "wait=5"), method="HEAD"))
    assert [(request.method, request.get("Prefer")) for request in aos.heads] == [
        ("GET", None),
        ("HEAD", b"wait=5"),
    ]


async def test_a_fetch_that_began_too_long_ago_is_not_joined_and_its_settled_record_is_stored(
    aos: ScriptedAos, gateway: RunningGateway, now: MovableTime
) -> None:
    gates = [aos.gate() for _ in range(3)]
    aos.queue(*(gate.before(settled()) for gate in gates))
    asked = []
    for number in range(3):
        # Two callers for each fetch: the later one joins.
        asked += [asyncio.create_task(get(gateway)) for _ in range(2)]
        await aos.wait_received(number + 1)
        await all_busy(gateway, 2 * number + 2)
        now.ahead_s += 1.1 * _TTL_S
    # Others have begun since: that does not matter.
    gates[0].open()
    first = await asyncio.gather(*asked[:2])
    assert [cache_status(response).endswith("stored") for response in first].count(True) == 1
    assert is_hit(await get(gateway))
    for gate in gates[1:]:
        gate.open()
    await asyncio.gather(*asked)
    assert aos.count() == 3


async def test_an_older_answer_does_not_replace_a_later_one(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    older, later = aos.gate(), aos.gate()
    aos.queue(older.before(running_record()), later.before(Answer(body=record("Pausing"))))
    asked = asyncio.create_task(get(gateway))
    await older.wait_reached()
    asked_later = asyncio.create_task(get(gateway, TARGET, ("Cache-Control", "no-cache")))
    await later.wait_reached()
    later.open()
    await asked_later
    older.open()
    assert b"Running" in (await asked).body
    assert b"Pausing" in (await get(gateway)).body


async def test_its_age_counts_from_the_start_of_its_fetch(
    aos: ScriptedAos, gateway: RunningGateway, now: MovableTime
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(running_record()))
    aos.answer(running_record())
    asked = asyncio.create_task(get(gateway))
    await gate.wait_reached()
    now.ahead_s += 1.1 * _TTL_S
    gate.open()
    await asked
    assert not is_hit(await get(gateway))


async def test_a_clock_that_was_set_back_gives_it_no_longer_life(
    aos: ScriptedAos, gateway: RunningGateway, now: MovableTime
) -> None:
    aos.answer(running_record())
    await get(gateway)
    now.set_s -= 1000
    now.ahead_s += 1.1 * _TTL_S
    assert not is_hit(await get(gateway))


async def test_redis_keeps_none(aos: ScriptedAos, fast_lane: bool, redis: RedisServer) -> None:
    async with running(
        aos.url,
        server__fast_lane=fast_lane,
        cache__ttl_running_s=10,
        redis__url=redis.url,
        redis__share_running=False,
    ) as gateway:
        aos.answer(settled())
        await get(gateway)
        async with asyncio.timeout(5):
            while not await redis.contents():
                await asyncio.sleep(0.01)
        # It runs again: what Redis has is outdated.
        aos.answer(running_record())
        assert "stored" in cache_status(await get(gateway, TARGET, ("Cache-Control", "no-cache")))
        assert cache_status(await get(gateway)).endswith("detail=running")
        async with asyncio.timeout(5):
            while [value for value in (await redis.contents()).values() if len(value) > 16]:
                await asyncio.sleep(0.01)


@pytest.fixture
async def shared(aos: ScriptedAos, fast_lane: bool) -> AsyncIterator[RunningGateway]:
    """A gateway whose records belong to everybody."""
    async with running(
        aos.url, server__fast_lane=fast_lane, cache__ttl_running_s=10, cache__scope="shared"
    ) as started:
        yield started


async def test_in_scope_shared_all_callers_share_one_fetch(aos: ScriptedAos, shared: RunningGateway) -> None:
    gate = aos.gate()
    aos.answer(gate.before(running_record()))
    asked = [asyncio.create_task(get(shared, token=token(f"{number}"))) for number in range(50)]
    await all_busy(shared, 50)
    gate.open()
    responses = await asyncio.gather(*asked)
    assert {response.status for response in responses} == {200}
    assert is_hit(await get(shared, token=token("later")))
    assert aos.count() == 1


@pytest.mark.parametrize("refusal", [Answer(401, body=b"a"), Answer(429, body=b"a"), Answer(body=b"a")])
async def test_in_scope_shared_nobody_is_given_what_another_was_refused(
    aos: ScriptedAos, shared: RunningGateway, refusal: Answer
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(refusal), refusal)
    aos.answer(running_record())

    async def ask(number: int) -> RawResponse:
        return await get(shared, token=token(f"{number}"))

    asked = [asyncio.create_task(ask(number)) for number in range(10)]
    await all_busy(shared, 10)
    gate.open()
    bodies = [response.body for response in await asyncio.gather(*asked)]
    assert bodies.count(b"a") == 2
    assert set(bodies) == {b"a", record("Running")}
    assert len({request.get("X-Auth-Token") for request in aos.heads}) == aos.count() == 3


async def test_what_was_saved_is_counted(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(running_record())
    for _ in range(4):
        await get(gateway)
    requests = gateway.app.metrics_snapshot()["requests"]
    assert requests["hit", "running", "2xx"] == (3,)
    assert not re.search("running", str(gateway.app.metrics_snapshot()["uncached"].get(("serve", "running"))))


async def test_another_caller_has_his_own(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(running_record())
    await get(gateway)
    assert not is_hit(await get(gateway, token=BOB))
    assert [request.get("X-Auth-Token") for request in aos.heads] == [ALICE, BOB]


@pytest.mark.parametrize(
    ("access_ttl_s", "sent", "asked"),
    [(5, [], []), (300, [("Cache-Control", "max-age=5")], []), (300, [], [("Cache-Control", "max-age=5")])],
    ids=["a revoked token", "the origin", "the request"],
)
async def test_it_lives_no_longer_than_all_allow(
    aos: ScriptedAos,
    fast_lane: bool,
    now: MovableTime,
    access_ttl_s: int,
    sent: list[tuple[str, str]],
    asked: list[tuple[str, str]],
) -> None:
    aos.answer(Answer(headers=sent, body=record("Running")))
    settings: dict[str, object] = {"cache__ttl_running_s": 30, "cache__access_ttl_s": access_ttl_s}
    async with running(aos.url, clock=now.clock, server__fast_lane=fast_lane, **settings) as gateway:
        await get(gateway)
        now.ahead_s += 4
        assert is_hit(await get(gateway, TARGET, *asked))
        now.ahead_s += 2
        assert not is_hit(await get(gateway, TARGET, *asked))


async def test_in_scope_shared_a_chain_of_refusals_has_a_deadline(aos: ScriptedAos, fast_lane: bool) -> None:
    async def answer(_: Received, conversation: Conversation) -> None:
        await asyncio.sleep(0.2)
        await conversation.answer(Answer(401))

    aos.on("GET", "/", answer)
    settings: dict[str, object] = {"cache__ttl_running_s": 1, "cache__scope": "shared"}
    async with running(
        aos.url,
        server__fast_lane=fast_lane,
        upstream__total_timeout_s=0.5,
        **settings,  # type: ignore[arg-type]
    ) as gateway:
        began_s = asyncio.get_running_loop().time()
        asked = [asyncio.create_task(get(gateway, token=token(f"{number}"))) for number in range(10)]
        statuses = [response.status for response in await asyncio.gather(*asked)]
        assert asyncio.get_running_loop().time() - began_s < 1.5
        assert set(statuses) == {401, 504}


@pytest.mark.parametrize("events", [True, False], ids=["events", "wait"])
async def test_a_copy_chosen_by_accept_is_none_for_who_wants_what_is_new(
    aos: ScriptedAos, fast_lane: bool, events: bool
) -> None:
    def answer(body: bytes) -> Answer:
        return Answer(headers=[("Vary", "Accept")], body=body)

    accept = ("Accept", "text/event-stream, application/json" if events else "application/json;q=0.9")
    new = record(status__progress=7)
    async with running(aos.url, server__fast_lane=fast_lane, cache__ttl_running_s=10) as gateway:
        aos.queue(answer(record()), answer(record("Running")), answer(new))
        await get(gateway)
        # What this one selects has a place beside the settled record.
        await get(gateway, TARGET, accept)
        fields = [accept] if events else [accept, ("Prefer", "wait=5")]
        assert (await get(gateway, TARGET, *fields)).body == new
        assert aos.count() == 3


async def test_50_callers_who_poll_cost_one_call_a_bound(
    aos: ScriptedAos, gateway: RunningGateway, now: MovableTime
) -> None:
    aos.answer(running_record())
    began_s, polls = now.clock.monotonic_s(), 250
    for _ in range(polls):
        assert (await get(gateway)).status == 200
        # Of each of them every 2 s, evenly spread.
        now.ahead_s += 2 / 50
    assert aos.count() <= 1.1 * (now.clock.monotonic_s() - began_s) / _TTL_S
