"""Four gateways on one Redis fetch a record that may still change once per interval among them."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable

import pytest

from tests.end_to_end.kit import ALICE, BOB, cache_status, get, settled
from tests.store.kit import until
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawResponse
from tests.testbed.redis_server import RedisServer

from .fleet import STACK, after, asked_s, fleet_of, leases, outages, poll


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast path", "parser"])
async def test_many_pollers_of_four_replicas_cost_one_call_per_interval(
    aos: ScriptedAos, redis: RedisServer, fast_lane: bool
) -> None:
    aos.answer(after(0.05))
    async with fleet_of(4, aos, redis, server__fast_lane=fast_lane) as fleet:
        began_s = time.monotonic()
        responses = await poll(fleet, 100, 6, pause_s=0.5, ttl_s=1.0)
        intervals = time.monotonic() - began_s
        assert len(responses) == 600
        assert aos.count() <= intervals + 1
        counts = leases(fleet)
        # On a machine that stands still for longer than Redis may take each fetches for itself.
        assert aos.count() - counts["led"] <= outages(fleet)
        assert counts["followed"] >= 3
        assert not counts["void"] or outages(fleet)


async def test_a_slow_upstream_costs_no_more_and_all_are_answered(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(1.3))
    async with fleet_of(4, aos, redis, cache__ttl_running_s=0.5) as fleet:
        began_s = time.monotonic()
        await poll(fleet, 40, 2, pause_s=0.5, ttl_s=0.5)
        assert aos.count() <= (time.monotonic() - began_s) / 0.5 + 1 + outages(fleet)
        counts = leases(fleet)
        assert counts["waited"]
        assert counts["followed"]


async def test_each_caller_has_a_lease_of_its_own(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(after(0.01))
    async with fleet_of(4, aos, redis) as fleet:
        for token in (ALICE, BOB):
            for gateway in fleet:
                await get(gateway, token=token)
    assert aos.count() == 2


async def test_anothers_fetch_is_a_hit_with_an_age_that_is_rounded_up(
    aos: ScriptedAos, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "gateway.cache")
    aos.answer(after(0.0))
    async with fleet_of(2, aos, redis, cache__ttl_running_s=5) as (one, other):
        first = await get(one)
        await until(lambda: has_key(redis, b"live"), "what is published")
        second = await get(other)
        assert second.body == first.body
        assert second.get("ETag") == first.get("ETag")
        assert second.get("Age") == b"1"
        assert cache_status(second) == "aos-gateway; hit; ttl=4; detail=running"
        assert (await get(other, TARGET, ("If-None-Match", second.get("ETag") or b""))).status == 304
        assert leases([other]) == {"followed": 1}
    assert "found what another replica has fetched: 200, phase Running" in caplog.messages
    assert len([line for line in caplog.messages if line.startswith("fetched")]) == 1


async def has_key(redis: RedisServer, kind: bytes) -> bool:
    return any(b":" + kind in key for key in await redis.keys())


async def test_who_joins_after_the_deadline_of_anothers_fetch_looks_up_anew(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(Answer(body=record("Running", askedAt=0.0))))
    aos.answer(after(0.0))
    aos.on("GET", f"{STACK}/actions/another", after(0.6))
    async with fleet_of(2, aos, redis) as (one, other):
        # So it looks again that much later: when the lease is over, and what was fetched under it is there.
        await get(other, f"{STACK}/actions/another")
        began_s = time.monotonic()

        async def at(passed_s: float, work: Awaitable[RawResponse]) -> RawResponse:
            await asyncio.sleep(began_s + passed_s - time.monotonic())
            return await work

        leading = asyncio.ensure_future(get(one))
        follower = asyncio.ensure_future(at(0.6, get(other)))
        late = asyncio.ensure_future(at(1.1, get(other)))
        await asyncio.sleep(0.8)
        gate.open()
        await leading
        assert (await follower).status == 200
        assert asked_s(await late) > began_s


@pytest.mark.parametrize("command", ["pttl", "set"])
async def test_without_the_right_to_a_command_each_replica_fetches_for_itself(
    aos: ScriptedAos, redis: RedisServer, command: str
) -> None:
    aos.answer(after(0.0))
    async with fleet_of(2, aos, redis) as fleet:
        try:
            await redis.command("ACL", "SETUSER", "default", f"-{command}")
            for gateway in fleet * 2:
                assert (await get(gateway)).status == 200
        finally:
            await redis.command("ACL", "SETUSER", "default", f"+{command}")
        assert not leases(fleet)
    assert aos.count() == 2


async def test_a_record_that_is_not_for_others_is_fetched_by_each_for_itself(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(Answer(403, body=b"{}"))
    async with fleet_of(3, aos, redis) as fleet:
        for gateway in fleet:
            assert (await get(gateway)).status == 403
            await until(lambda: has_key(redis, b"live"), "what is published")
        assert leases(fleet) == {"led": 1, "void": 2}
    assert aos.count() == 3


async def test_a_write_through_any_replica_ends_it_on_all(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(after(0.0))
    aos.on("PUT", STACK, Answer(202))
    async with fleet_of(2, aos, redis, cache__ttl_running_s=30) as (one, other):
        for gateway in (one, other):
            await get(gateway)
        assert aos.count("GET") == 1
        written_s = time.monotonic()
        await get(one, STACK, method="PUT", body=b"{}")
        assert asked_s(await get(one)) > written_s
        await until(lambda: other.app.metrics.invalidations["message"] > 0, "the message", 1.0)
        assert asked_s(await get(other)) > written_s
        assert aos.count("GET") == 2


@pytest.mark.parametrize("writer", [0, 1, 2], ids=["by the leader", "by who waits", "by another"])
async def test_what_was_under_way_at_a_write_is_not_published(
    aos: ScriptedAos, redis: RedisServer, writer: int
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(Answer(body=record("Running", askedAt=0.0))))
    aos.answer(after(0.0))
    aos.on("PUT", STACK, Answer(202))
    async with fleet_of(3, aos, redis, cache__ttl_running_s=5) as fleet:
        leading = asyncio.ensure_future(get(fleet[0]))
        await gate.wait_reached()
        following = asyncio.ensure_future(get(fleet[1]))
        await until(lambda: leases(fleet)["waited"] > 0, "who waits")
        await get(fleet[writer], STACK, method="PUT", body=b"{}")
        # Who comes after the write to its replica waits for nothing from before it.
        assert asked_s(await get(fleet[writer])) > 0.0
        gate.open()
        assert asked_s(await leading) == 0.0
        assert asked_s(await following) > 0.0
        await until(lambda: all(each.app.metrics.invalidations for each in fleet), "the message")
        for gateway in fleet:
            assert asked_s(await get(gateway)) > 0.0


async def test_no_cache_fetches_anew_for_all(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(after(0.0))
    async with fleet_of(3, aos, redis, cache__ttl_running_s=30) as (one, other, third):
        first = asked_s(await get(one))
        await until(lambda: has_key(redis, b"live"), "what is published")
        assert asked_s(await get(other)) == first
        newer = asked_s(await get(other, TARGET, ("Cache-Control", "no-cache")))
        assert newer > first

        async def is_newer() -> bool:
            return asked_s(await get(third)) == newer

        await until(is_newer, "what is published")
        assert asked_s(await get(third, TARGET, ("Cache-Control", "max-age=0"))) > newer
    assert aos.count() == 3


async def test_a_record_that_settles_is_stored_for_all(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(settled())
    async with fleet_of(2, aos, redis) as (one, other):
        await get(one)
        await until(lambda: has_key(redis, b"entry"), "the entry")
        assert "detail" not in cache_status(await get(other))
    assert aos.count() == 1


async def test_waiting_callers_of_four_replicas_cost_one_call_per_interval(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(Answer(body=record("Running")))
    settings = {"cache__ttl_running_s": 0, "wait__interval_s": 0.5, "wait__max_interval_s": 0.5}
    async with fleet_of(4, aos, redis, **settings) as fleet:
        waiting = [
            asyncio.ensure_future(get(gateway, TARGET, ("Prefer", "wait=20"))) for gateway in fleet * 5
        ]
        began_s = time.monotonic()
        await asyncio.sleep(2.2)
        assert aos.count() <= (time.monotonic() - began_s) / 0.5 + 2
        aos.answer(settled())
        responses = await asyncio.gather(*waiting)
        assert time.monotonic() - began_s < 5
        assert {response.body for response in responses} == {record()}
        counts = leases(fleet)
        assert counts["followed"] >= 3
        # Who does not wait is told nothing older than the request.
        assert counts["led"] <= aos.count()


async def commands_of_polls(aos: ScriptedAos, redis: RedisServer, **settings: object) -> Counter[str]:
    """Return the commands that two gateways send for the polls of one execution until it has ended.

    Without those that come by time; keys are told by their kind, values not at all.
    """
    redis.flush()
    aos.answer(Answer(body=record("Running")))
    reader, writer = await asyncio.open_connection(*redis.address.split(":"))
    async with fleet_of(2, aos, redis, cache__ttl_running_s=0, **settings) as fleet:
        writer.write(b"MONITOR\r\n")
        assert await reader.readline() == b"+OK\r\n"
        for gateway in fleet * 2:
            await get(gateway)
            await get(gateway, TARGET, ("Cache-Control", "no-cache"))
            await get(gateway, TARGET, ("Cache-Control", "max-age=0"), ("Cache-Control", "no-store"))
        # A removal on behalf of what was polled would meet the entry of what is polled next.
        states = [each.app.tiers.redis_state for each in fleet]
        await until(lambda: not any(s().queued_writes + s().connections for s in states), "the removals")
        aos.answer(settled())
        await get(fleet[0])
        await until(lambda: has_key(redis, b"entry"), "the entry")
        for gateway in fleet * 2:
            await get(gateway)
        await redis.command("ECHO", "end")
        sent: Counter[str] = Counter()
        while b'"ECHO"' not in (line := await reader.readline()):
            name, *rest = re.findall(rb'"((?:[^"\\]|\\.)*)"', line)
            kinds = re.findall(rb"t[0-9a-f]{12}:([a-z]+)", b" ".join(rest))
            sent[b" ".join([name, *kinds]).decode()] += 1
        writer.close()
    # It looks whether the server is there and writable, and the test itself for the entry.
    return Counter({each: n for each, n in sent.items() if each.split()[0] not in {"PING", "DEL", "KEYS"}})


async def test_polls_of_which_nothing_is_to_be_shared_send_no_command_more(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    without = await commands_of_polls(aos, redis, redis__share_running=False)
    assert without["MGET entry generation"] >= 5
    assert await commands_of_polls(aos, redis) == without


async def test_it_can_be_switched_off(aos: ScriptedAos, redis: RedisServer) -> None:
    aos.answer(after(0.0))
    async with fleet_of(2, aos, redis, redis__share_running=False) as fleet:
        for gateway in fleet * 2:
            await get(gateway)
        assert not leases(fleet)
    assert aos.count() == 2


async def test_max_age_is_obeyed_for_what_another_replica_fetched(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(0.0))
    async with fleet_of(3, aos, redis, cache__ttl_running_s=30) as (one, other, third):
        first = asked_s(await get(one))
        await until(lambda: has_key(redis, b"live"), "what is published")
        # It counts as a second old.
        assert asked_s(await get(other, TARGET, ("Cache-Control", "max-age=1"))) == first
        assert asked_s(await get(third, TARGET, ("Cache-Control", "min-fresh=30"))) > first
    assert aos.count() == 2


@pytest.mark.parametrize("ends", ["no-cache", "its time"])
async def test_what_comes_late_does_not_replace_what_was_fetched_under_a_newer_lease(
    aos: ScriptedAos, redis: RedisServer, ends: str
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(Answer(body=record("Running", askedAt=0.0))))
    aos.answer(after(0.0))
    ttl_s = 30.0 if ends == "no-cache" else 2.0
    async with fleet_of(3, aos, redis, cache__ttl_running_s=ttl_s) as (one, other, third):
        leading = asyncio.ensure_future(get(one))
        await gate.wait_reached()
        fields = [("Cache-Control", "no-cache")] if ends == "no-cache" else []
        newer = asked_s(await get(other, TARGET, *fields))
        await until(lambda: has_key(redis, b"live"), "what is published")
        gate.open()
        await leading
        await until(lambda: not one.app._fetcher.leases._tasks, "its end")  # type: ignore[union-attr]
        began_s = time.monotonic()
        assert asked_s(await get(third)) == newer
        assert time.monotonic() - began_s < 1.0
    assert aos.count() == 2


async def test_who_takes_nothing_of_what_another_fetched_waits_no_longer_than_for_his_own(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(1.2))
    settings = {"cache__ttl_running_s": 30, "upstream__total_timeout_s": 2}
    async with fleet_of(2, aos, redis, **settings) as (one, other):
        leading = asyncio.ensure_future(get(one))
        await aos.wait_received(1)
        began_s = time.monotonic()
        response = await get(other, TARGET, ("Cache-Control", "max-age=1"))
        assert response.status == 504
        assert time.monotonic() - began_s < 2.3
        await leading
    assert aos.count() == 2


@pytest.mark.parametrize("polls", [0, 1], ids=["the same replica", "another replica"])
async def test_who_waits_hears_of_the_end_within_the_interval_however_long_a_record_may_be_given(
    aos: ScriptedAos, redis: RedisServer, polls: int
) -> None:
    aos.answer(after(0.0))
    settings = {"cache__ttl_running_s": 30, "wait__interval_s": 0.5, "wait__max_interval_s": 0.5}
    async with fleet_of(2, aos, redis, **settings) as fleet:
        first = await get(fleet[polls])
        await until(lambda: has_key(redis, b"live"), "what is published")
        aos.answer(settled())
        began_s = time.monotonic()
        response = await get(fleet[0], TARGET, ("Prefer", "wait=10"))
        assert response.body != first.body
        assert time.monotonic() - began_s < 2.0
    assert aos.count() == 2
