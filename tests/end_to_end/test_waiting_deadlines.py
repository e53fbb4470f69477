"""`Prefer: wait`: what may be given to whom, and when AOS is asked again."""

import asyncio

import pytest

from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import (
    ABSENT,
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    ScriptedAos,
    close_unanswered,
    record,
)
from tests.testbed.client import RawResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token

from .kit import ALICE, BOB, OTHER_ROUTE, MovableTime, cache_status, get, is_hit, settled, until

_WAIT = ("Prefer", "wait=20")
_SHARED: dict[str, object] = {"cache__scope": "shared", "cache__ttl_running_s": 1}


def _at(progress: int, **fields: object) -> Answer:
    return Answer(body=record("Running", status__progress=progress, **fields))


async def _waiting(gateway: RunningGateway, count: int) -> None:
    await until(lambda: len(gateway.app.waits) == count)


async def _idle(gateway: RunningGateway) -> None:
    await until(lambda: not len(gateway.app.flights))


def _ask(
    gateway: RunningGateway, *fields: tuple[str, str], caller: bytes = ALICE
) -> asyncio.Task[RawResponse]:
    return asyncio.create_task(get(gateway, TARGET, *fields, token=caller))


@pytest.mark.parametrize("directive", ["no-cache", "max-age=0", "min-fresh=100000"])
async def test_who_wants_no_copy_is_given_none(aos: ScriptedAos, directive: str) -> None:
    async with running(aos.url) as gateway:
        aos.answer(settled())
        await get(gateway)
        assert is_hit(await get(gateway))
        aos.answer(settled(body=record(status__progress=7)))
        response = await get(gateway, TARGET, _WAIT, ("Cache-Control", directive))
        assert response.body == record(status__progress=7)
        assert aos.count() == 2


@pytest.mark.parametrize(
    ("field", "ahead_s"), [(("Cache-Control", "no-cache"), 0.0), (("Accept-Nothing", "x"), 3.0)]
)
async def test_a_fetch_that_began_too_early_does_not_answer(
    aos: ScriptedAos, field: tuple[str, str], ahead_s: float
) -> None:
    now = MovableTime()
    gates = [aos.gate() for _ in range(2)]
    aos.queue(gates[0].before(settled(body=record(status__progress=1))), gates[1].before(settled()))
    async with running(aos.url, clock=now.clock) as gateway:
        first = _ask(gateway, _WAIT)
        await gates[0].wait_reached()
        now.ahead_s += ahead_s
        second = _ask(gateway, _WAIT, field)
        await gates[1].wait_reached()
        gates[0].open()
        assert (await first).body == record(status__progress=1)
        gates[1].open()
        assert (await second).body == record()


async def test_an_older_answer_wakes_nobody_who_has_seen_a_later_one(aos: ScriptedAos) -> None:
    older, later = aos.gate(), aos.gate()
    async with running(aos.url, wait__interval_s=60) as gateway:
        aos.queue(older.before(_at(1)), later.before(_at(2)))
        aos.answer(settled())
        plain = _ask(gateway)
        await older.wait_reached()
        waiting = _ask(gateway, _WAIT, ("Cache-Control", "no-cache"))
        await later.wait_reached()
        later.open()
        await _waiting(gateway, 1)
        await until(lambda: len(gateway.app.flights) == 1)
        older.open()
        await plain
        await _idle(gateway)
        gateway.app.waits.release()
        assert (await waiting).body == _at(2).body


