"""A small fleet on virtual time keeps its bounds in every fault; and mistakes in the lease are seen."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gateway.core.caching.lease import LeaseLookup
from gateway.store.redis_leases import RedisLeases

from .fleet_simulation import LIFE_S, Plan, broken, simulate

PLAN = Plan(
    replicas=20,
    pollers=2_000,
    tokens=4,
    duration_s=36.0,
    crash_s=8.0,
    outage_s=(14.0, 24.0),
    flush_s=31.0,
)
QUICK = Plan(
    replicas=8, pollers=400, tokens=2, duration_s=16.0, crash_s=6.0, outage_s=(8.0, 10.0), flush_s=13.0
)


def test_a_fleet_costs_what_one_replica_costs_whatever_happens() -> None:
    phases = {phase.name: phase for phase in simulate(PLAN)}
    assert broken(list(phases.values())) == []
    for name in ("all well", "leaders die"):
        phase = phases[name]
        assert not phase.refused
        assert set(phase.answers) == {200}
        assert phase.answers[200] > 4_000
    # Those who died had callers, and each of the others noticed.
    assert phases["leaders die"].slowest_s > LIFE_S / 2
    silent = phases["Redis is silent"]
    assert silent.refused > 0
    assert silent.oldest_s > LIFE_S / 2


def test_without_the_lease_it_costs_as_many_times_more_as_there_are_replicas() -> None:
    assert broken(simulate(QUICK)) == []
    phase, *_ = simulate(dataclasses.replace(QUICK, shares=False, calls_per_s=100.0))
    assert phase.calls_per_s > QUICK.replicas * 0.8


def _without_deadline(patch: pytest.MonkeyPatch) -> None:
    given: Callable[..., Any] = LeaseLookup._given

    def changed(self: LeaseLookup, *arguments: Any) -> Any:
        step = given(self, *arguments)
        self.ends_s = float("inf")
        return step

    patch.setattr(LeaseLookup, "_given", changed)


class _Anything(dict[bytes, tuple[float, float]]):
    def get(self, *_: object) -> Any:
        return max(self.values(), default=None)


def _without_nonce(patch: pytest.MonkeyPatch) -> None:
    use: Callable[..., None] = LeaseLookup.__init__

    def changed(self: LeaseLookup, *arguments: Any, **named: Any) -> None:
        use(self, *arguments, **named)
        self._seen = _Anything()

    patch.setattr(LeaseLookup, "__init__", changed)


def _leader_deletes(patch: pytest.MonkeyPatch) -> None:
    publish: Callable[..., Any] = RedisLeases.publish

    async def changed(self: RedisLeases, token: Any, generation: bytes, life_s: float, *rest: Any) -> None:
        await publish(self, token, generation, life_s, *rest)
        lease, _ = token.key.lease_names(generation, life_s)
        await self.store.run("lease", lease, ("DEL", lease))

    patch.setattr(RedisLeases, "publish", changed)


def _nothing_published(patch: pytest.MonkeyPatch) -> None:
    async def changed(*_: object) -> None:
        pass

    patch.setattr(RedisLeases, "publish", changed)


_PLANTED = {
    "an answer has no deadline": (_without_deadline, "old"),
    "whatever is published is taken": (_without_nonce, "old"),
    "leaders delete their leases": (_leader_deletes, "calls"),
    "leaders publish nothing": (_nothing_published, "waited"),
}


@pytest.mark.parametrize(("plant", "seen"), _PLANTED.values(), ids=_PLANTED)
def test_a_planted_mistake_is_seen(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], seen: str
) -> None:
    plant(monkeypatch)
    assert any(seen in line for line in broken(simulate(QUICK)))
