"""Everything at once: many tenants, writes, a revoked token, Redis and the upstream failing in turns.

`--long` makes it five minutes, `--soak` half an hour. What came of it is printed (`-rP` shows it).
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.testbed.address import free_port
from tests.testbed.aos import ScriptedAos
from tests.testbed.client import fetch
from tests.testbed.faultproxy import PASS, RESET, FaultProxy
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import descriptors, gauges, rss_bytes
from tests.testbed.redis_server import RedisServer
from tests.testbed.run_length import RunLength, run_length

from .mixed_aos import (
    ACCESS_TTL_S,
    KEPT_STACK,
    MEMORY_TTL_S,
    SETTLED,
    STACKS,
    TENANTS,
    UNSETTLED_S,
    MixedAos,
    token,
)
from .mixed_callers import Callers
from .mixed_turns import RECOVERY_S, TURNS, Stage, Turns

_LENGTH_S = run_length().value
# The shortest run has one turn of every fault.
_ROUND_S = float(RunLength.SHORT.value)
_SEED = 20
_TOTAL_S = 1.5
_REVOKED = TENANTS[-1]
# Redis connections that the pool may keep when no invalidation is pending.
_KEPT_DESCRIPTORS = 2
# What the allocator and the pools may still take after the warm-up, however long the rest goes on.
_GROWTH_BYTES = 8 << 20
_SAMPLE_S = 0.5
_SLOWEST_S = 3.0

_SETTINGS = {
    "CACHE__ACCESS_TTL_S": str(ACCESS_TTL_S),
    "CACHE__MEMORY_TTL_S": str(MEMORY_TTL_S),
    "CACHE__TTL_UNSETTLED_S": str(UNSETTLED_S),
    # Less than there is to keep, so that it is full and stays so.
    "CACHE__MEMORY_BYTES": "2000000",
    "UPSTREAM__CONNECT_TIMEOUT_S": "0.5",
    "UPSTREAM__READ_TIMEOUT_S": "1",
    "UPSTREAM__TOTAL_TIMEOUT_S": str(_TOTAL_S),
    "LOG__ACCESS": "errors",
}


@asynccontextmanager
async def _stage(aos: ScriptedAos, redis: RedisServer) -> AsyncIterator[Stage]:
    """Two gateways between a Redis and an upstream that can both fail."""
    environ = {f"AOS_GATEWAY_{name}": value for name, value in _SETTINGS.items()}
    async with FaultProxy(redis.address) as front, FaultProxy(aos.address, free_port()) as way:
        arguments = ("--upstream", f"http://{way.address}", "--redis", f"redis://{front.address}/0")
        gateways = [GatewayProcess(*arguments, environ=environ) for _ in range(2)]
        try:
            stage = Stage(redis, front, way, [await gateway.ready() for gateway in gateways])
            await stage.until_well(RECOVERY_S)
            yield stage
            assert [await gateway.stop() for gateway in gateways] == [0, 0]
            for gateway in gateways:
                _is_discreet(gateway.output())
        finally:
            for gateway in gateways:
                gateway.discard()
        assert front.failures == way.failures == []


async def _rested(stage: Stage, at_most: Sequence[float]) -> list[int]:
    """Break all connections behind the gateways, and count descriptors once nothing is under way.

    Args:
        stage: what to look at.
        at_most: by gateway, how many descriptors there may be; for a while it is counted again until that
            is met.
    """
    for proxy in (stage.redis_proxy, stage.aos_proxy):
        proxy.mode = RESET
        proxy.mode = PASS
    await stage.until_well(2 * RECOVERY_S)
    names = (
        "connections",
        "fetches_in_flight",
        "upstream_connections",
        "upstream_waiting",
        "redis_write_queue",
    )
    busy: list[str] = []
    counts: list[int] = []
    with_deadline = time.monotonic() + RECOVERY_S
    while time.monotonic() < with_deadline:
        found = [await gauges(gateway.admin) for gateway in stage.gateways]
        busy = [f"{name} = {one[name]:g}" for one in found for name in names if one[name]]
        counts = [descriptors(gateway.pid) for gateway in stage.gateways]
        if not busy and all(count <= most for count, most in zip(counts, at_most, strict=True)):
            return counts
        await asyncio.sleep(0.05)
    assert busy == []
    return counts


async def _sample(stage: Stage, aos: ScriptedAos, samples: list[list[int]]) -> None:
    """Record the gateways' resident memory, and drop what the scripted AOS keeps."""
    while True:
        samples.append([rss_bytes(gateway.pid) for gateway in stage.gateways])
        aos.received.clear()
        aos.heads.clear()
        aos.cut.clear()
        await asyncio.sleep(_SAMPLE_S)


