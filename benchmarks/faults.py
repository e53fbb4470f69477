"""What a dying Redis and a misbehaving upstream cost: one Markdown table, measured over loopback in a minute.

Run it as ``python -m benchmarks.faults``. It needs what the tests need. Each fault is met by a gateway of
its own in this process; a few callers ask one after the other, in three phases: before, during (once the
breaker is open, for Redis) and after. An answer is wrong when its body is not what the upstream has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from gateway.app import Gateway
from gateway.config import load_config
from tests.support.answers import Conversation
from tests.support.aos import Answer, AnyAnswer, Received, ScriptedAos, never, record
from tests.support.client import RawClient
from tests.support.faultproxy import HALF_OPEN, PASS, RESET, STALL, FaultProxy, Mode
from tests.support.redis_server import RedisServer

UPSTREAM_S = 0.002
CALLERS = 4
PHASE_S = 0.8
RECOVERY_S = 5.0
OPENING_S = 3.0
HEADERS = (("Host", "127.0.0.1"), ("X-Auth-Token", "token-of-the-benchmark"))
HITS = "/v2/stacks/stack-hit/actions/action-hit"
FORWARDED = "/v2/stacks/stack-run/actions/action-run"

Step = Callable[["Stage"], Awaitable[object]]


@dataclass
class Stage:
    """What one fault plays on.

    Attributes:
        redis: a server of its own.
        redis_proxy: in front of it.
        aos: the upstream, which answers after a constant 2 ms.
        aos_proxy: in front of that.
        gateway: between the two proxies.
        address: where the gateway listens.
    """

    redis: RedisServer
    redis_proxy: FaultProxy
    aos: ScriptedAos
    aos_proxy: FaultProxy
    gateway: Gateway
    address: str

    @property
    def breaker_is_open(self) -> bool:
        """Redis is given up."""
        return self.gateway.health()["breaker"] != "closed"

    @property
    def is_settled(self) -> bool:
        """Redis is in use and has been told everything."""
        health = self.gateway.health()
        return health["breaker"] == "closed" and health["debts"] == 0


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: its first cell.
        path: ``forwarded`` (a record in progress, looked up and fetched each time) or ``hits``.
        begins: brings it about.
        heals: ends it.
        opens: the breaker opens.
        unavoidable: statuses that the upstream's own fault makes unavoidable.
    """

    name: str
    path: str
    begins: Step
    heals: Step
    opens: bool = False
    unavoidable: frozenset[int] = frozenset()


@dataclass
class Phase:
    """What the requests of one phase came to; times in seconds."""

    times_s: list[float] = field(default_factory=list)
    wrong: int = 0
    errors: int = 0

    def quantiles_ms(self) -> str:
        """Return p50 and p99 in milliseconds."""
        if len(self.times_s) < 2:
            return "–"
        cuts = statistics.quantiles(self.times_s, n=100, method="inclusive")
        return f"{cuts[49] * 1000:.1f} / {cuts[98] * 1000:.1f}"


@dataclass(frozen=True)
class Row:
    """One measured fault."""

    fault: Fault
    before: Phase
    during: Phase
    after: Phase
    opening: Phase
    recovery_s: float | None

    def cells(self) -> list[str]:
        """Return the cells of its line."""
        phases = (self.before, self.opening, self.during, self.after)
        recovery = "not in time" if self.recovery_s is None else f"{self.recovery_s:.2f} s"
        return [
            self.fault.name,
            self.fault.path,
            str(sum(len(phase.times_s) for phase in phases)),
            str(sum(phase.wrong for phase in phases)),
            str(sum(phase.errors for phase in phases)),
            self.before.quantiles_ms(),
            self.during.quantiles_ms(),
            self.after.quantiles_ms(),
            recovery,
        ]


def body_of(target: str) -> bytes:
    """Return the one right body of a record."""
    phase = "Succeeded" if target == HITS else "Running"
    return record(phase, name=target.rpartition("/")[2])


