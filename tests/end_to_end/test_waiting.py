"""`Prefer: wait`: callers are answered when there is something to say (RFC 7240)."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.testbed.aos import (
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    ScriptedAos,
    close_unanswered,
    never,
    record,
)
from tests.testbed.client import RawResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token

from .kit import ALICE, BOB, all_busy, cache_status, get, running_record, settled, until

_INTERVAL_S = 0.1
_WAIT = ("Prefer", "wait=20")


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[RunningGateway]:
    """A gateway that looks often for those who wait."""
    async with running(aos.url, wait__interval_s=_INTERVAL_S, wait__max_interval_s=0.3) as started:
        yield started


def _at(progress: int) -> Answer:
    return Answer(body=record("Running", status__progress=progress))


async def _waiting(gateway: RunningGateway, count: int) -> None:
    await until(lambda: len(gateway.app.waits) == count)


async def test_the_end_of_the_execution_answers(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(_at(1), _at(1), _at(2))
    aos.answer(settled())
    response = await get(gateway, TARGET, _WAIT)
    assert (response.status, response.body) == (200, record())
    assert response.get("Preference-Applied") == b"wait=20"
    assert b"Prefer" in response.all("Vary")
    assert cache_status(response).endswith("detail=waited")
    assert aos.count() == 4
    assert all(request.get("Prefer") is None for request in aos.heads)
    assert len({request.get("X-Request-Id") for request in aos.heads}) == 4
    # It is stored: whoever comes now waits for nothing.
    again = await get(gateway, TARGET, _WAIT)
    assert cache_status(again).startswith("aos-gateway; hit; ttl=")
    assert again.get("Preference-Applied") == b"wait=20"
    etag = again.get("ETag") or b""
    assert (await get(gateway, TARGET, _WAIT, ("If-None-Match", etag))).status == 304
    assert aos.count() == 4


async def test_the_time_is_over(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(_at(1))
    began_s = asyncio.get_running_loop().time()
    response = await get(gateway, TARGET, ("Prefer", "wait=1"))
    assert 0.9 < asyncio.get_running_loop().time() - began_s < 3
    assert (response.status, response.body) == (200, _at(1).body)
    assert response.get("Preference-Applied") == b"wait=1"
    assert cache_status(response).endswith("detail=waited")
    etag = response.get("ETag") or b""
    named = await get(gateway, TARGET, ("Prefer", "wait=1"), ("If-None-Match", etag))
    assert (named.status, named.get("ETag")) == (304, etag)
    # That is an ordinary poll.
    at_once = await get(gateway, TARGET, ("Prefer", "wait=0"))
    assert at_once.get("Preference-Applied") == b"wait=0"
    assert cache_status(at_once).endswith("detail=phase")


async def test_another_record_than_the_named_one_answers(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(_at(1))
    etag = (await get(gateway)).get("ETag") or b""
    # Whoever names none of what is there is answered at once.
    assert (await get(gateway, TARGET, _WAIT, ("If-None-Match", '"other"'))).body == _at(1).body
    asked = asyncio.create_task(get(gateway, TARGET, _WAIT, ("If-None-Match", etag)))
    await _waiting(gateway, 1)
    aos.answer(_at(2))
    response = await asked
    assert (response.status, response.body) == (200, _at(2).body)


@pytest.mark.parametrize(
    ("fields", "applied"),
    [
        ([("Prefer", "wait=9999")], b"wait=50"),
        ([("prefer", "WAIT = 7")], b"wait=7"),
        ([("Prefer", 'respond-async, wait="8"; foo=bar, wait=9')], b"wait=8"),
        ([("Prefer", "return=minimal"), ("Prefer", "wait=6")], b"wait=6"),
        ([("Prefer", "wait=0")], b"wait=0"),
        ([("Prefer", "wait=-1")], None),
        ([("Prefer", "wait=soon, wait=5")], None),
        ([("Prefer", "wait")], None),
        ([("Prefer", "wait=5;;=")], None),
        ([("Prefer", "respond-async")], None),
        ([("Prefer", "")], None),
    ],
)
async def test_what_is_applied_is_said(
    aos: ScriptedAos, gateway: RunningGateway, fields: list[tuple[str, str]], applied: bytes | None
) -> None:
    aos.answer(settled())
    for _ in range(2):  # fetched, then stored
        response = await get(gateway, TARGET, *fields)
        assert (response.status, response.get("Preference-Applied")) == (200, applied)


async def test_a_caller_who_may_not_wait_is_answered_at_once(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__max_s=0) as gateway:
        response = await get(gateway, TARGET, _WAIT)
        assert (response.get("Preference-Applied"), response.get("Vary")) == (None, None)
    async with running(aos.url, wait__max_waiting=1) as gateway:
        first = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 1)
        await until(lambda: aos.count() == 2)
        for caller in (ALICE, BOB):
            response = await get(gateway, TARGET, _WAIT, token=caller)
            assert (response.status, response.get("Preference-Applied")) == (200, None)
        # The poller's record was as good for the first of them.
        assert aos.count() == 3
        gateway.app.waits.release()
        await first
        # Its poller keeps the record for a moment, and its place.
        response = await get(gateway, TARGET, _WAIT, token=BOB)
        assert (response.status, response.get("Preference-Applied")) == (200, None)


def _no(status: int) -> Answer:
    return Answer(status, headers=[("X-Why", "so")], body=b"no")


_AFTER_A_RECORD: dict[str, tuple[list[AnyAnswer], int]] = {
    "403": ([_no(403)], 403),
    "404": ([_no(404)], 404),
    "redirect": ([_no(302)], 302),
    "500": ([_no(500)], 200),
    "429": ([_no(429)], 200),
    # A request on a connection that was used before is sent once more.
    "no answer": ([close_unanswered, close_unanswered], 200),
}


@pytest.mark.parametrize(("answers", "status"), _AFTER_A_RECORD.values(), ids=_AFTER_A_RECORD)
async def test_what_ends_a_wait_after_a_record(
    aos: ScriptedAos, gateway: RunningGateway, answers: list[AnyAnswer], status: int
) -> None:
    aos.queue(_at(1), *answers)
    aos.answer(settled())
    response = await get(gateway, TARGET, _WAIT)
    assert (response.status, response.body) == (status, record() if status == 200 else b"no")
    assert response.get("X-Why") == (None if status == 200 else b"so")
    assert aos.count() == 1 + len(answers) + (status == 200)


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
async def test_the_first_answer_ends_a_wait_unless_it_is_a_record_or_429(
    aos: ScriptedAos, gateway: RunningGateway, status: int
) -> None:
    aos.queue(Answer(status, body=b"no"))
    aos.answer(settled())
    response = await get(gateway, TARGET, _WAIT)
    assert (response.status, response.body) == (status, b"no")
    assert aos.count() == 1


async def test_a_429_is_waited_out(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(Answer(429, headers=[("Retry-After", "1")], body=b"slow"))
    aos.answer(settled())
    began_s = asyncio.get_running_loop().time()
    assert (await get(gateway, TARGET, _WAIT)).body == record()
    assert asyncio.get_running_loop().time() - began_s > 0.9
    assert aos.count() == 2


async def test_at_the_end_of_the_time_the_last_answer_passes(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(Answer(429, headers=[("Retry-After", "30")], body=b"slow"))
    response = await get(gateway, TARGET, ("Prefer", "wait=1"))
    assert (response.status, response.body, response.get("Retry-After")) == (429, b"slow", b"30")
    assert cache_status(response).endswith("detail=waited")
    assert aos.count() == 1


async def test_many_callers_cost_one_call_an_interval_and_are_all_woken(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(_at(1))
    asked = [asyncio.create_task(get(gateway, TARGET, _WAIT)) for _ in range(300)]
    await _waiting(gateway, 300)
    assert gateway.app.metrics_snapshot()["waiting_callers"] == {(): (300,)}
    calls = aos.count()
    await asyncio.sleep(1)
    assert aos.count() - calls <= 11
    aos.answer(settled())
    responses = await asyncio.gather(*asked)
    assert {(response.status, response.body) for response in responses} == {(200, record())}
    assert gateway.app.metrics.waits == {"woken": 300}
    (counts,) = gateway.app.metrics_snapshot()["wake_duration_seconds"].values()
    assert sum(counts[:-1]) == 1


async def test_each_caller_has_a_poller_of_his_own(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(_at(1))
    asked = [asyncio.create_task(get(gateway, TARGET, _WAIT, token=caller)) for caller in (ALICE, BOB)]
    await _waiting(gateway, 2)
    aos.answer(settled())
    await asyncio.gather(*asked)
    assert {request.get("X-Auth-Token") for request in aos.heads} == {ALICE, BOB}


async def test_an_ordinary_fetch_wakes_who_waits(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__interval_s=60) as gateway:
        asked = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 1)
        await until(lambda: len(gateway.app.flights) == 0)
        aos.answer(settled())
        await get(gateway)
        assert (await asked).body == record()
        assert aos.count() == 2


async def test_a_caller_who_leaves_ends_his_wait_and_the_poller_after_it(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(_at(1))
    asked = [asyncio.create_task(get(gateway, TARGET, _WAIT)) for _ in range(2)]
    await _waiting(gateway, 2)
    for task in asked:
        task.cancel()
    await _waiting(gateway, 0)
    assert gateway.app.metrics.waits == {"left": 2}
    await until(lambda: not gateway.app.waits.pollers)
    calls = aos.count()
    await asyncio.sleep(3 * _INTERVAL_S)
    assert aos.count() == calls
    assert not gateway.app.flights.watchers


async def test_who_comes_back_waits_for_the_next_fetch(aos: ScriptedAos, gateway: RunningGateway) -> None:
    """A record that changes at every fetch makes no hot loop."""
    for progress in range(20):
        aos.queue(_at(progress))
    etag = b'"none"'
    began_s = asyncio.get_running_loop().time()
    for _ in range(8):
        response = await get(gateway, TARGET, _WAIT, ("If-None-Match", etag))
        assert response.status == 200
        etag = response.get("ETag") or b""
    assert asyncio.get_running_loop().time() - began_s > 7 * _INTERVAL_S
    assert aos.count() <= 8


async def test_no_cache_binds_the_first_look(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__interval_s=60) as gateway:
        first = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 1)
        await until(lambda: aos.count() == 1 and not len(gateway.app.flights))
        second = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 2)
        assert aos.count() == 1
        aos.answer(settled())
        response = await get(gateway, TARGET, _WAIT, ("Cache-Control", "no-cache"))
        assert response.body == record()
        assert {(await one).body for one in (first, second)} == {record()}
        assert aos.count() == 2


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("HEAD", []),
        ("GET", [("Cache-Control", "no-store")]),
        ("GET", [("Range", "bytes=0-1")]),
        ("GET", [("Authorization", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x, Signature=b")]),
    ],
)
async def test_with_what_is_not_shared_the_preference_travels_on(
    aos: ScriptedAos, gateway: RunningGateway, method: str, fields: list[tuple[str, str]]
) -> None:
    aos.answer(running_record())
    host = gateway.app.config.upstream.url.authority
    response = await get(gateway, TARGET, _WAIT, ("Host", host), *fields, method=method)
    assert (response.status, response.get("Preference-Applied")) == (200, None)
    assert aos.heads[0].get("Prefer") == b"wait=20"


async def test_only_if_cached_never_waits(aos: ScriptedAos, gateway: RunningGateway) -> None:
    response = await get(gateway, TARGET, _WAIT, ("Cache-Control", "only-if-cached"))
    assert response.status == 504
    assert aos.count() == 0


async def test_a_drain_and_a_reload_answer_with_the_newest_record(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__interval_s=60) as gateway:
        etag = (await get(gateway)).get("ETag") or b""
        for end in (gateway.app.apply(gateway.app.config), gateway.app.close(5.0)):
            asked = [
                asyncio.create_task(get(gateway, TARGET, _WAIT, *fields))
                for fields in ([], [("If-None-Match", etag)])
            ]
            await _waiting(gateway, 2)
            await until(lambda: not len(gateway.app.flights))
            async with asyncio.timeout(2):
                await end
                newest, named = await asyncio.gather(*asked)
            assert (newest.status, newest.body) == (200, _at(1).body)
            assert (named.status, named.get("ETag")) == (304, etag)


async def test_a_write_ends_what_later_callers_are_given(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    aos.on("PUT", f"/v2/stacks/{STACK_ID}", Answer(202))
    async with running(aos.url, wait__interval_s=60) as gateway:
        first = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 1)
        await until(lambda: aos.count() == 1 and not len(gateway.app.flights))
        await get(gateway, f"/v2/stacks/{STACK_ID}", method="PUT", body=b"{}")
        aos.answer(_at(2))
        response = await get(gateway, TARGET, ("Prefer", "wait=1"), ("If-None-Match", '"none"'))
        assert response.body == _at(2).body
        first.cancel()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", Answer(403)),
        ("HEAD", Answer(404)),
        ("GET", Answer(200, body=b"[]")),
        ("GET", Answer(200, headers=[("Cache-Control", "no-store")], body=record("Running"))),
    ],
    ids=["refused", "refused to a HEAD", "no record", "no-store"],
)
async def test_after_what_may_not_be_given_again_the_next_one_looks_for_himself(
    aos: ScriptedAos, method: str, answer: Answer
) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__interval_s=60) as gateway:
        assert (await get(gateway, TARGET, ("Prefer", "wait=1"))).body == _at(1).body
        aos.queue(answer)
        response = await get(gateway, TARGET, ("Cache-Control", "no-cache"), method=method)
        assert response.status == answer.status
        calls = aos.count()
        aos.answer(_at(2))
        assert (await get(gateway, TARGET, ("Prefer", "wait=1"))).body == _at(2).body
        assert aos.count() == calls + 1


async def test_a_poller_keeps_no_credential_of_those_who_have_left(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(aos.url, wait__interval_s=60) as gateway:
        await get(gateway, TARGET, ("Prefer", "wait=1"), ("X-Project-Id", "project-of-alice"))
        (poller,) = gateway.app.waits.pollers.values()
        assert poller.latest is not None
        kept = repr(poller.latest)
        assert "Running" in kept
        assert ALICE.decode() not in kept
        assert "project-of-alice" not in kept


async def test_a_record_from_before_a_write_does_not_answer_who_came_after_it(aos: ScriptedAos) -> None:
    older, later = aos.gate(), aos.gate()
    aos.queue(older.before(settled()), later.before(_at(2)))
    aos.on("PUT", f"/v2/stacks/{STACK_ID}", Answer(202))
    async with running(aos.url, wait__interval_s=60) as gateway:
        before = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await older.wait_reached()
        await get(gateway, f"/v2/stacks/{STACK_ID}", method="PUT", body=b"{}")
        after = asyncio.create_task(get(gateway, TARGET, _WAIT, ("If-None-Match", '"none"')))
        await later.wait_reached()
        older.open()
        assert (await before).body == record()
        await asyncio.sleep(0)
        assert not after.done()
        later.open()
        assert (await after).body == _at(2).body


async def test_a_fetch_under_way_is_the_first_look(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled()))
    async with running(aos.url, wait__interval_s=60) as gateway:
        ordinary = asyncio.create_task(get(gateway))
        await gate.wait_reached()
        waiting = asyncio.create_task(get(gateway, TARGET, _WAIT))
        await _waiting(gateway, 1)
        gate.open()
        assert (await ordinary).body == (await waiting).body == record()
        assert aos.count() == 1


async def test_what_another_replica_has_stored_ends_a_wait(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(_at(1))
    async with (
        running(aos.url, redis__url=redis.url, wait__interval_s=0.2) as one,
        running(aos.url, redis__url=redis.url) as other,
    ):
        asked = [
            asyncio.create_task(get(one, TARGET, _WAIT, *fields))
            # Its first look is over then, and that is all that no-cache is about.
            for fields in ([], [], [("Cache-Control", "no-cache")])
        ]
        await _waiting(one, 3)
        await until(lambda: aos.count() > 0 and not len(one.app.flights))
        aos.answer(settled())
        await get(other)
        aos.answer(_at(1))
        responses = [await waiting for waiting in asked]
        assert {response.body for response in responses} == {record()}
        assert all(response.get("Preference-Applied") == b"wait=20" for response in responses)


async def test_a_silent_upstream_ends_a_wait_as_it_ends_any_request(aos: ScriptedAos) -> None:
    aos.answer(never)
    async with running(aos.url, upstream__total_timeout_s=0.5) as gateway:
        assert (await get(gateway, TARGET, _WAIT)).status == 504
        # The first response is waited for, as by any GET.
        gate = aos.gate()
        aos.answer(gate.before(_at(1)))
        asked = asyncio.create_task(get(gateway, TARGET, ("Prefer", "wait=1"), token=BOB))
        await gate.wait_reached()
        gate.open()
        assert (await asked).status == 200


async def test_in_scope_shared_a_refusal_ends_one_wait_alone(aos: ScriptedAos) -> None:
    settings: dict[str, object] = {"wait__interval_s": 60, "cache__ttl_running_s": 1}
    aos.answer(_at(1))
    async with running(aos.url, cache__scope="shared", **settings) as gateway:  # type: ignore[arg-type]
        callers = [token(f"{number}") for number in range(3)]
        asked: list[asyncio.Task[RawResponse]] = []
        for caller in callers:
            asked.append(asyncio.create_task(get(gateway, TARGET, _WAIT, token=caller)))
            await _waiting(gateway, len(asked))
        await all_busy(gateway, 3)
        await until(lambda: aos.count() == 1 and not len(gateway.app.flights))
        aos.queue(Answer(403, body=b"no"))
        aos.answer(settled())
        await get(gateway, TARGET, ("Cache-Control", "no-cache"), token=callers[1])
        bodies = [(await one).body for one in asked]
        assert bodies == [record(), b"no", record()]


async def test_of_a_large_record_nothing_is_kept_while_a_caller_waits(aos: ScriptedAos) -> None:
    large = Answer(body=record("Running", padding="x" * 100_000))
    aos.answer(large)
    async with running(aos.url, wait__interval_s=60) as gateway:
        asked = asyncio.create_task(get(gateway, TARGET, ("Prefer", "wait=1")))
        await _waiting(gateway, 1)
        await until(lambda: aos.count() == 1 and not len(gateway.app.flights))
        (poller,) = gateway.app.waits.pollers.values()
        assert [waiter.seen for waiter in poller.waiters] == [None]
        response = await asked
        assert (response.body, response.get("Preference-Applied")) == (large.body, b"wait=1")
        assert aos.count() == 2


@pytest.mark.parametrize("ttl_running_s", [0, 1])
async def test_in_scope_shared_all_have_one_poller(aos: ScriptedAos, ttl_running_s: int) -> None:
    aos.answer(_at(1))
    async with running(
        aos.url, cache__scope="shared", cache__ttl_running_s=ttl_running_s, wait__interval_s=60
    ) as gateway:
        asked = []
        for number in range(10):
            asked.append(asyncio.create_task(get(gateway, TARGET, _WAIT, token=token(f"{number}"))))
            await _waiting(gateway, len(asked))
        await until(lambda: not len(gateway.app.flights))
        assert aos.count() == 1
        aos.answer(settled())
        assert (await get(gateway, TARGET, _WAIT, ("Cache-Control", "no-cache"))).body == record()
        assert {(await waiting).body for waiting in asked} == {record()}
        assert aos.count() == 2


async def test_what_was_chosen_by_another_accept_does_not_answer_who_waits(aos: ScriptedAos) -> None:
    chosen = [("Vary", "Accept")]
    aos.answer(Answer(headers=chosen, body=record("Running")))
    async with running(aos.url, cache__ttl_running_s=60, wait__interval_s=0.1) as gateway:
        for accept in ("application/json", "application/json;q=0.9"):
            await get(gateway, TARGET, ("Accept", accept))
        aos.answer(Answer(headers=chosen, body=record()))
        for accept in ("application/json", "application/json;q=0.9"):
            assert (await get(gateway, TARGET, _WAIT, ("Accept", accept))).body == record()


async def test_in_scope_shared_the_poller_goes_on_with_who_is_not_throttled(aos: ScriptedAos) -> None:
    aos.queue(_at(1), Answer(429, headers=[("Retry-After", "60")], body=b"slow"))
    aos.answer(settled())
    async with running(
        aos.url, cache__scope="shared", cache__ttl_running_s=0.1, wait__interval_s=0.2
    ) as gateway:
        asked = []
        for caller in (ALICE, BOB):
            asked.append(asyncio.create_task(get(gateway, TARGET, _WAIT, token=caller)))
            await _waiting(gateway, len(asked))
        async with asyncio.timeout(5):
            assert [(await waiting).body for waiting in asked] == [record(), record()]
        assert [request.get("X-Auth-Token") for request in aos.heads] == [ALICE, ALICE, BOB]


async def test_a_body_that_is_too_large_is_streamed_to_each(aos: ScriptedAos) -> None:
    aos.answer(settled(body=record(padding="x" * 9000)))
    async with running(aos.url, cache__max_body_bytes=5000) as gateway:
        asked = [asyncio.create_task(get(gateway, TARGET, _WAIT)) for _ in range(2)]
        assert {(await one).body for one in asked} == {record(padding="x" * 9000)}
