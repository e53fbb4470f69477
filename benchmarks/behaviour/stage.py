"""What one side of a scenario plays on: the twin, and a gateway before it or none, each its own process."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from benchmarks.behaviour.scenario import Load, Scenario
from benchmarks.harness.processes import LOAD_CPU, SERVER_CPU, GatewayServer, Processes, Redis, Twin
from benchmarks.openloop.report import Report
from benchmarks.openloop.targets import Target
from gateway.twin.profiles import profile_named
from gateway.twin.world import World

PROFILE: Final = "load"
SEED: Final = 1
# The running executions of the twin's profile last six days.
_BEYOND_THE_LAST_S: Final = 600_000
_REPORT: Final = msgspec.json.Decoder(Report)
_SLACK_S: Final = 30.0


class Records(msgspec.Struct, frozen=True):
    """Request targets of the records that a fresh twin has."""

    settled: list[str]
    running: list[str]


@cache
def records() -> Records:
    """Work out which records the twin has: the same profile and seed give the same ones."""
    world = World(profile_named(PROFILE), SEED)
    now_s = world.clock.now_s()
    found = Records([], [])
    for stack in world.model.all_stacks(now_s):
        for execution in stack.executions.values():
            group = found.running if execution.is_under_way(now_s) else found.settled
            group.append(f"/v2/stacks/{stack.guid}/actions/{execution.name}")
    return found


def tokens(count: int) -> list[str]:
    """Return the tokens of so many callers of the project that owns the records."""
    return [f"load:caller-{number}" for number in range(count)]


def targets(load: Load) -> list[Target]:
    """Return what a load asks for, with weights."""
    settled = records().settled[: load.records]
    popularity = [(rank + 1) ** -load.zipf for rank in range(len(settled))]
    total = sum(popularity)
    weighted = [
        (target, (1 - load.running_share) * share / total)
        for target, share in zip(settled, popularity, strict=True)
    ]
    running = records().running
    weighted += [(target, load.running_share / len(running)) for target in running]
    return [
        Target(target=target, token=token, weight=weight)
        for token in tokens(load.callers)
        for target, weight in weighted
        if weight > 0
    ]


class Stage:
    """A fresh twin, and with `has_gateway` a fresh gateway before it.

    Attributes:
        url: the server that callers use.
        redis: the gateway's; ``None`` without one.
    """

    def __init__(self, scenario: Scenario, *, has_gateway: bool) -> None:
        self._processes = Processes()
        try:
            self._twin = Twin(self._processes, profile=PROFILE, seed=SEED, cpu=None)
            self.url = self._twin.url
            self.redis: Redis | None = None
            if has_gateway:
                self.redis = Redis(self._processes, cpu=None) if scenario.with_redis else None
                known = {"redis.url": self.redis.url} if self.redis is not None else {}
                settings = known | scenario.settings
                gateway = GatewayServer(self._processes, self._twin.url, settings=settings, cpu=SERVER_CPU)
                self.url = gateway.url
            if scenario.upstream_delay_s:
                self.fault(kind="latency", delay_s=scenario.upstream_delay_s)
        except BaseException:
            self._processes.close()
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def calls(self) -> int:
        """Return how often the upstream was asked for a record so far."""
        return int(self._control("GET", "/state")["received"].get("get_execution", 0))

    def answers(self) -> int:
        """Return how many of these calls the upstream has answered so far, with whatever status."""
        answered: dict[str, int] = self._control("GET", "/state")["answered"].get("get_execution", {})
        return sum(answered.values())

    def fault(self, **fault: object) -> None:
        """Make the upstream misbehave from now on; see ``gateway/twin/faults.py``."""
        self._control("POST", "/faults", fault)

    def end_executions(self) -> None:
        """Let all running executions end."""
        self._control("POST", "/clock", {"advance_s": _BEYOND_THE_LAST_S})

    def kill_redis(self) -> None:
        """End Redis as a crash would."""
        assert self.redis is not None
        self.redis.child.kill()

    def restart_redis(self) -> None:
        """Start Redis again, empty, at the same address."""
        assert self.redis is not None
        self.redis = Redis(self._processes, cpu=None, address=self.redis.address, name="redis-again")

    async def offer(self, load: Load, seed: int = 1) -> Report:
        """Have the open-loop generator offer a load, in a process of its own."""
        file, out = (self._processes.folder / name for name in ("targets.jsonl", "report.json"))
        file.write_bytes(b"\n".join(map(msgspec.json.encode, targets(load))))
        argv: Sequence[str] = [
            *(sys.executable, "-m", "benchmarks.openloop", "--url", self.url, "--poisson"),
            *("--rate", str(load.rate_per_s), "--duration", str(load.duration_s)),
            *("--connections", str(load.connections), "--targets", str(file), "--json", str(out)),
            *("--seed", str(seed)),
        ]
        out.unlink(missing_ok=True)
        child = self._processes.start("openloop", argv, cpu=LOAD_CPU)
        try:
            await asyncio.to_thread(child.wait, load.duration_s + _SLACK_S)
            if not out.exists():
                raise RuntimeError(f"the generator failed: {child.output()[-400:]}")
            return _REPORT.decode(out.read_bytes())
        finally:
            self._processes.stop(child)

    def _control(self, method: str, path: str, value: object = None) -> dict[str, Any]:
        control = urlsplit(self._twin.control)
        connection = http.client.HTTPConnection(control.hostname or "", control.port, timeout=5.0)
        try:
            connection.request(method, path, None if value is None else json.dumps(value))
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"the twin's control: {body[:200]!r}")
            answer: dict[str, Any] = json.loads(body)
            return answer
        finally:
            connection.close()