async def test_max_age_binds_what_another_was_given(aos: ScriptedAos) -> None:
    now = MovableTime()
    async with running(aos.url, clock=now.clock, wait__interval_s=60) as gateway:
        aos.answer(_at(1))
        first = _ask(gateway, _WAIT)
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        now.ahead_s += 10
        aos.answer(_at(2))
        for directive in ("max-age=5", "min-fresh=1"):
            response = await get(
                gateway, TARGET, _WAIT, ("If-None-Match", '"x"'), ("Cache-Control", directive)
            )
            assert response.body == _at(2).body
            now.ahead_s += 6
        first.cancel()


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(headers=[("Set-Cookie", "session=alice")], body=record("Running")),
        Answer(headers=[("Cache-Control", "private")], body=record("Running")),
        Answer(headers=[("Vary", "X-Auth-Token")], body=record(status__progress=1)),
        Answer(body=b"[]"),
    ],
    ids=["cookie", "private", "vary", "no record"],
)
async def test_in_scope_shared_only_what_may_be_given_is_shared(aos: ScriptedAos, refusal: Answer) -> None:
    gate = aos.gate()
    async with running(aos.url, **_SHARED) as gateway:  # type: ignore[arg-type]
        aos.queue(gate.before(refusal))
        aos.answer(settled())
        asked = [_ask(gateway, _WAIT, ("If-None-Match", '"x"'), caller=token("0"))]
        await gate.wait_reached()
        asked.append(_ask(gateway, _WAIT, ("If-None-Match", '"x"'), caller=token("1")))
        await _waiting(gateway, 2)
        gate.open()
        one, other = await asyncio.gather(*asked)
        assert one.body == refusal.body
        assert (other.body, other.get("Set-Cookie")) == (record(), None)


async def test_in_scope_shared_a_throttled_caller_holds_up_nobody_else(aos: ScriptedAos) -> None:
    async def answer(received: Received, conversation: Conversation) -> None:
        is_first = received.get("X-Auth-Token") == token("0")
        slow = Answer(429, headers=[("Retry-After", "60")])
        await conversation.answer(slow if is_first else settled())

    aos.on("GET", "/", answer)
    async with running(aos.url, wait__interval_s=0.1, **_SHARED) as gateway:  # type: ignore[arg-type]
        first = _ask(gateway, _WAIT, caller=token("0"))
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        async with asyncio.timeout(3):
            assert (await _ask(gateway, _WAIT, caller=token("1"))).body == record()
            assert (await first).body == record()


@pytest.mark.parametrize("status", [429, 500])
async def test_in_scope_shared_nobody_waits_longer_for_what_another_was_refused(
    aos: ScriptedAos, status: int
) -> None:
    gate = aos.gate()
    async with running(aos.url, wait__interval_s=60, **_SHARED) as gateway:  # type: ignore[arg-type]
        aos.queue(gate.before(Answer(status)))
        aos.answer(settled())
        first = _ask(gateway, _WAIT, caller=token("0"))
        await gate.wait_reached()
        second = _ask(gateway, ("Prefer", "wait=1"), caller=token("1"))
        await _waiting(gateway, 2)
        await asyncio.sleep(1.2)
        gate.open()
        async with asyncio.timeout(2):
            assert (await second).body == record()
        first.cancel()


@pytest.mark.parametrize(
    ("padding", "fields"), [(70_000, []), (0, [("Cache-Control", "no-store")])], ids=["large", "no-store"]
)
async def test_what_is_not_kept_makes_no_hot_loop_either(
    aos: ScriptedAos, padding: int, fields: list[tuple[str, str]]
) -> None:
    for progress in range(20):
        aos.queue(Answer(headers=fields, body=_at(progress, padding="x" * padding).body))
    async with running(aos.url, wait__interval_s=0.2) as gateway:
        etag = '"none"'
        began_s = asyncio.get_running_loop().time()
        for _ in range(5):
            response = await get(gateway, TARGET, _WAIT, ("If-None-Match", etag))
            etag = (response.get("ETag") or b"").decode()
        assert asyncio.get_running_loop().time() - began_s > 4 * 0.2
        assert aos.count() == 5


async def test_a_fetch_under_way_counts_as_the_pollers_next(aos: ScriptedAos) -> None:
    gate = aos.gate()
    async with running(aos.url, wait__interval_s=0.5) as gateway:
        aos.queue(_at(1), gate.before(settled()))
        aos.answer(settled())
        waiting = _ask(gateway, _WAIT)
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        await asyncio.sleep(0.3)
        plain = _ask(gateway)
        await gate.wait_reached()
        await asyncio.sleep(0.5)
        gate.open()
        assert {(await one).body for one in (plain, waiting)} == {record()}
        assert aos.count() == 2


async def test_retry_after_of_a_503_is_heard(aos: ScriptedAos) -> None:
    async with running(aos.url, wait__interval_s=0.1) as gateway:
        aos.queue(_at(1), Answer(503, headers=[("Retry-After", "1")]))
        aos.answer(settled())
        began_s = asyncio.get_running_loop().time()
        assert (await get(gateway, TARGET, _WAIT)).body == record()
        assert asyncio.get_running_loop().time() - began_s > 1
        assert aos.count() == 3


