"""A simulation of a fleet on virtual time: many replicas and pollers, one Redis, an AOS that throttles.

    python -m tests.model.fleet_simulation [--replicas 100] [--pollers 100000] ...

Each replica is the gateway's own object graph, with its tiers, flights, leases, breaker and throttle.
Modelled are what is around it: time, the Redis server and the connections to it, AOS, callers and
machines that die.
"""

import argparse
import asyncio
import itertools
import json
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from redis.exceptions import TimeoutError as RedisTimeout

from gateway.app.gateway import Gateway
from gateway.cache.cache import Cache
from gateway.cache.results import Response
from gateway.clock import Clock
from gateway.core.caching.eligibility import Eligible, eligibility
from gateway.core.caching.key import EntryKey
from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import BodyFraming
from gateway.core.http.messages import Head, IndexedFields, Request
from gateway.errors import Throttled
from gateway.store.lookup import FAILED, EarlyLookup
from gateway.store.redis_commands import Command
from tests.testbed.gateway import loaded

LIFE_S = 1.0
_EPOCH_S = 1_800_000_000.0
# Between two bunches of polls.
_TICK_S = 0.002
_REDIS_TIMEOUT_S = 0.1
_FETCH_S = (0.03, 0.07)
_LOOK_S = 0.1
_ROUND_TRIP_S = (0.0003, 0.002)
_CLOCKS_APART_S = 2.0
# After an outage: until each replica's probe has found Redis again, and its copies of then are over.
_RECOVERS_S = 2.0
_ACTION = "action-1"
_JSON = ((b"Content-Type", b"application/json"),)


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        every_s: how often each poller polls.
        tokens: each has one record, which all its pollers poll.
        calls_per_s: that AOS lets each token make, after a burst of as many.
        crash_s: when those die that lead next, of three tokens, each as it has sent its call.
        outage_s: from when until when Redis is silent.
        flush_s: when Redis loses all keys.
    """

    replicas: int = 100
    pollers: int = 100_000
    every_s: float = 2.0
    tokens: int = 20
    duration_s: float = 60.0
    calls_per_s: float = 3.0
    crash_s: float = 15.0
    outage_s: tuple[float, float] = (25.0, 35.0)
    flush_s: float = 50.0
    shares: bool = True
    seed: int = 1

    @property
    def phases(self) -> dict[str, tuple[float, float]]:
        """When each part begins and ends; the first second fills the caches."""
        begins, ends = self.outage_s
        return {
            "all well": (1.0, self.crash_s),
            "leaders die": (self.crash_s, begins),
            "Redis is silent": (begins, ends + _RECOVERS_S),
            "after that": (ends + _RECOVERS_S, self.flush_s),
            "Redis is flushed": (self.flush_s, self.duration_s),
        }


@dataclass
class Phase:
    """What happened in one part of a run.

    Attributes:
        calls: at AOS, by token.
        refused: calls that AOS answered with 429.
        answers: to callers, by status; 0: none, the gateway's own error.
        oldest_s: how long before the arrival of a request AOS was asked for what answered it.
        slowest_s: how long a caller waited.
        commands: executed by Redis.
        voids: look-ups for which a leader had nothing that may be shared: each fetches for itself.
    """

    name: str
    duration_s: float
    calls: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    oldest_s: float = 0.0
    slowest_s: float = 0.0
    commands: int = 0
    voids: int = 0

    @property
    def calls_per_s(self) -> float:
        """Of the token with the most."""
        return max(self.calls.values(), default=0) / self.duration_s


class _Jump(selectors.SelectSelector):
    """Passes the time at once, since nothing comes over sockets."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is left that could happen")
        self.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