def _growth_bytes(samples: Sequence[int]) -> float:
    """How much a least-squares line through all samples after the first third has grown by their end."""
    steady = samples[len(samples) // 3 :]
    slope, _ = statistics.linear_regression(range(len(steady)), steady)
    return slope * len(steady)


async def _kept(stage: Stage, upstream: MixedAos) -> list[int]:
    """Ask each gateway as the tenant who is to be revoked for records that nobody else asks for."""
    statuses = []
    for (replica, gateway), action in itertools.product(enumerate(stage.gateways), SETTLED):
        began_s = upstream.now_s()
        target = f"/v2/stacks/{KEPT_STACK}/actions/{action}"
        fields = [("X-Through", str(replica))]
        response = await fetch(gateway.address, target, headers=fields, token=token(_REVOKED))
        statuses.append(response.status)
        if response.status == 200:
            upstream.check_record(response, KEPT_STACK, action, _REVOKED, replica, began_s)
    return statuses


async def _play(turns: Turns, upstream: MixedAos) -> tuple[list[int], list[int]]:
    """Let everything fail in turns until the time is over; half-way, revoke a token.

    Returns:
        What the revoked tenant got for the kept records: before, and when nothing may be repeated any more.
    """
    ends_s = turns.now_s() + _LENGTH_S
    half_s = turns.now_s() + _LENGTH_S / 2
    before: list[int] = []
    for turn in itertools.cycle(TURNS):
        left_s = ends_s - turns.now_s()
        if left_s <= 0:
            break
        if upstream.revoked is None and turns.now_s() >= half_s:
            before = await _kept(turns.stage, upstream)
            upstream.revoked = _REVOKED, turns.now_s()
        slot_s = min(_ROUND_S / len(TURNS), left_s)
        began_s = turns.now_s()
        await turns.play(turn, max(0.5, slot_s - _TOTAL_S))
        await asyncio.sleep(max(0.0, began_s + slot_s - turns.now_s()))
    while not upstream.is_over(turns.now_s()):
        await asyncio.sleep(0.1)
    return before, await _kept(turns.stage, upstream)


@pytest.fixture
def debug_redis() -> Iterator[RedisServer]:
    """A Redis of this test alone, with the DEBUG command."""
    with RedisServer(settings={"enable-debug-command": "yes"}) as server:
        yield server


@pytest.mark.timeout(_LENGTH_S + 90)
async def test_mixed_load_while_redis_and_the_upstream_fail_in_turns(debug_redis: RedisServer) -> None:
    began_s = time.monotonic()

    def now_s() -> float:
        return time.monotonic() - began_s

    async with ScriptedAos() as aos, _stage(aos, debug_redis) as stage:
        turns = Turns(stage, now_s, _TOTAL_S)
        upstream = MixedAos(now_s, turns.is_calm)
        aos.answer(upstream.answer)
        callers = Callers([gateway.address for gateway in stage.gateways], upstream, turns, _SEED)
        for gateway in stage.gateways:
            target = f"/v2/stacks/{STACKS[0]}/actions/common-0"
            assert (await fetch(gateway.address, target, token=token(TENANTS[0]))).status == 200
        base = await _rested(stage, [float("inf")] * 2)
        samples: list[list[int]] = []
        is_over = asyncio.Event()
        sampling = asyncio.create_task(_sample(stage, aos, samples))
        async with asyncio.TaskGroup() as group:
            group.create_task(callers.run(is_over))
            try:
                kept_before, kept_after = await _play(turns, upstream)
            finally:
                is_over.set()
        sampling.cancel()
        took_s = now_s()
        after = await _rested(stage, [count + _KEPT_DESCRIPTORS for count in base])
        violations = list(aos.violations)
    tally = callers.tally
    by_gateway = list(zip(*samples, strict=True))
    growth = [_growth_bytes(one) for one in by_gateway]
    print(_summary(callers, turns, took_s, by_gateway, growth, (base, after)))

    assert upstream.wrong[:20] == []
    assert tally.avoidable == []
    assert violations == []
    assert tally.refused > 0
    assert set(kept_before) == {200}
    assert set(kept_after) == {401}
    assert set(upstream.writes.values()) == {1}
    assert tally.hits_without_upstream > 0
    assert tally.slowest_s < _SLOWEST_S
    assert max(growth) < _GROWTH_BYTES
    assert [count > least + _KEPT_DESCRIPTORS for count, least in zip(after, base, strict=True)] == [
        False
    ] * 2


def _is_discreet(output: str) -> None:
    for what in ("Traceback", "never retrieved", "was destroyed", *map(token, TENANTS)):
        assert what not in output


def _summary(
    callers: Callers,
    turns: Turns,
    took_s: float,
    rss: Sequence[Sequence[int]],
    growth: Sequence[float],
    held: tuple[list[int], list[int]],
) -> str:
    tally = callers.tally
    excused = ", ".join(f"{count} of {what}" for what, count in sorted(tally.excused.items())) or "none"
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.kinds.items()))
    memory = "; ".join(
        f"{one[0] / 1e6:.1f} MB first, {one[-1] / 1e6:.1f} MB last, {more / 1e6:+.1f} MB after the warm-up"
        for one, more in zip(rss, growth, strict=True)
    )
    return (
        f"mixed load: {len(turns.played)} turns in {took_s:.0f} s; {tally.answers} answers ({kinds}), "
        f"{tally.hits} hits, {tally.hits_without_upstream} of them while the upstream failed; "
        f"{tally.left} callers left early; {tally.refused} times 401 for the revoked tenant; "
        f"{len(callers.aos.wrong)} wrong; unavoidable errors: {excused}; avoidable: {len(tally.avoidable)}; "
        f"slowest answer while Redis failed {tally.slowest_s * 1000:.0f} ms, "
        f"slowest recovery {turns.slowest_recovery_s:.2f} s; resident by replica: {memory}; "
        f"descriptors before {held[0]}, after {held[1]}"
    )
