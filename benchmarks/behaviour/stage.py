"""What one side of a scenario plays on: the twin, and a gateway before it or none, each its own process."""

import asyncio
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from benchmarks.behaviour.pollers import Counts
from benchmarks.behaviour.scenario import DIRECT, Load, Scenario, Variant
from benchmarks.harness.processes import LOAD_CPU, SERVER_CPU, GatewayServer, Processes, Redis, Twin
from benchmarks.openloop.report import Report
from benchmarks.openloop.targets import Target
from gateway.twin.profiles import profile_named
from gateway.twin.world import World

PROFILE: Final = "load"
SEED: Final = 1
# Calls for records alone: what is slow or throttled must not be what prepares a scenario.
_RECORDS: Final = "/v2/stacks/*/actions/*"
_OPERATOR: Final = "load:operator"
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


def tokens(count: int, user: str = "caller") -> list[str]:
    """Return so many tokens of one user of the project that owns the records."""
    return [f"load:{user}:{number}" for number in range(count)]


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


class Used(msgspec.Struct, frozen=True):
    """What callers have used so far.

    Attributes:
        at_s: the moment (`time.monotonic`).
        polls: that they sent.
        calls: records that the upstream was asked for.
        questions: put to IAM.
        gateway_s: CPU seconds, user and system, of all replicas.
        redis_commands: that Redis has executed; ``None`` without one.
    """

    at_s: float
    polls: int
    calls: int
    questions: int
    gateway_s: float
    redis_commands: int | None


class ControlError(Exception):
    """A twin, or what was taken for one, refuses a call; the text is one line with the reason."""


class Control:
    """The control address of a twin."""

    def __init__(self, url: str) -> None:
        self.url = url

    def calls(self) -> int:
        """Return how often the twin was asked for a record so far.

        Raises:
            OSError: it cannot be reached.
            ControlError: its answer is not that of a twin.
        """
        return self.received()["get_execution"]

    def received(self) -> Counter[str]:
        """Return how often the twin received each kind of request so far.

        Raises:
            OSError: it cannot be reached.
            ControlError: its answer is not that of a twin.
        """
        received = self.send("GET", "/state").get("received")
        if not isinstance(received, dict):
            raise ControlError("it counts no calls")
        return Counter(received)

    def send(self, method: str, path: str, value: object = None) -> dict[str, Any]:
        """Send a request and return what is answered.

        Raises:
            OSError: it cannot be reached.
            ControlError: it refuses.
        """
        return _send(self.url, method, path, value)


class Stage:
    """A fresh twin, and fresh gateways before it or none.

    Attributes:
        urls: the servers that callers use.
        redis: the gateways'; ``None`` without one.
        control: of the twin.
    """

    def __init__(self, scenario: Scenario, variant: Variant) -> None:
        """Start all of it.

        Args:
            scenario: what is played.
            variant: which gateways there are; none where it is `DIRECT`.
        """
        self._processes = Processes()
        self._upstream_delay_s = scenario.upstream_delay_s
        self._executions = 0
        try:
            self._twin = Twin(self._processes, profile=PROFILE, seed=SEED, cpu=None)
            self.control = Control(self._twin.control)
            self.redis: Redis | None = None
            self._gateways: list[GatewayServer] = []
            if variant.name != DIRECT:
                self._start_gateways(scenario, variant)
            self.urls = [gateway.url for gateway in self._gateways] or [self._twin.url]
            self.clear_faults()
        except BaseException:
            self._processes.close()
            raise

    @property
    def url(self) -> str:
        """The first of the servers."""
        return self.urls[0]

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def _start_gateways(self, scenario: Scenario, variant: Variant) -> None:
        # The twin is an IAM as well, for settings that need one.
        known = {"iam.url": self._twin.url}
        if scenario.with_redis and variant.with_redis:
            self.redis = Redis(self._processes, cpu=None)
            known["redis.url"] = self.redis.url
        known |= {**scenario.settings, **variant.settings}
        self._gateways = [
            GatewayServer(self._processes, self._twin.url, settings=known, cpu=SERVER_CPU)
            for _ in range(variant.replicas)
        ]

    def calls(self) -> int:
        """Return how often the upstream was asked for a record so far."""
        return self.control.calls()

    def used(self, counts: Counts) -> Used:
        """Return what callers who count here have used so far."""
        received = self.control.received()
        return Used(
            at_s=time.monotonic(),
            polls=counts.asked,
            calls=received["get_execution"],
            questions=received["verify_token"],
            gateway_s=sum(gateway.child.cpu_s() for gateway in self._gateways),
            redis_commands=None if self.redis is None else self.redis.commands(),
        )

    def fault(self, **fault: object) -> None:
        """Make the upstream misbehave towards readers of records; see ``gateway/twin/faults.py``."""
        self.control.send("POST", "/faults", {"path": _RECORDS, **fault})

    def clear_faults(self) -> None:
        """End all faults but the scenario's delay."""
        self.control.send("DELETE", "/faults")
        if self._upstream_delay_s:
            self.fault(kind="latency", delay_s=self._upstream_delay_s)

    def start_executions(self, count: int, duration_s: float) -> dict[str, float]:
        """Start executions that succeed, each of a stack of its own.

        Returns:
            When each ends (`time.monotonic`), by its target.
        """
        ends_s = {}
        for _ in range(count):
            self._executions += 1
            stack = {"name": f"polled-{self._executions}", "template_id": "t", "cluster_id": "c"}
            stack_id = self._operate("POST", "/v2/stacks", stack)["guid"]
            inputs = {"twin_outcome": "Succeeded", "twin_duration_s": duration_s}
            path = f"/v2/stacks/{stack_id}/actions"
            action_id = self._operate("PUT", path, {"lifecycle": "create", "inputs": inputs})["action_id"]
            ends_s[f"{path}/{action_id}"] = time.monotonic() + duration_s
        return ends_s

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

    def _operate(self, method: str, path: str, value: object) -> dict[str, Any]:
        return _send(self._twin.url, method, path, value, {"X-Auth-Token": _OPERATOR})


def _send(
    url: str, method: str, path: str, value: object, fields: Mapping[str, str] | None = None
) -> dict[str, Any]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5.0)
    try:
        connection.request(method, path, None if value is None else json.dumps(value), fields or {})
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as exc:
        raise ControlError(f"no answer in HTTP: {type(exc).__name__}") from exc
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise ControlError(f"answered {response.status}: {body[:200]!r}")
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ControlError(f"answered something else than JSON: {body[:40]!r}")
    return answer