class RedisModel:
    """A Redis server: the commands that the gateway sends."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.commands = 0
        self.is_silent = False
        self._now_s = now_s

    def execute(self, name: Any, *arguments: Any) -> Any:
        self.commands += 1
        match name if isinstance(name, str) else name.decode(), *arguments:
            case "SET", key, value, *options:
                life_ms = options[options.index("PX") + 1]
                if "NX" in options and self._get(key) is not None:
                    return None
                self.values[key] = value, self._now_s() + life_ms / 1000
                return True
            case "PTTL", key:
                return -2 if self._get(key) is None else round((self.values[key][1] - self._now_s()) * 1000)
            case "MGET", *keys:
                return [self._get(key) for key in keys]
            case "GET", key:
                return self._get(key)
            case "PEXPIRE", key, life_ms:
                if (value := self._get(key)) is not None:
                    self.values[key] = value, self._now_s() + life_ms / 1000
                return int(value is not None)
            case "DEL", *keys:
                return sum(self.values.pop(key, None) is not None for key in keys)
            case "PING", message:
                return message
        raise AssertionError(name)

    def _get(self, key: bytes) -> bytes | None:
        value, ends_s = self.values.get(key, (None, 0.0))
        if value is not None and ends_s <= self._now_s():
            del self.values[key]
            return None
        return value


class _Client:
    """A replica's way to Redis, in place of the library's client and its connections."""

    def __init__(self, replica: "Replica") -> None:
        self._replica = replica

    async def delete(self, *names: bytes) -> Any:
        return await self.execute_command("DEL", *names)

    async def execute_command(self, *command: Any) -> Any:
        return (await self.exchange([command]))[0]

    async def exchange(self, commands: Sequence[Command], _: int = 0) -> list[Any]:
        """Send commands in one round trip, as `Node` does."""
        fleet, redis = self._replica.fleet, self._replica.fleet.redis
        way_s = fleet.random.uniform(*_ROUND_TRIP_S) / 2
        await asyncio.sleep(way_s)
        if redis.is_silent or self._replica.is_dead:
            await asyncio.sleep(_REDIS_TIMEOUT_S)
            raise RedisTimeout
        replies = [redis.execute(*command) for command in commands]
        await asyncio.sleep(way_s)
        return replies


class _Exchange:
    """A call under way, in place of one over a socket."""

    error = None

    def __init__(self, status: int, body: bytes) -> None:
        self.head = Head(status, b"", IndexedFields(_JSON))
        self.head_s = _FETCH_S[0]
        self.reader = SimpleNamespace(is_complete=True, waiting_bytes=len(body), framing=BodyFraming.LENGTH)
        self.on_change: Callable[[], None] | None = None
        self.read_ahead_bytes = 0
        self._body = body

    def take(self) -> bytes:
        return self._body

    def close(self) -> None:
        self.on_change = None


class Replica:
    """One gateway, with a client of Redis and an upstream that are modelled."""

    def __init__(self, fleet: "Fleet", tokens: int) -> None:
        self.fleet = fleet
        self.is_dead = False
        loop = asyncio.get_running_loop()
        apart_s = fleet.random.uniform(-_CLOCKS_APART_S, _CLOCKS_APART_S)
        clock = Clock(wall_s=lambda: _EPOCH_S + apart_s + loop.time(), monotonic_s=loop.time)
        config = loaded(
            "http://127.0.0.1:1",
            redis__url="redis://127.0.0.1:1/0",
            redis__timeout_s=_REDIS_TIMEOUT_S,
            redis__share_running=fleet.plan.shares,
            cache__ttl_running_s=LIFE_S,
            log__access="off",
        )
        self.gateway = gateway = Gateway(config, clock)
        self.tiers = gateway.tiers
        self.cache: Cache = gateway._handler._cache
        self.cache.fetcher.upstream = self  # type: ignore[assignment]
        assert gateway.tiers.redis is not None
        link = gateway.tiers.redis._store.link
        node: Any = link.nodes[0]
        node.client = _Client(self)
        node._exchange = node.client.exchange
        # All but the subscription: nobody writes.
        tier, tasks = gateway.tiers.redis, gateway.tiers.redis._tasks
        for work in (link.run(), tier._send_writes(), tier._sender.run(), tier._sender.run_refused()):
            tasks.start(work, "redis")
        self.asked = [self._asked(number) for number in range(tokens)]

    def _asked(self, number: int) -> tuple[Request, Eligible, EntryKey]:
        fields = IndexedFields([(b"Host", b"aos"), (b"X-Auth-Token", b"token-%d" % number)])
        target = f"/v2/stacks/stack-{number}/actions/{_ACTION}".encode()
        request = Request("GET", target, fields, b"127.0.0.1", b"http", 0, b"id")
        eligible = eligibility(request, self.cache.identity_reader)
        assert isinstance(eligible, Eligible)
        variant = eligible.variant.general
        return request, eligible, self.cache.keys.entry(eligible.identity.entry, variant, eligible.execution)

    def begin(self, method: str, target: bytes, *_: object, **__: object) -> _Exchange:
        """Ask AOS, as `Upstream` does."""
        assert method == "GET"
        exchange = self.fleet.called(int(target.split(b"/")[3].removeprefix(b"stack-")), self)
        fetch_s = self.fleet.random.uniform(*_FETCH_S)
        asyncio.get_running_loop().call_later(fetch_s, self._came, exchange)
        return exchange

    def _came(self, exchange: _Exchange) -> None:
        if exchange.on_change is not None and not self.is_dead:
            exchange.on_change()

    def poll(self, number: int) -> None:
        """Answer one request as the fast path does."""
        request, eligible, key = self.asked[number]
        arrived_s = asyncio.get_running_loop().time()
        entry = self.tiers.peek(key)
        if entry is not None:
            self.fleet.answered(number, arrived_s, 200, entry.body)
            return

        def on_found(found: EarlyLookup | None) -> None:
            if found is None:
                found = EarlyLookup(self.tiers.fill_token(key), FAILED)
            if found.lookup.entry is not None:
                self.fleet.answered(number, arrived_s, 200, found.lookup.entry.body)
                return
            self.cache.fetch_plain(request, eligible, found, on_response)

        def on_response(response: Response | GatewayError | Coroutine[Any, Any, Response]) -> None:
            if isinstance(response, Coroutine):
                self.fleet.start(finish(response))
            else:
                answer(response)

        async def finish(response: Coroutine[Any, Any, Response]) -> None:
            try:
                answer(await response)
            except GatewayError as error:
                answer(error)

        def answer(response: Response | GatewayError) -> None:
            if self.is_dead:
                return
            if isinstance(response, Response):
                self.fleet.answered(number, arrived_s, response.head.status, response.body or b"")
            else:
                self.fleet.answered(number, arrived_s, 429 if isinstance(response, Throttled) else 0, b"")

        self.tiers.lookup_soon(key, on_found)


class Fleet:
    """All replicas, what is around them, and what comes of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self._loop = asyncio.get_running_loop()
        self.redis = RedisModel(self._loop.time)
        self.phases = [Phase(name, ends - begins) for name, (begins, ends) in plan.phases.items()]
        self._phase = Phase("", 1.0)
        self._left: dict[int, tuple[float, float]] = {}
        # Tokens for which the next to lead dies.
        self._dying: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._voids = 0
        self._all = [Replica(self, plan.tokens) for _ in range(plan.replicas)]
        # Those that live.
        self.replicas = self._all.copy()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def called(self, number: int, replica: Replica) -> _Exchange:
        """A call has come to AOS."""
        now_s, phase, rate = self._loop.time(), self._phase, self.plan.calls_per_s
        if replica.is_dead:
            return _Exchange(0, b"")
        phase.calls[number] += 1
        if number in self._dying:
            self._dying.remove(number)
            replica.is_dead = True
            self.replicas.remove(replica)
        left, since_s = self._left.get(number, (rate, now_s))
        left = min(rate, left + (now_s - since_s) * rate)
        is_refused = left < 1
        self._left[number] = left - (not is_refused), now_s
        if is_refused:
            phase.refused += 1
            return _Exchange(429, b'{"error_code": "APIG.0308", "error_msg": "The throttling threshold"}')
        record = {
            "kind": "Execution",
            "metadata": {"name": _ACTION},
            "status": {"objectStatus": {"phase": "Running"}},
            "asked": [number, now_s],
        }
        return _Exchange(200, json.dumps(record).encode())

    def answered(self, number: int, arrived_s: float, status: int, body: bytes) -> None:
        """A caller has his answer."""
        phase = self._phase
        phase.answers[status] += 1
        phase.slowest_s = max(phase.slowest_s, self._loop.time() - arrived_s)
        if status == 200:
            of, asked_s = body[body.rindex(b"[") + 1 : -2].split(b",")
            assert int(of) == number
            phase.oldest_s = max(phase.oldest_s, arrived_s - float(asked_s))

    async def run(self) -> list[Phase]:
        """Let everything happen."""
        plan = self.plan
        self._loop.call_at(plan.crash_s, self._crash)
        self._loop.call_at(plan.flush_s, self.redis.values.clear)
        for moment_s, is_silent in zip(plan.outage_s, (True, False), strict=True):
            self._loop.call_at(moment_s, setattr, self.redis, "is_silent", is_silent)
        for phase, (begins_s, _) in zip(self.phases, plan.phases.values(), strict=True):
            self._loop.call_at(begins_s, self._enter, phase)
        polls_per_tick = plan.pollers / plan.every_s * _TICK_S
        due = 0.0
        for tick in itertools.count(1):
            await asyncio.sleep(tick * _TICK_S - self._loop.time())
            if tick * _TICK_S > plan.duration_s:
                break
            due += polls_per_tick
            for _ in range(int(due)):
                self.random.choice(self.replicas).poll(self.random.randrange(plan.tokens))
            due -= int(due)
        # Whoever still waits is answered.
        await asyncio.sleep(5.0)
        self._enter(Phase("", 1.0))
        return self.phases

    def _enter(self, phase: Phase) -> None:
        voids = sum(each.gateway.metrics.leases["void"] for each in self._all)
        self._phase.commands, self._phase.voids = self.redis.commands, voids - self._voids
        self.redis.commands, self._voids, self._phase = 0, voids, phase

    def _crash(self) -> None:
        self._dying = set(range(self.plan.tokens)[:3])


