"""`identity.by = "user"`: the tokens of one user, in IAM's word, are one caller."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.end_to_end.kit import (
    MovableTime,
    all_busy,
    cache_status,
    get,
    is_hit,
    running_record,
    settled,
    until,
)
from tests.testbed.answers import AnyAnswer, Conversation, Gate, Received
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.iam import ScriptedIam, odd_answers, said, word
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import assert_absent, token

ONE, TWO, BOBS = (token(name, 4_000) for name in ("alice, one", "alice, two", "bob"))
_OTHER = TARGET + "-2"


def settings_of(iam: ScriptedIam, **more: Any) -> dict[str, Any]:
    """A gateway that asks this IAM, and may ask often."""
    by_user = {"identity__by": "user", "iam__url": f"http://{iam.address}", "iam__max_per_s": 100}
    return {**by_user, **more}


@pytest.fixture
def now() -> MovableTime:
    return MovableTime()


@pytest.fixture
async def gateway(
    aos: ScriptedAos, iam: ScriptedIam, now: MovableTime, lane: str
) -> AsyncIterator[RunningGateway]:
    """A gateway that has seen no token yet, on each lane."""
    iam.add(ONE)
    iam.add(TWO)
    iam.add(BOBS, user="bob")
    aos.answer(settled())
    async with running(aos.url, clock=now.clock, **settings_of(iam, cache__ttl_running_s=1)) as started:
        yield started


async def known(gateway: RunningGateway, *tokens: bytes, target: str = _OTHER) -> None:
    """Use tokens until the gateway knows whose they are."""
    verifier = gateway.app.verifier
    assert verifier is not None
    for each in tokens:
        await get(gateway, target, token=each)
    await until(lambda: all(verifier.user_of(verifier.digest(each), each) is not None for each in tokens))


async def test_tokens_of_one_user_share_what_is_stored(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO, BOBS)
    assert {each: iam.asked[each] for each in (ONE, TWO, BOBS)} == {ONE: 1, TWO: 1, BOBS: 1}
    before = aos.count()
    assert not is_hit(await get(gateway, token=ONE))
    assert is_hit(await get(gateway, token=TWO))
    assert not is_hit(await get(gateway, token=BOBS))
    assert not is_hit(await get(gateway, TARGET, ("X-Project-Id", "p"), token=TWO))
    assert aos.count() == before + 3
    # With what identifies its caller besides the token as before.
    assert is_hit(await get(gateway, TARGET, ("X-Project-Id", "p"), token=ONE))


async def test_tokens_of_one_user_share_running_records_and_fetches(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO)
    before = aos.count()
    gate = Gate()
    aos.answer(gate.before(running_record()))
    first = asyncio.create_task(get(gateway, token=ONE))
    await gate.wait_reached()
    begun = gateway.app.server.requests_count
    second = asyncio.create_task(get(gateway, token=TWO))
    await all_busy(gateway, begun + 1)
    gate.open()
    assert [each.status for each in (await first, await second)] == [200, 200]
    assert cache_status(await get(gateway, token=TWO)).endswith("detail=running")
    assert aos.count() == before + 1


async def test_nobody_waits_for_iam(aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway) -> None:
    gate = Gate()
    iam.add(ONE, gate.before(said(word())))
    assert (await get(gateway, token=ONE)).status == 200
    await gate.wait_reached()
    # As with any token until IAM has answered.
    assert is_hit(await get(gateway, token=ONE))
    assert not is_hit(await get(gateway, token=TWO))
    assert iam.asked[ONE] == 1
    gate.open()


async def test_only_what_aos_has_accepted_is_asked_about(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway
) -> None:
    for status in (401, 403, 404, 429, 500):
        aos.answer(Answer(status, body=b"{}"))
        await get(gateway, TARGET + f"-{status}", token=ONE)
    aos.answer(settled())
    await get(gateway, "/v2/stacks", token=ONE)
    await known(gateway, TWO)
    assert iam.asked[ONE] == 0


@pytest.mark.parametrize("name", odd_answers(word()))
async def test_whatever_iam_says_no_request_fails_and_nobody_is_taken_for_another(
    aos: ScriptedAos, iam: ScriptedIam, name: str
) -> None:
    answer: AnyAnswer = odd_answers(word())[name]
    iam.add(ONE, answer)
    iam.add(TWO, answer)
    aos.answer(settled())
    async with running(aos.url, **settings_of(iam, iam__timeout_s=0.3)) as gateway:
        metrics = gateway.app.metrics
        for number, each in enumerate((ONE, TWO, ONE, TWO)):
            assert (await get(gateway, token=each)).status == 200
            # About each token once; a 429 stops all questions.
            wanted = min(number + 1, 1 if name.startswith("429") else 2)
            await until(lambda wanted=wanted: sum(metrics.iam_questions.values()) >= wanted)  # type: ignore[misc]
        assert not metrics.iam_questions["verified"]
        assert aos.count() == 2


async def test_a_refused_token_ends_alone(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO)
    await get(gateway, token=ONE)
    aos.answer(Answer(401, body=b"{}"))
    assert (await get(gateway, _OTHER + "-3", token=TWO)).status == 401
    # Its user's records are the other tokens' still, and not its own any more.
    assert is_hit(await get(gateway, token=ONE))
    assert (await get(gateway, token=TWO)).status == 401
    assert iam.asked[TWO] == 1


@pytest.mark.parametrize(("method", "target"), [("GET", "/v2/stacks"), ("PUT", TARGET), ("HEAD", TARGET)])
async def test_a_token_that_is_refused_anything_ends(
    aos: ScriptedAos, gateway: RunningGateway, method: str, target: str
) -> None:
    await known(gateway, ONE, TWO)
    await get(gateway, token=ONE)
    aos.answer(Answer(401))
    refused = await get(gateway, target, ("Cache-Control", "no-cache"), token=TWO, method=method)
    assert (refused.status, (await get(gateway, token=TWO)).status) == (401, 401)
    assert is_hit(await get(gateway, token=ONE))


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_what_is_refused_to_the_user_is_dropped(
    aos: ScriptedAos, gateway: RunningGateway, status: int
) -> None:
    await known(gateway, ONE, TWO)
    await get(gateway, token=ONE)
    aos.answer(Answer(status, body=b"{}"))
    await get(gateway, TARGET, ("Cache-Control", "no-cache"), token=TWO)
    assert (await get(gateway, token=ONE)).status == status


async def test_nobody_is_given_a_refusal_told_to_another_token(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO)
    gate = Gate()
    aos.queue(gate.before(Answer(401, body=b"{}")))
    first = asyncio.create_task(get(gateway, token=ONE))
    await gate.wait_reached()
    begun = gateway.app.server.requests_count
    second = asyncio.create_task(get(gateway, token=TWO))
    await all_busy(gateway, begun + 1)
    gate.open()
    assert (await first).status == 401
    assert (await second).status == 200
    assert [head.get("X-Auth-Token") for head in aos.heads[-2:]] == [ONE, TWO]


@pytest.mark.parametrize("answer", [running_record(), Answer(404, body=b"{}"), Answer(500, body=b"{}")])
@pytest.mark.parametrize("ttl_running_s", [0, 1])
async def test_many_tokens_of_one_user_do_not_wait_for_each_other_in_turn(
    aos: ScriptedAos, iam: ScriptedIam, answer: Answer, ttl_running_s: int
) -> None:
    tokens = [iam.add(token(f"job {number}", 300)) for number in range(12)]
    aos.answer(settled())
    async with running(aos.url, **settings_of(iam, cache__ttl_running_s=ttl_running_s)) as gateway:
        await known(gateway, *tokens)
        # Each answer is let go only when nobody is on the way any more.
        rounds, gate = 0, Gate()

        async def held(received: Received, conversation: Conversation) -> None:
            await gate.before(answer)(received, conversation)

        aos.answer(held)
        begun, sent = gateway.app.server.requests_count, aos.count()
        asked = [asyncio.create_task(get(gateway, token=each)) for each in tokens]
        await all_busy(gateway, begun + len(tokens))
        while not all(each.done() for each in asked):
            rounds += 1
            await gate.wait_reached()
            opened, gate = gate, Gate()
            fetches = aos.count()
            opened.open()
            await until(lambda fetches=fetches: aos.count() > fetches or all(map(asyncio.Task.done, asked)))  # type: ignore[misc]
            await all_busy(gateway, begun + len(tokens))
        assert {(await each).status for each in asked} == {answer.status}
    assert rounds == (1 if answer.status == 200 else 4)
    assert aos.count() - sent == (1 if answer.status == 200 else len(tokens))


async def test_who_joined_a_fetch_is_not_given_it_once_its_own_token_is_refused(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO)
    gate = Gate()
    no = Answer(401, body=b"{}")
    aos.queue(gate.before(running_record()), no, no)
    first = asyncio.create_task(get(gateway, token=ONE))
    await gate.wait_reached()
    begun = gateway.app.server.requests_count
    second = asyncio.create_task(get(gateway, token=TWO))
    await all_busy(gateway, begun + 1)
    assert (await get(gateway, _OTHER + "-5", token=TWO)).status == 401
    gate.open()
    assert [(await each).status for each in (first, second)] == [200, 401]
    # Its user's record is still there.
    assert is_hit(await get(gateway, token=ONE))


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_who_waits_with_another_token_is_given_no_refusal(
    aos: ScriptedAos, iam: ScriptedIam, status: int
) -> None:
    iam.add(ONE)
    iam.add(TWO)
    aos.answer(settled())
    async with running(aos.url, **settings_of(iam, wait__interval_s=0.1)) as gateway:
        await known(gateway, ONE, TWO)
        aos.answer(running_record())
        waits = {
            each: asyncio.create_task(get(gateway, TARGET, ("Prefer", "wait=50"), token=each))
            for each in (ONE, TWO)
        }
        await until(lambda: len(gateway.app.waits) == 2)
        assert len(gateway.app.waits.pollers) == 1
        refused: list[bytes] = []

        async def refuse_one(received: Received, conversation: Conversation) -> None:
            asks = received.get("X-Auth-Token") or b""
            if not refused:
                refused.append(asks)
            is_refused = asks == refused[0]
            await conversation.answer(Answer(status, body=b"{}") if is_refused else running_record())

        aos.answer(refuse_one)
        async with asyncio.timeout(5):
            done, pending = await asyncio.wait(waits.values(), return_when=asyncio.FIRST_COMPLETED)
        assert [each.result().status for each in done] == [status]
        assert waits[refused[0]] in done
        before = aos.count()
        await until(lambda: aos.count() > before)
        aos.answer(settled())
        assert [(await each).status for each in pending] == [200]


async def test_a_user_who_is_throttled_is_held_back_with_every_token(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    await known(gateway, ONE, TWO, BOBS)
    aos.answer(Answer(429, headers=[("Retry-After", "30")], body=b"slow down"))
    await get(gateway, token=ONE)
    before = aos.count()
    held = await get(gateway, token=TWO)
    assert (held.status, held.body, aos.count()) == (429, b"slow down", before)
    await get(gateway, token=BOBS)
    assert aos.count() == before + 1


async def test_iams_word_counts_for_a_while_and_is_asked_for_again_while_the_token_is_used(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway, now: MovableTime
) -> None:
    await known(gateway, ONE, TWO)
    await get(gateway, token=ONE)
    now.ahead_s += 215
    async with asyncio.timeout(5):
        # When its second half has been noticed.
        while iam.asked[ONE] == 1:
            assert is_hit(await get(gateway, token=ONE))
    assert iam.asked[TWO] == 1
    now.ahead_s += 90
    await until(lambda: gateway.app.verifier is not None and len(gateway.app.verifier) == 1)
    await get(gateway, _OTHER + "-4", token=ONE)
    assert not is_hit(await get(gateway, _OTHER + "-4", token=TWO))


@pytest.mark.parametrize("set_s", [-7_200.0, 7_200.0])
async def test_a_wall_clock_that_is_set_meanwhile_lengthens_nothing(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway, now: MovableTime, set_s: float
) -> None:
    verifier = gateway.app.verifier
    assert verifier is not None
    gate = Gate()
    iam.add(ONE, gate.before(said(word())))
    await get(gateway, token=ONE)
    await gate.wait_reached()
    now.set_s = set_s
    gate.open()
    await until(lambda: gateway.app.metrics.iam_questions["verified"] == 1)
    now.ahead_s += 301
    assert verifier.user_of(verifier.digest(ONE), ONE) is None


async def test_it_never_counts_until_the_tokens_end(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway, now: MovableTime
) -> None:
    iam.add(ONE, lives_s=100.0)
    await known(gateway, ONE, TWO)
    await get(gateway, token=TWO)
    now.ahead_s += 41
    assert not is_hit(await get(gateway, token=ONE))


async def test_a_token_that_is_not_ascii_is_asked_about_as_it_is_or_not_at_all(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway
) -> None:
    odd = b"t\xc3\xa9\xe9" * 5
    assert (await get(gateway, token=odd)).status == 200
    await known(gateway, ONE)
    assert iam.asked.keys() <= {odd, ONE}


async def test_a_token_that_is_about_to_end_says_nothing_about_iam(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    iam.add(ONE, lives_s=50.0)
    iam.add(TWO, lives_s=-50.0)
    for number, each in enumerate((ONE, TWO), 1):
        await get(gateway, token=each)
        await until(lambda number=number: gateway.app.metrics.iam_questions["refused"] == number)  # type: ignore[misc]
    assert "iam down" not in caplog.text


async def test_a_moved_user_is_another_caller_from_then_on(
    aos: ScriptedAos, iam: ScriptedIam, gateway: RunningGateway, now: MovableTime
) -> None:
    await known(gateway, ONE, TWO)
    iam.add(ONE, roles=("te_admin",))
    await get(gateway, token=TWO)
    now.ahead_s += 215
    async with asyncio.timeout(5):
        while is_hit(await get(gateway, token=ONE)):
            pass
    assert is_hit(await get(gateway, token=TWO))


async def test_who_waits_is_looked_up_anew_when_iams_word_has_ended(
    aos: ScriptedAos, iam: ScriptedIam, now: MovableTime
) -> None:
    iam.add(ONE)
    iam.add(TWO)
    aos.answer(settled())
    briefly = settings_of(iam, identity__verify_ttl_s=10, wait__interval_s=0.1)
    async with running(aos.url, clock=now.clock, **briefly) as gateway:
        await known(gateway, ONE, TWO)
        aos.answer(running_record())
        waits = [
            asyncio.create_task(get(gateway, TARGET, ("Prefer", "wait=50"), token=each))
            for each in (ONE, TWO)
        ]
        await until(lambda: len(gateway.app.waits) == 2)
        assert len(gateway.app.waits.pollers) == 1
        iam.remove(ONE)
        began = aos.count()
        now.ahead_s += 11
        # Each with a fetch of its own.
        await until(lambda: {head.get("X-Auth-Token") for head in aos.heads[began:]} == {ONE, TWO})
        await until(lambda: iam.asked[TWO] == 2)
        assert len(gateway.app.waits) == 2
        aos.answer(settled())
        responses = await asyncio.gather(*waits)
    assert [(each.body, each.get("Preference-Applied")) for each in responses] == [(record(), b"wait=50")] * 2


async def test_many_new_tokens_are_asked_about_one_after_the_other(
    aos: ScriptedAos, iam: ScriptedIam
) -> None:
    aos.answer(settled())
    tokens = [iam.add(token(f"job {number}", 300)) for number in range(50)]
    began_s = asyncio.get_running_loop().time()
    async with running(aos.url, **settings_of(iam, iam__max_per_s=20)) as gateway:
        await asyncio.gather(*(get(gateway, token=each) for each in tokens))
        await until(lambda: sum(iam.asked.values()) >= 10)
        took_s = asyncio.get_running_loop().time() - began_s
        assert sum(iam.asked.values()) <= 1 + 20 * took_s


async def test_iams_429_stops_all_questions(aos: ScriptedAos, iam: ScriptedIam) -> None:
    aos.answer(settled())
    iam.add(ONE, Answer(429, body=b"{}"))
    iam.add(TWO)
    async with running(aos.url, **settings_of(iam)) as gateway:
        await get(gateway, token=ONE)
        await until(lambda: gateway.app.metrics.iam_questions["throttled"] == 1)
        # Many times as long as between two questions otherwise.
        ends_s = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < ends_s:
            await get(gateway, token=TWO)
        assert gateway.app.verifier is not None
        assert len(gateway.app.verifier._queue) == 1
    assert iam.asked[TWO] == 0


async def test_gateways_with_a_secret_share_iams_word_in_redis(
    aos: ScriptedAos, iam: ScriptedIam, redis: RedisServer
) -> None:
    aos.answer(settled())
    iam.add(ONE)
    shared = settings_of(
        iam, redis__url=redis.url, redis__prefix=redis.prefix, cache__secret="a secret of all replicas"
    )
    async with running(aos.url, **shared) as one, running(aos.url, **shared) as other:
        await known(one, ONE)
        async with asyncio.timeout(5):
            while not await redis.keys("*:owner1:*"):
                await asyncio.sleep(0.01)
        await known(other, ONE)
        assert iam.asked[ONE] == 1
        assert other.app.metrics.iam_questions == {"shared": 1}
        [name] = await redis.keys("*:owner1:*")
        contents = b"".join(piece for pair in (await redis.contents()).items() for piece in pair)
        assert_absent(contents, ONE)
        assert b"alice" not in contents
        # What somebody else has written is nobody's word.
        for forged in (b"", b"x" * 64, (await redis.contents())[name][:-1] + b"x"):
            await redis.command("SET", name, forged)
            async with running(aos.url, **shared) as third:
                await known(third, ONE)
                assert third.app.metrics.iam_questions == {"verified": 1}


@pytest.mark.parametrize(("ahead_s", "ttl_s"), [(7_200.0, 300), (0.0, 3_600)])
async def test_a_shared_word_that_would_count_longer_than_ones_own_is_not_taken(
    aos: ScriptedAos, iam: ScriptedIam, redis: RedisServer, now: MovableTime, ahead_s: float, ttl_s: int
) -> None:
    aos.answer(settled())
    iam.add(ONE)
    shared = settings_of(
        iam, redis__url=redis.url, redis__prefix=redis.prefix, cache__secret="a secret of all replicas"
    )
    now.set_s = ahead_s
    async with (
        running(aos.url, clock=now.clock, **shared | {"identity__verify_ttl_s": ttl_s}) as one,
        running(aos.url, **shared) as other,
    ):
        await known(one, ONE)
        async with asyncio.timeout(5):
            while not await redis.keys("*:owner1:*"):
                await asyncio.sleep(0.01)
        await known(other, ONE)
        assert other.app.metrics.iam_questions == {"verified": 1}


async def test_without_a_secret_nothing_is_shared(
    aos: ScriptedAos, iam: ScriptedIam, redis: RedisServer
) -> None:
    aos.answer(settled())
    iam.add(ONE)
    async with running(
        aos.url, **settings_of(iam, redis__url=redis.url, redis__prefix=redis.prefix)
    ) as gateway:
        await known(gateway, ONE)
    assert not await redis.keys("*owner*")