async def test_the_answer_to_a_wait_says_so(aos: ScriptedAos) -> None:
    async with running(aos.url, wait__max_waiting=1, wait__interval_s=60) as gateway:
        aos.answer(_at(1))
        first = _ask(gateway, ("Prefer", "wait=1"))
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        # One too many: answered at once with what there is.
        assert cache_status(await get(gateway, TARGET, _WAIT)).endswith("detail=phase")
        assert cache_status(await first).endswith("detail=waited")


async def test_each_fetch_has_an_id_of_its_own(aos: ScriptedAos) -> None:
    async with running(aos.url, wait__interval_s=0.1) as gateway:
        aos.queue(_at(1), _at(1))
        aos.answer(settled())
        await get(gateway, TARGET, _WAIT, ("X-Request-Id", "mine"))
        ids = [request.get("X-Request-Id") for request in aos.heads]
        assert len(set(ids)) == 3
        assert b"mine" not in ids


async def test_a_record_chosen_by_accept_makes_no_hot_loop(aos: ScriptedAos) -> None:
    async def answer(received: Received, conversation: Conversation) -> None:
        which = (received.get("Accept") or b"").decode()
        await conversation.answer(
            Answer(headers=[("Vary", "Accept")], body=record("Running", status__accept=which))
        )

    aos.on("GET", "/", answer)
    async with running(aos.url, wait__interval_s=0.3, wait__max_interval_s=0.3) as gateway:
        first = _ask(gateway, _WAIT, ("Accept", "application/json"))
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        etag = '"none"'
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        turns = 0
        while loop.time() - began_s < 1.5:
            response = await get(
                gateway, TARGET, ("Prefer", "wait=1"), ("If-None-Match", etag), ("Accept", "*/*")
            )
            etag = (response.get("ETag") or b"").decode()
            turns += 1
        assert turns <= 3
        first.cancel()


async def test_a_wait_that_ends_before_the_next_fetch_is_due_ends_with_a_look(aos: ScriptedAos) -> None:
    large = _at(1, padding="x" * 70_000)
    aos.answer(large)
    async with running(aos.url, wait__interval_s=60) as gateway:
        # The first look, and one at the end of each wait.
        for calls in (2, 3):
            response = await get(gateway, TARGET, ("Prefer", "wait=1"))
            assert (response.status, response.body) == (200, large.body)
            assert response.get("Preference-Applied") == b"wait=1"
            assert aos.count() == calls


async def test_a_record_that_is_not_kept_slows_its_poller_too(aos: ScriptedAos) -> None:
    aos.answer(_at(1, padding="x" * 70_000))
    async with running(aos.url, wait__interval_s=0.1, wait__max_interval_s=60) as gateway:
        await get(gateway, TARGET, ("Prefer", "wait=2"))
        # 0.1 s, 0.15 s, 0.23 s, ... after each other.
        assert aos.count() <= 8