def simulate(plan: Plan) -> list[Phase]:
    """Run a plan on virtual time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_run(plan))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def _run(plan: Plan) -> list[Phase]:
    fleet = Fleet(plan)
    try:
        return await fleet.run()
    finally:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def broken(phases: Sequence[Phase]) -> list[str]:
    """Return which promises were not kept."""
    found = []
    for phase in phases:
        # k + 1 calls in k intervals, and one for each lease that was lost.
        allowed = phase.duration_s / LIFE_S + 1 + (phase.name == "Redis is flushed")
        most = max(phase.calls.values(), default=0)
        if phase.voids:
            allowed, most = allowed * len(phase.calls) + phase.voids, phase.calls.total()
        wait_s = LIFE_S if phase.name == "leaders die" else 0.0
        wait_s += _LOOK_S + _FETCH_S[1] + 2 * _REDIS_TIMEOUT_S
        has_redis = phase.name != "Redis is silent"
        for what, is_broken in {
            f"{most} calls, not {allowed:.0f}": has_redis and most > allowed,
            f"answers: {dict(phase.answers)}": 0 in phase.answers,
            f"an answer {phase.oldest_s:.2f} s old": phase.oldest_s > LIFE_S,
            f"a caller waited for {phase.slowest_s:.2f} s": phase.slowest_s > wait_s,
        }.items():
            if is_broken:
                found.append(f"{phase.name}: {what}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate a fleet on virtual time.")
    plan = Plan()
    for name in ("replicas", "pollers", "tokens"):
        parser.add_argument(f"--{name}", type=int, default=getattr(plan, name))
    parser.add_argument("--alone", action="store_true", help="redis.share_running is off")
    arguments = parser.parse_args()
    plan = Plan(arguments.replicas, arguments.pollers, tokens=arguments.tokens, shares=not arguments.alone)
    phases = simulate(plan)
    print("phase | calls/s of a token | refused by AOS | answers | oldest s | slowest s | Redis commands/s")
    for phase in phases:
        calls = sum(phase.calls.values())
        share = phase.refused / calls if calls else 0.0
        print(
            f"{phase.name} | {calls / phase.duration_s / plan.tokens:.2f} (most {phase.calls_per_s:.2f}) "
            f"| {share:.1%} | {dict(phase.answers)} | {phase.oldest_s:.3f} | {phase.slowest_s:.3f} "
            f"| {phase.commands / phase.duration_s:.0f}"
        )
    for line in broken(phases):
        print("broken:", line)
    return 1 if broken(phases) else 0


if __name__ == "__main__":
    raise SystemExit(main())