def after_two_ms(answer: AnyAnswer) -> Callable[[Received, Conversation], Awaitable[None]]:
    """Return the answer, held back for a constant 2 ms."""

    async def late(_: Received, conversation: Conversation) -> None:
        await asyncio.sleep(UPSTREAM_S)
        await conversation.answer(answer)

    return late


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Start everything for one fault, and end it again."""
    with RedisServer(settings={"enable-debug-command": "yes"}) as redis:
        async with ScriptedAos() as aos, FaultProxy(redis.address) as front, FaultProxy(aos.address) as way:
            well(aos)
            flags: dict[str, object] = {
                "upstream.url": f"http://{way.address}",
                "upstream.read_timeout_s": 1.0,
                "server.listen": "127.0.0.1:0",
                "redis.url": f"redis://{front.address}/0",
                "cache.memory_bytes": 0,
            }
            gateway = Gateway(load_config(None, {}, flags))
            address = await gateway.start()
            try:
                yield Stage(redis, front, aos, way, gateway, str(address))
            finally:
                await gateway.close(1.0)


def well(aos: ScriptedAos) -> None:
    """Let the upstream answer as it should."""
    for target in (HITS, FORWARDED):
        fields = [("Content-Type", "application/json")]
        aos.on("GET", target, after_two_ms(Answer(headers=fields, body=body_of(target))))


def ill(answer: AnyAnswer) -> Step:
    """Return the step after which the upstream answers so."""

    async def begins(stage: Stage) -> None:
        stage.aos.on("GET", "/v2/", answer)

    return begins


async def cured(stage: Stage) -> None:
    """Let the upstream answer as it should again."""
    well(stage.aos)


def redis_mode(mode: Mode) -> Step:
    """Return the step that puts the way to Redis into a mode."""

    async def sets(stage: Stage) -> None:
        stage.redis_proxy.mode = mode

    return sets


def aos_mode(mode: Mode) -> Step:
    """Return the step that puts the way to the upstream into a mode."""

    async def sets(stage: Stage) -> None:
        stage.aos_proxy.mode = mode

    return sets


def told(*commands: tuple[str, ...]) -> Step:
    """Return the step that gives Redis some commands."""

    async def tells(stage: Stage) -> None:
        for command in commands:
            await stage.redis.command(*command)

    return tells


async def kill(stage: Stage) -> None:
    """End Redis as a crash would."""
    stage.redis.kill()


async def start(stage: Stage) -> None:
    """Start Redis empty."""
    await asyncio.to_thread(stage.redis.start)


async def pause(stage: Stage) -> None:
    """Stop the process of Redis."""
    stage.redis.pause()


async def resume(stage: Stage) -> None:
    """Let it go on."""
    stage.redis.resume()


async def block(stage: Stage) -> None:
    """Have Redis busy with one command for two seconds, longer than the phase."""
    with suppress(TimeoutError):
        await stage.redis.command("DEBUG", "SLEEP", "2", timeout_s=0.01)


async def unblock(stage: Stage) -> None:
    """Wait for the end of that command."""
    await stage.redis.command("PING", timeout_s=5.0)


async def lock(stage: Stage) -> None:
    """Ask for a password from now on."""
    await told(("CONFIG", "SET", "requirepass", "sesame"))(stage)
    stage.redis.password = "sesame"
    await told(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))(stage)


async def unlock(stage: Stage) -> None:
    """Ask for none again."""
    await told(("CONFIG", "SET", "requirepass", ""))(stage)
    stage.redis.password = None


FULL = ("CONFIG", "SET", "maxmemory", "1")
ROOMY = ("CONFIG", "SET", "maxmemory", "0")
# Nobody is there: a replica keeps what it has, and refuses to change it.
READ_ONLY = ("REPLICAOF", "127.0.0.1", "1")
MASTER = ("REPLICAOF", "NO", "ONE")
STALE = frozenset({502, 504})

FAULTS = (
    Fault("Redis refused", "forwarded", redis_mode(RESET), redis_mode(PASS), opens=True),
    Fault("Redis killed", "forwarded", kill, start, opens=True),
    Fault("Redis stopped", "forwarded", pause, resume, opens=True),
    Fault("Redis blocked", "forwarded", block, unblock, opens=True),
    Fault(
        "Redis slow (300 ms)", "forwarded", redis_mode(Mode(delay_down_s=0.3)), redis_mode(PASS), opens=True
    ),
    Fault("Redis stalled", "forwarded", redis_mode(STALL), redis_mode(PASS), opens=True),
    Fault("Redis half-open", "forwarded", redis_mode(HALF_OPEN), redis_mode(PASS), opens=True),
    Fault("Redis wants a password", "forwarded", lock, unlock, opens=True),
    Fault("Redis read-only", "hits", told(READ_ONLY), told(MASTER)),
    Fault("Redis full", "hits", told(FULL), told(ROOMY)),
    Fault("Redis flushed", "hits", told(("FLUSHALL",)), told()),
    Fault("upstream refused", "forwarded", aos_mode(RESET), aos_mode(PASS), unavoidable=STALE),
    Fault("upstream silent", "forwarded", ill(never), cured, unavoidable=STALE),
    Fault("upstream slow (100 ms)", "forwarded", aos_mode(Mode(delay_down_s=0.1)), aos_mode(PASS)),
    Fault("upstream 500s", "forwarded", ill(Answer(500, body=b"{}")), cured, unavoidable=frozenset({500})),
    Fault("upstream refused", "hits", aos_mode(RESET), aos_mode(PASS)),
    Fault("upstream silent", "hits", ill(never), cured),
    Fault("upstream 500s", "hits", ill(Answer(500, body=b"{}")), cured),
)


async def ask(stage: Stage, fault: Fault, phase: Phase, client: RawClient, *, faulty: bool) -> bool:
    """Ask once, note what came of it, and tell whether it was the right answer."""
    target = HITS if fault.path == "hits" else FORWARDED
    began_s = time.perf_counter()
    response = await client.request("GET", target, HEADERS, timeout_s=10.0)
    phase.times_s.append(time.perf_counter() - began_s)
    if response.status == 200:
        phase.wrong += response.body != body_of(target)
        return True
    phase.errors += not (faulty and response.status in fault.unavoidable)
    return False


async def run_phase(stage: Stage, fault: Fault, *, faulty: bool = False) -> Phase:
    """Have a few callers ask, one request after the other each, for the time of a phase."""
    phase = Phase()
    ends_s = time.perf_counter() + PHASE_S

    async def caller() -> None:
        async with await RawClient.connect(stage.address) as client:
            while time.perf_counter() < ends_s:
                await ask(stage, fault, phase, client, faulty=faulty)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
    return phase


async def run_until(
    stage: Stage, fault: Fault, phase: Phase, timeout_s: float, done: Callable[[bool], bool]
) -> float | None:
    """Ask until something holds after an answer; return how long that took, ``None`` when it never did."""
    began_s = time.perf_counter()
    async with await RawClient.connect(stage.address) as client:
        while (passed_s := time.perf_counter() - began_s) < timeout_s:
            if done(await ask(stage, fault, phase, client, faulty=True)):
                return time.perf_counter() - began_s
            await asyncio.sleep(0.002 if passed_s < 1 else 0.01)
    return None


async def measure(fault: Fault) -> Row:
    """Play one fault on a stage of its own."""
    async with stage() as played:
        opening = Phase()
        subscribed = played.gateway.tiers.subscription
        await run_until(
            played, fault, Phase(), OPENING_S, lambda _: subscribed is not None and subscribed.is_up
        )
        before = await run_phase(played, fault)
        await fault.begins(played)
        if fault.opens:
            opened = await run_until(played, fault, opening, OPENING_S, lambda _: played.breaker_is_open)
            if opened is None:
                raise RuntimeError(f"{fault.name}: the breaker did not open in {OPENING_S:g} s")
        during = await run_phase(played, fault, faulty=True)
        if fault.opens:
            # Owed while nobody can be told: part of what has to be recovered from.
            await played.gateway.purge("stack-owed")
        await fault.heals(played)
        recovery_s = await run_until(
            played, fault, opening, RECOVERY_S, lambda is_right: is_right and played.is_settled
        )
        after = await run_phase(played, fault)
    return Row(fault, before, during, after, opening, recovery_s)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; p50 / p99 in milliseconds."""
    titles = [
        *("fault", "path", "requests", "wrong", "errors beyond the unavoidable"),
        *("before p50 / p99 ms", "during", "after", "recovered in"),
    ]
    lines = [titles, ["---"] * len(titles), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


async def run(pattern: str) -> list[Row]:
    """Measure the faults whose name contains a text, one after the other."""
    return [await measure(fault) for fault in FAULTS if pattern in fault.name]


def main() -> None:
    """Read the options, measure, print; exits with 1 when an answer was wrong or an error avoidable."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose name contains this")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON instead")
    options = parser.parse_args()
    rows = asyncio.run(run(options.only))
    print(json.dumps([row.cells() for row in rows], ensure_ascii=False) if options.json else table(rows))
    phases = [phase for row in rows for phase in (row.before, row.opening, row.during, row.after)]
    if any(phase.wrong or phase.errors for phase in phases) or any(row.recovery_s is None for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