async def test_with_redis_a_poller_makes_one_call_an_interval(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(_at(1))
    async with running(
        aos.url, redis__url=redis.url, wait__interval_s=0.2, wait__max_interval_s=0.2
    ) as gateway:
        asked = [_ask(gateway, ("Prefer", "wait=2")) for _ in range(20)]
        await asyncio.gather(*asked)
        assert aos.count() <= 11
        aos.answer(settled())
        async with running(aos.url, redis__url=redis.url, wait__interval_s=0.2) as other:
            waiting = _ask(gateway, _WAIT)
            await _waiting(gateway, 1)
            await get(other)
            assert (await waiting).body == record()


@pytest.mark.parametrize("scope", ["caller", "shared"])
@pytest.mark.parametrize("ttl_running_s", [0, 1])
async def test_in_every_scope_an_ordinary_fetch_wakes_who_waits(
    aos: ScriptedAos, scope: str, ttl_running_s: int
) -> None:
    aos.answer(_at(1))
    async with running(
        aos.url, wait__interval_s=60, cache__scope=scope, cache__ttl_running_s=ttl_running_s
    ) as gateway:
        waiting = _ask(gateway, _WAIT)
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        aos.answer(settled())
        await get(gateway, TARGET, ("Cache-Control", "no-cache"), token=BOB if scope == "shared" else ALICE)
        async with asyncio.timeout(3):
            assert (await waiting).body == record()
        assert aos.count() == 2


# The progress of each record, and the pause from the start of its fetch to the next one, seconds.
_PAUSES_S = [(1, 10), (1, 15), (1, 20), (1, 20), (2, 10), (2, 15)]


async def test_pauses_grow_while_nothing_changes_and_begin_with_the_fetch(aos: ScriptedAos) -> None:
    now, loop = MovableTime(), asyncio.get_running_loop()
    gates = [aos.gate() for _ in range(len(_PAUSES_S) + 2)]
    progress = [progress for progress, _ in _PAUSES_S] + [2, 2]
    aos.queue(*(gate.before(_at(at)) for gate, at in zip(gates, progress, strict=True)))
    async with running(aos.url, clock=now.clock, wait__interval_s=10, wait__max_interval_s=20) as gateway:
        first = _ask(gateway, _WAIT)
        for number, (_, pause_s) in enumerate(_PAUSES_S):
            await gates[number].wait_reached()
            now.ahead_s += pause_s - 0.2
            opened_s = loop.time()
            gates[number].open()
            await gates[number + 1].wait_reached()
            assert 0.15 < loop.time() - opened_s < 2
        # Somebody new waits: the shortest again.
        now.ahead_s += 9.9
        gates[-2].open()
        await _idle(gateway)
        second = _ask(gateway, _WAIT)
        await gates[-1].wait_reached()
        gates[-1].open()
        first.cancel()
        second.cancel()


async def test_pollers_that_begin_together_do_not_stay_together(aos: ScriptedAos) -> None:
    async with running(aos.url, wait__interval_s=0.5, wait__max_interval_s=0.5) as gateway:
        targets = [f"/v2/stacks/{STACK_ID}/actions/{number}" for number in range(30)]
        asked_s: dict[str, list[float]] = {target: [] for target in targets}

        async def answer(received: Received, conversation: Conversation) -> None:
            asked_s[received.target].append(asyncio.get_running_loop().time())
            await conversation.answer(Answer(body=record("Running", name=ABSENT)))

        aos.on("GET", "/", answer)
        waiting = [asyncio.create_task(get(gateway, target, _WAIT)) for target in targets]
        await until(lambda: min(map(len, asked_s.values())) >= 3)
        # Not after the first fetch, for which connections were opened.
        pauses_s = sorted(times[2] - times[1] for times in asked_s.values())
        for task in waiting:
            task.cancel()
    # A tenth of half a second at most.
    assert pauses_s[-1] - pauses_s[0] > 0.02
    assert pauses_s[len(pauses_s) // 2] < 0.65


async def test_a_poller_sends_the_request_of_one_who_waits(aos: ScriptedAos) -> None:
    now = MovableTime()
    gates = [aos.gate() for _ in range(3)]
    aos.queue(*(gate.before(_at(1)) for gate in gates))
    async with running(aos.url, clock=now.clock, wait__interval_s=10, wait__max_interval_s=10) as gateway:
        asked = []
        for who in "12":
            trace = f"00-{who * 32}-{who * 16}-01"
            fields = [("User-Agent", who), ("traceparent", trace), ("X-Forwarded-For", f"10.0.0.{who}")]
            asked.append(_ask(gateway, _WAIT, *fields))
            await _waiting(gateway, len(asked))
        for number in (0, 1):
            await gates[number].wait_reached()
            if number:
                # Whose request it was leaves: the next one is another's.
                asked[0].cancel()
                await _waiting(gateway, 1)
            now.ahead_s += 10
            gates[number].open()
        await gates[2].wait_reached()
        gates[2].open()
        sent = [
            [(request.get(name) or b"").decode() for name in ("User-Agent", "traceparent", "X-Forwarded-For")]
            for request in aos.heads
        ]
        assert [(agent, trace[3], forwarded) for agent, trace, forwarded in sent] == [
            (who, who, f"10.0.0.{who}, 127.0.0.1") for who in "112"
        ]
        asked[1].cancel()


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(429, headers=[("Retry-After", "60")]),
        Answer(503, headers=[("Retry-After", "60")]),
        close_unanswered,
    ],
    ids=["429", "503", "no answer"],
)
async def test_at_the_end_the_newest_record_tells_how_old_it_is(aos: ScriptedAos, refusal: AnyAnswer) -> None:
    now = MovableTime()
    aos.queue(_at(1), _at(2))
    aos.answer(refusal)
    async with running(aos.url, clock=now.clock, wait__interval_s=0.1, wait__max_interval_s=0.1) as gateway:
        waiting = _ask(gateway, _WAIT)
        await aos.wait_received(3)
        await _idle(gateway)
        now.ahead_s += 30
        gateway.app.waits.release()
        response = await waiting
    assert (response.status, response.body) == (200, _at(2).body)
    assert 30 <= int(response.get("Age") or b"") < 40


