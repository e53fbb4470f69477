"""Whole gateways on one Redis: restarts, outages, writes, and no leak between callers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.store.kit import until
from tests.testbed.aos import (
    STACK_ID,
    TARGET,
    Answer,
    AnyAnswer,
    ScriptedAos,
    close_unanswered,
    record,
    reset_unanswered,
)
from tests.testbed.client import RawClient, RawResponse, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess, RunningGateway, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import assert_absent, token

A, B = token("a"), token("b")
STACK = f"/v2/stacks/{STACK_ID}"
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
NEW = Answer(headers=[("Content-Type", "application/json")], body=record(unknownField="new"))
GONE = Answer(404, headers=[("Content-Type", "application/json")], body=b'{"code": "AOS.0404"}')

StartProcess = Callable[..., Awaitable[GatewayProcess]]


def says_hit(response: RawResponse) -> bool:
    return b"; hit" in (response.get("Cache-Status") or b"")


async def is_hit(address: str, caller: bytes = A) -> bool:
    return says_hit(await fetch(address, TARGET, token=caller))


@asynccontextmanager
async def gateway(aos: ScriptedAos, redis: RedisServer, **settings: object) -> AsyncIterator[RunningGateway]:
    """Start one gateway on a Redis and wait until its subscription stands."""
    # A busy machine may be slow; the timeout itself is tested with the stores.
    timeout_s = settings.pop("redis__timeout_s", 1.0)
    async with running(
        aos.url,
        redis__url=redis.url,
        redis__prefix=redis.prefix,
        redis__timeout_s=timeout_s,
        clock=None,
        **settings,
    ) as one:
        await until(lambda: one.app.tiers.redis_state().is_subscribed, "the subscription")
        yield one


@pytest.fixture
async def pair(aos: ScriptedAos, redis: RedisServer) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    async with gateway(aos, redis) as one, gateway(aos, redis) as other:
        yield one, other


async def stored_for_both(pair: tuple[RunningGateway, RunningGateway]) -> None:
    """Have both hit from their own memory."""
    one, other = pair
    assert b"stored" in ((await fetch(one.address, TARGET, token=A)).get("Cache-Status") or b"")
    await until(lambda: is_hit(other.address), "the entry in Redis")
    assert await is_hit(one.address)
    for each in pair:
        assert len(each.app.tiers.memory) == 1


async def body_of(address: str) -> bytes:
    return (await fetch(address, TARGET, token=A)).body


# Writes


@pytest.mark.parametrize("status", [202, 500])
async def test_a_write_that_may_have_been_done_is_seen_by_both_within_a_second(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway], status: int
) -> None:
    aos.answer(OLD)
    await stored_for_both(pair)
    aos.answer(NEW)
    aos.on("DELETE", STACK, Answer(status))
    response = await fetch(pair[0].address, STACK, method="DELETE", token=B)
    assert response.status == status
    assert await body_of(pair[0].address) == NEW.body

    async def other_is_new() -> bool:
        return await body_of(pair[1].address) == NEW.body

    await until(other_is_new, "the other gateway", 1.0)
    assert aos.count("DELETE") == 1


@pytest.mark.parametrize("status", [400, 409])
async def test_a_failed_write_changes_nothing(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway], status: int
) -> None:
    aos.answer(OLD)
    await stored_for_both(pair)
    aos.on("DELETE", STACK, Answer(status))
    assert (await fetch(pair[0].address, STACK, method="DELETE", token=B)).status == status
    assert [await is_hit(one.address) for one in pair] == [True, True]
    assert all(not one.app.metrics.invalidations for one in pair)


@pytest.mark.parametrize("answer", [close_unanswered, reset_unanswered], ids=["closed", "reset"])
async def test_a_write_whose_outcome_is_unknown_is_seen_and_sent_once(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway], answer: AnyAnswer
) -> None:
    aos.answer(OLD)
    await stored_for_both(pair)
    aos.answer(NEW)
    aos.on("DELETE", STACK, answer)
    assert (await fetch(pair[0].address, STACK, method="DELETE", token=A)).status == 502
    assert await body_of(pair[0].address) == NEW.body
    await until(lambda: pair[1].app.metrics.invalidations["message"] > 0, "the message", 1.0)
    assert await body_of(pair[1].address) == NEW.body
    assert aos.count("DELETE") == 1


async def test_a_write_whose_caller_leaves_after_sending_it_is_seen(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway]
) -> None:
    aos.answer(OLD)
    await stored_for_both(pair)
    aos.answer(NEW)
    gate = aos.gate()
    aos.on("DELETE", STACK, gate.before(Answer(202)))
    async with await RawClient.connect(pair[0].address) as client:
        await client.send(request_bytes("DELETE", STACK, [("X-Auth-Token", A)]))
        await gate.wait_reached()
        client.abort()
    gate.open()
    await until(lambda: pair[1].app.metrics.invalidations["message"] > 0, "the message")
    assert [await body_of(one.address) for one in pair] == [NEW.body, NEW.body]


async def test_a_write_that_never_left_changes_nothing(aos: ScriptedAos, redis: RedisServer) -> None:
    async with ScriptedAos() as first:
        first.answer(OLD)
        async with gateway(first, redis) as one:
            await fetch(one.address, TARGET, token=A)
            await first.close()
            assert (await fetch(one.address, STACK, method="DELETE", token=A)).status == 502
            assert await is_hit(one.address)


@pytest.mark.parametrize("side", [0, 1], ids=["through the same gateway", "through the other gateway"])
async def test_a_fill_under_way_during_a_write_leaves_nothing_stale(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway], side: int
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(OLD))
    aos.answer(NEW)
    aos.on("DELETE", STACK, Answer(202))
    filling = asyncio.ensure_future(fetch(pair[side].address, TARGET, token=A))
    await gate.wait_reached()
    await fetch(pair[0].address, STACK, method="DELETE", token=A)
    await until(lambda: pair[1].app.metrics.invalidations["message"] > 0, "the message", 1.0)
    joined = await fetch(pair[side].address, TARGET, token=A)
    assert joined.body == NEW.body  # no request joins a flight that a write has overtaken
    gate.open()
    late = await filling
    assert late.body == OLD.body
    assert b"stored" not in (late.get("Cache-Status") or b"")
    assert [await body_of(one.address) for one in pair] == [NEW.body, NEW.body]


async def test_a_purge_through_one_gateway_reaches_the_other(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway]
) -> None:
    aos.answer(OLD)
    await stored_for_both(pair)
    aos.answer(NEW)
    assert await pair[0].app.purge(STACK_ID.upper())
    await until(lambda: pair[1].app.metrics.invalidations["message"] > 0, "the message", 1.0)
    again = [await fetch(one.address, TARGET, token=A) for one in pair]
    assert [response.body for response in again] == [NEW.body, NEW.body]


async def test_what_is_stored_soon_after_a_write_is_kept_briefly_by_both(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway]
) -> None:
    aos.answer(OLD)
    aos.on("PUT", f"{STACK}/actions", Answer(202))
    await fetch(pair[0].address, f"{STACK}/actions", method="PUT", body=b"{}", token=A)
    await until(lambda: pair[1].app.metrics.invalidations["message"] > 0, "the message", 1.0)
    for number, one in enumerate(pair):
        caller = token(f"caller {number}")
        # A connection opened meanwhile repeats the invalidation; what was stored before is fetched again.
        await until(partial(is_hit, one.address, caller), "a hit")
        hit = await fetch(one.address, TARGET, token=caller)
        ttl_s = int((hit.get("Cache-Status") or b"; ttl=0").split(b"ttl=")[1].split(b";")[0])
        assert ttl_s <= 30


async def test_an_entry_that_the_upstream_no_longer_shows_is_dropped_for_its_caller_alone(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    async with gateway(aos, redis, cache__memory_bytes=0) as one:
        aos.answer(OLD)
        for caller in (A, B):
            await fetch(one.address, TARGET, token=caller)
            await until(partial(is_hit, one.address, caller), "the entry")
        aos.answer(GONE)
        fresh = await fetch(one.address, TARGET, token=A, headers=[("Cache-Control", "no-cache")])
        assert fresh.status == 404
        assert (await fetch(one.address, TARGET, token=A)).status == 404
        assert await is_hit(one.address, B)


# Restarts and outages


@pytest.fixture
def start() -> Iterator[StartProcess]:
    """Starts gateway processes; all are ended."""
    processes: list[GatewayProcess] = []

    async def start_one(aos: ScriptedAos, redis: RedisServer, *arguments: str) -> GatewayProcess:
        environ = {
            "AOS_GATEWAY_REDIS__PREFIX": redis.prefix,
            "AOS_GATEWAY_REDIS__TIMEOUT_S": "1",
            "AOS_GATEWAY_LOG__LEVEL": "debug",
        }
        one = GatewayProcess("--upstream", aos.url, "--redis", redis.url, *arguments, environ=environ)
        processes.append(one)
        await one.ready()
        # What meets the first confirmation of the subscription counts as overtaken: a miss, not stored.
        await until(lambda: hears_the_others(one), "the subscription")
        return one

    yield start_one
    for process in processes:
        process.discard()


async def hears_the_others(one: GatewayProcess) -> bool:
    health = (await fetch(one.admin, "/readyz")).json()
    return bool(health["subscription"] == "up")


async def test_after_kill_9_and_a_restart_hits_come_from_redis_without_a_secret_and_give_no_token_away(
    aos: ScriptedAos, redis: RedisServer, start: StartProcess
) -> None:
    aos.answer(OLD)
    first = await start(aos, redis)
    for caller in (A, B):
        stored = await fetch(first.address, TARGET, token=caller)
        assert b"stored" in (stored.get("Cache-Status") or b"")

    async def both_are_in_redis() -> bool:
        return sum(b":entry" in name for name in await redis.keys()) == 2

    await until(both_are_in_redis, "the entries in Redis")
    first.kill()
    second = await start(aos, redis)
    for caller in (A, B):
        hit = await fetch(second.address, TARGET, token=caller)
        assert says_hit(hit)
        assert hit.body == OLD.body
    assert aos.count("GET") == 2
    assert not await is_hit(second.address, token("c"))
    # What fails is logged too.
    aos.on("DELETE", STACK, close_unanswered)
    await fetch(second.address, STACK, method="DELETE", token=A)
    await fetch(second.address, TARGET, token=B, headers=[("X-Auth-Token", A)])
    assert await second.stop() == 0
    seen = b"".join(name + value for name, value in (await redis.contents()).items())
    seen += (first.output() + second.output()).encode()
    assert TARGET.encode() in seen  # the log is there
    for secret in (A, B):
        assert_absent(seen, secret)


async def test_the_keys_of_redis_name_neither_stack_nor_caller(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(OLD)
    async with gateway(aos, redis) as one:
        await fetch(one.address, TARGET, token=A)

        async def is_stored() -> bool:
            return len(await redis.keys()) == 2

        await until(is_stored, "entry and generation")
    for name, value in (await redis.contents()).items():
        assert STACK_ID.encode() not in name
        assert_absent(name + value, A)


async def test_without_redis_at_the_start_requests_go_on_and_redis_is_used_once_it_is_there(
    aos: ScriptedAos, own_redis: RedisServer
) -> None:
    own_redis.kill()
    aos.answer(OLD)
    url, prefix = own_redis.url, own_redis.prefix
    async with running(aos.url, redis__url=url, redis__prefix=prefix, cache__memory_bytes=0) as one:
        for _ in range(3):
            assert (await fetch(one.address, TARGET, token=A)).body == OLD.body
        await own_redis.restart()
        await until(lambda: is_hit(one.address), "caching to begin", 3.0)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_when_redis_fails_requests_go_on_and_caching_resumes_by_itself(
    aos: ScriptedAos, own_redis: RedisServer, how: str
) -> None:
    aos.answer(OLD)
    settings = {"cache__memory_bytes": 0, "redis__timeout_s": 0.1}
    async with gateway(aos, own_redis, **settings) as one:
        await fetch(one.address, TARGET, token=A)
        await until(lambda: is_hit(one.address), "the first hit")
        own_redis.kill() if how == "killed" else own_redis.pause()
        responses = [await fetch(one.address, TARGET, token=A) for _ in range(5)]
        assert [response.body for response in responses] == [OLD.body] * 5
        assert not any(map(says_hit, responses))
        if how == "killed":
            await own_redis.restart()
        else:
            own_redis.resume()
        await until(lambda: is_hit(one.address), "caching to resume", 3.0)


async def test_a_write_while_redis_is_away_invalidates_when_it_is_back(
    aos: ScriptedAos, own_redis: RedisServer
) -> None:
    aos.answer(OLD)
    aos.on("DELETE", STACK, Answer(202))
    settings = {"cache__memory_bytes": 0, "redis__timeout_s": 0.1}
    async with gateway(aos, own_redis, **settings) as one, gateway(aos, own_redis, **settings) as other:
        await fetch(one.address, TARGET, token=A)
        await until(lambda: is_hit(other.address), "the entry in Redis")
        own_redis.pause()
        assert (await fetch(one.address, STACK, method="DELETE", token=A)).status == 202
        assert not await one.app.purge("another-stack")
        aos.answer(NEW)
        assert await body_of(one.address) == NEW.body
        own_redis.resume()
        await until(lambda: one.app.tiers.redis_state().pending_invalidations == 0, "the confirmation", 2.0)
        assert [await body_of(each.address) for each in (one, other)] == [NEW.body, NEW.body]


async def test_a_memory_hit_does_not_wait_for_a_silent_redis(
    aos: ScriptedAos, own_redis: RedisServer
) -> None:
    aos.answer(OLD)
    async with gateway(aos, own_redis, redis__timeout_s=5.0) as one:
        await fetch(one.address, TARGET, token=A)
        own_redis.pause()
        response = await fetch(one.address, TARGET, token=A, timeout_s=2.0)
        assert says_hit(response)
        own_redis.resume()


@pytest.mark.parametrize("poison", [b"", b"garbage", b"\x00" * 4096])
async def test_a_poisoned_redis_costs_a_fetch_and_nothing_else(
    aos: ScriptedAos, redis: RedisServer, poison: bytes
) -> None:
    aos.answer(OLD)
    async with gateway(aos, redis, cache__memory_bytes=0) as one:
        await fetch(one.address, TARGET, token=A)
        await until(lambda: is_hit(one.address), "the first hit")
        for name in await redis.keys():
            await redis.command("SET", name, poison)
            assert await body_of(one.address) == OLD.body
        await redis.command("FLUSHALL")
        await until(lambda: is_hit(one.address), "the next hit")


async def test_one_callers_entry_moved_to_anothers_key_is_not_served(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    async with gateway(aos, redis, cache__memory_bytes=0, cache__secret="0123456789abcdef" * 2) as one:
        aos.answer(OLD)
        await fetch(one.address, TARGET, token=A)
        await until(lambda: is_hit(one.address, A), "the first entry")
        [of_a] = [name for name in await redis.keys() if b":entry" in name]
        aos.answer(NEW)
        await fetch(one.address, TARGET, token=B)
        await until(lambda: is_hit(one.address, B), "the second entry")
        [of_b] = [name for name in await redis.keys() if b":entry" in name and name != of_a]
        sealed = (await redis.contents())[of_a]
        await redis.command("SET", of_b, sealed)
        response = await fetch(one.address, TARGET, token=B)
        assert response.body == NEW.body
        assert not says_hit(response)
        assert one.app.metrics.entries_invalid == 1
