"""Whatever happens to a lease: nobody fails or waits for long, and no answer is too old or another's."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.app.settings import identity
from gateway.core.aos.route import stack_key
from gateway.core.caching.key import KeySpace
from tests.end_to_end.kit import ALICE, get
from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, ScriptedAos
from tests.testbed.client import fetch
from tests.testbed.gateway import RunningGateway, StartGateway
from tests.testbed.redis_server import RedisReplyError, RedisServer
from tests.testbed.resp import Argument

from .fleet import after, asked_s, fleet_of, leases, poll, target_of

LIFE_S = 0.5
# Of a look and a fetch, on a busy machine.
SLACK_S = 1.0
ACTIONS = ("action-1", "action-2")

Keys = dict[bytes, list[bytes]]
"""Keys of one stack by their kind, of its two executions in the same order."""
Fault = Callable[[RedisServer, Keys], Awaitable[None]]


def put(kind: bytes, value: bytes, *options: Argument) -> Fault:
    async def fault(redis: RedisServer, keys: Keys) -> None:
        for key in keys[kind]:
            await redis.command("SET", key, value, *options)

    return fault


def delete(kind: bytes) -> Fault:
    async def fault(redis: RedisServer, keys: Keys) -> None:
        if keys[kind]:
            await redis.command("DEL", *keys[kind])

    return fault


def live(kind: bytes, *command: Argument) -> Fault:
    """Give what there is another time to live."""

    async def fault(redis: RedisServer, keys: Keys) -> None:
        for key in keys[kind]:
            await redis.command(command[0], key, *command[1:])

    return fault


def copy(*kinds: bytes) -> Fault:
    """Give the second execution what belongs to the first one."""

    async def fault(redis: RedisServer, keys: Keys) -> None:
        for kind in kinds:
            for key, other in zip(keys[kind], keys[kind][1:], strict=False):
                value = await redis.command("GET", key)
                if isinstance(value, bytes):
                    await redis.command("SET", other, value, "XX", "KEEPTTL")

    return fault


def turn_into_list(kind: bytes) -> Fault:
    async def fault(redis: RedisServer, keys: Keys) -> None:
        for key in keys[kind]:
            await redis.command("DEL", key)
            # A gateway may have been quicker.
            with contextlib.suppress(RedisReplyError):
                await redis.command("RPUSH", key, "x")

    return fault


async def make_void(redis: RedisServer, keys: Keys) -> None:
    for lease, published in zip(keys[b"lease"], keys[b"live"], strict=False):
        nonce = await redis.command("GET", lease)
        if isinstance(nonce, bytes):
            await redis.command("SET", published, nonce[:16] + b"void", "PX", 400)


GARBAGE = b"garbage" * 20
FAULTS = {
    "garbage": put(b"lease", GARBAGE, "PX", 300),
    "garbage for long": put(b"lease", GARBAGE, "PX", 100_000),
    "garbage for ever": put(b"lease", GARBAGE),
    "a nonce for ever": put(b"lease", b"n" * 16),
    "a list": turn_into_list(b"lease"),
    "a lease for ever": live(b"lease", "PERSIST"),
    "a lease for long": live(b"lease", "PEXPIRE", 100_000),
    "no lease": delete(b"lease"),
    "garbage is published": put(b"live", GARBAGE),
    "a list is published": turn_into_list(b"live"),
    "published for ever": live(b"live", "PERSIST"),
    "nothing is published": delete(b"live"),
    "void": make_void,
    "another's lease": copy(b"lease"),
    "another's is published": copy(b"live"),
    "another's lease and what is published under it": copy(b"lease", b"live"),
    "no generation": delete(b"generation"),
    "garbage as generation": put(b"generation", GARBAGE, "PX", 300),
    "another generation": put(b"generation", b"g" * 16, "PX", 300),
    "a list as generation": turn_into_list(b"generation"),
}


def targets_of(name: str) -> list[str]:
    return [target_of(name.replace(" ", "-").replace("'", ""), action) for action in ACTIONS]


async def spoil(redis: RedisServer, gateway: RunningGateway, name: str) -> None:
    """Do to the stack of a fault what its name says."""
    await spoil_stack(redis, gateway, targets_of(name)[0].split("/")[3], FAULTS[name])


async def spoil_stack(redis: RedisServer, gateway: RunningGateway, stack: str, fault: Fault) -> None:
    space = KeySpace(redis.prefix, identity(gateway.app.config))
    names = await redis.keys(f"*{space.hash_tag(stack_key(stack.encode())).decode()}*")
    kinds = (b"lease", b"live", b"generation")
    await fault(redis, {kind: [key for key in names if b":" + kind in key] for kind in kinds})


async def test_nothing_in_redis_makes_an_answer_too_old_or_anothers_or_fails_a_request(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(0.02))
    async with fleet_of(3, aos, redis, cache__ttl_running_s=LIFE_S) as fleet:

        async def fail(name: str) -> None:
            while True:
                await spoil(redis, fleet[0], name)
                await asyncio.sleep(0.4)

        failing = [asyncio.ensure_future(fail(name)) for name in FAULTS]
        polling = [poll(fleet, 3, 5, pause_s=0.4, ttl_s=LIFE_S, targets=targets_of(name)) for name in FAULTS]
        assert [len(responses) for responses in await asyncio.gather(*polling)] == [15] * len(FAULTS)
        assert not any(task.done() for task in failing), failing
        for task in failing:
            task.cancel()
        await asyncio.gather(*failing, return_exceptions=True)
        assert leases(fleet)["followed"]


async def test_nothing_in_redis_makes_who_waits_for_a_dead_leader_wait_longer(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    gate = aos.gate()
    aos.answer(after(0.0))
    for name in FAULTS:
        for target in targets_of(name):
            aos.on("GET", target, gate.before(after(0.0)), times=1)
    life_s = 1.5
    async with fleet_of(2, aos, redis, cache__ttl_running_s=life_s) as (one, other):

        async def follow(name: str, target: str) -> str:
            began_s = time.monotonic()
            response = await get(other, target)
            took_s = time.monotonic() - began_s
            assert response.status == 200
            assert json.loads(response.body)["askedFor"] == target
            return "" if took_s < life_s + SLACK_S else f"{name}: {took_s:.1f} s"

        asked = [(name, target) for name in FAULTS for target in targets_of(name)]
        leading = [asyncio.ensure_future(get(one, target)) for _, target in asked]
        await gate.wait_reached(len(asked))
        following = [asyncio.ensure_future(follow(name, target)) for name, target in asked]
        await until(lambda: leases([other])["waited"] == len(asked), "who waits")
        for name in FAULTS:
            await spoil(redis, other, name)
        done, late = await asyncio.wait(following, timeout=life_s + 3 * SLACK_S)
        gate.open()
        await asyncio.gather(*leading, *late)
        assert not late
        assert {each.result() for each in done} == {""}


async def _flush(redis: RedisServer) -> None:
    redis.flush()


async def _pause(redis: RedisServer) -> None:
    redis.pause()
    await asyncio.sleep(0.4)
    redis.resume()


async def _restart(redis: RedisServer) -> None:
    await redis.restart()


@pytest.mark.parametrize("fault", [_flush, _pause, _restart])
async def test_no_fault_of_redis_makes_an_answer_too_old_or_fails_a_request(
    aos: ScriptedAos, own_redis: RedisServer, fault: Callable[[RedisServer], Awaitable[None]]
) -> None:
    aos.answer(after(0.05))
    async with fleet_of(3, aos, own_redis, cache__ttl_running_s=LIFE_S, redis__timeout_s=0.2) as fleet:
        polling = asyncio.ensure_future(poll(fleet, 12, 8, pause_s=0.15, ttl_s=LIFE_S, tokens=3))
        await asyncio.sleep(0.4)
        await fault(own_redis)
        assert len(await polling) == 96


async def test_a_leader_that_is_killed_while_it_fetches_costs_one_interval(
    aos: ScriptedAos, redis: RedisServer, start_gateway: StartGateway
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(after(0.0)))
    aos.answer(after(0.05))
    leader = await start_gateway(
        redis__url=redis.url, redis__prefix=redis.prefix, cache__ttl_running_s=1, redis__timeout_s=1
    )
    async with fleet_of(2, aos, redis) as fleet:
        dying = asyncio.ensure_future(fetch(leader.address, TARGET, token=ALICE))
        await gate.wait_reached()
        following = [asyncio.ensure_future(get(gateway)) for gateway in fleet for _ in range(10)]
        await until(lambda: leases(fleet)["waited"] == 2, "who waits")
        killed_s = time.monotonic()
        leader.kill()
        assert {response.status for response in await asyncio.gather(*following)} == {200}
        assert time.monotonic() - killed_s < 1 + SLACK_S
        await asyncio.gather(dying, return_exceptions=True)
        assert aos.count() == 2
        assert leases(fleet) == {"led": 1, "waited": 2, "followed": 1}


async def test_replicas_that_are_told_other_intervals_keep_to_their_own(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(0.0))
    async with (
        fleet_of(1, aos, redis, cache__ttl_running_s=1.2) as (slower,),
        fleet_of(1, aos, redis, cache__ttl_running_s=LIFE_S) as (quicker,),
    ):
        began_s = time.monotonic()
        first = asked_s(await get(slower))
        await asyncio.sleep(began_s + 0.85 - time.monotonic())
        arrived_s = time.monotonic()
        assert arrived_s - asked_s(await get(quicker)) <= LIFE_S
        assert asked_s(await get(slower)) == first


async def test_who_is_never_let_lead_fetches_for_himself_in_time(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(after(0.0))
    async with fleet_of(2, aos, redis, upstream__total_timeout_s=2) as (one, other):
        await get(one)
        await until(lambda: leases([one])["led"] == 1, "the lease")

        async def lead_and_die() -> None:
            while True:
                await spoil_stack(redis, one, STACK_ID, put(b"lease", GARBAGE, "PX", 900))
                await asyncio.sleep(0.02)

        dying = asyncio.ensure_future(lead_and_die())
        await asyncio.sleep(0.1)
        began_s = time.monotonic()
        assert (await get(other)).status == 200
        assert 0.9 < time.monotonic() - began_s < 1 + SLACK_S
        dying.cancel()