@pytest.mark.parametrize("answer", [_at(1), Answer(429), Answer(500)], ids=["200", "429", "500"])
async def test_who_waits_less_than_the_first_fetch_takes_is_answered_by_it(
    aos: ScriptedAos, answer: Answer
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(answer))
    async with running(aos.url) as gateway:
        waiting = _ask(gateway, _WAIT)
        await gate.wait_reached()
        gateway.app.waits.release()
        gate.open()
        response = await waiting
        assert (response.status, response.body) == (answer.status, answer.body)
        assert cache_status(response).endswith("detail=waited")
    assert aos.count() == 1


async def test_who_names_the_record_of_an_ended_execution_has_it_already(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, wait__interval_s=60) as gateway:
        etag = (await get(gateway, token=BOB)).get("ETag") or b""
        async with asyncio.timeout(5):
            response = await get(gateway, TARGET, _WAIT, ("If-None-Match", etag))
        assert (response.status, response.get("ETag")) == (304, etag)
        assert response.get("Preference-Applied") == b"wait=20"


async def test_who_waits_takes_no_upstream_connection(aos: ScriptedAos) -> None:
    aos.answer(_at(1))
    async with running(
        aos.url, wait__interval_s=60, upstream__max_connections=1, upstream__max_waiting=0
    ) as gateway:
        asked = [_ask(gateway, _WAIT) for _ in range(5)]
        await _waiting(gateway, 5)
        await _idle(gateway)
        assert (await get(gateway, OTHER_ROUTE)).status == 200
        for waiting in asked:
            waiting.cancel()


async def test_the_time_to_wake_counts_from_the_end_of_the_fetch(aos: ScriptedAos) -> None:
    now, gate = MovableTime(), aos.gate()
    aos.queue(gate.before(settled()))
    async with running(aos.url, clock=now.clock) as gateway:
        waiting = _ask(gateway, _WAIT)
        await gate.wait_reached()
        now.ahead_s += 30
        gate.open()
        assert (await waiting).status == 200
        assert 0 < gateway.app.metrics.wake_s.total_s < 20


async def test_an_ordinary_fetch_counts_as_the_pollers_own(aos: ScriptedAos) -> None:
    now = MovableTime()
    aos.answer(_at(1))
    async with running(aos.url, clock=now.clock, wait__interval_s=10, wait__max_interval_s=10) as gateway:
        waiting = _ask(gateway, _WAIT)
        await until(lambda: aos.count() == 1)
        await _idle(gateway)
        now.ahead_s += 9.9
        await get(gateway)
        # The next one is due 10 s after that.
        await asyncio.sleep(0.3)
        assert aos.count() == 2
        waiting.cancel()


async def test_an_older_record_replaces_no_later_one(aos: ScriptedAos) -> None:
    older, later = aos.gate(), aos.gate()
    aos.queue(older.before(_at(1)), later.before(_at(2)))
    async with running(aos.url, wait__interval_s=60) as gateway:
        plain = _ask(gateway)
        await older.wait_reached()
        waiting = _ask(gateway, _WAIT)
        await _waiting(gateway, 1)
        new = _ask(gateway, ("Cache-Control", "no-cache"))
        await later.wait_reached()
        later.open()
        await new
        older.open()
        assert (await plain).body == _at(1).body
        await _idle(gateway)
        # Neither for who waits already nor for who comes now.
        assert (await get(gateway, TARGET, _WAIT, ("If-None-Match", '"x"'))).body == _at(2).body
        gateway.app.waits.release()
        assert (await waiting).body == _at(2).body
    assert aos.count() == 2
