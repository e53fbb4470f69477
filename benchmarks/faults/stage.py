"""What a fault is met by (fault proxies, a gateway, a real Redis, an upstream), and all the faults."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.testbed.answers import Conversation
from tests.testbed.aos import Answer, AnyAnswer, Received, ScriptedAos, never, record
from tests.testbed.client import RawClient
from tests.testbed.faultproxy import HALF_OPEN, PASS, RESET, STALL, FaultProxy, Mode
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import health
from tests.testbed.redis_server import RedisServer

UPSTREAM_S = 0.002
PENDING_STACKS = 1000
WRITERS = 8
# How long Redis is blocked beyond the phase: the breaker opens and the stacks are written to as well.
BLOCKED_BEYOND_S = 4.0
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
        gateway: between the two proxies, a process of its own.
        phase_s: length of a phase.
    """

    redis: RedisServer
    redis_proxy: FaultProxy
    aos: ScriptedAos
    aos_proxy: FaultProxy
    gateway: GatewayProcess
    phase_s: float

    async def breaker_is_open(self) -> bool:
        """Whether the circuit breaker to Redis is open."""
        return bool((await health(self.gateway.admin))["breaker"] != "closed")

    async def is_settled(self) -> bool:
        """Whether Redis is in use and no invalidation is pending."""
        found = await health(self.gateway.admin)
        return bool(found["breaker"] == "closed" and found["pending_invalidations"] == 0)

    async def is_subscribed(self) -> bool:
        """Whether invalidations of other replicas are received."""
        return bool((await health(self.gateway.admin))["subscription"] == "up")

    async def write_to_many_stacks(self) -> None:
        """Write to many stacks, a few at a time."""
        stacks = iter(range(PENDING_STACKS))

        async def writer() -> None:
            async with await RawClient.connect(self.gateway.address) as client:
                for number in stacks:
                    answer = await client.request(
                        "DELETE", f"/v2/stacks/pending-{number}", HEADERS, timeout_s=10.0
                    )
                    if answer.status != 202:
                        raise RuntimeError(f"a write was answered with {answer.status}")

        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(writer())


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        name: its first cell.
        path: ``forwarded`` (a record in progress, looked up and fetched each time) or ``hits``.
        begins: brings it about.
        heals: ends it.
        opens: the breaker opens.
        is_bounded: the p99 once it is open has a bound.
        unavoidable: statuses that the upstream's own fault makes unavoidable.
    """

    name: str
    path: str
    begins: Step
    heals: Step
    opens: bool = False
    is_bounded: bool = False
    unavoidable: frozenset[int] = frozenset()


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
async def stage(phase_s: float) -> AsyncIterator[Stage]:
    """Start everything for one fault, and end it again."""
    environ = {
        "AOS_GATEWAY_UPSTREAM__READ_TIMEOUT_S": "1",
        "AOS_GATEWAY_CACHE__MEMORY_BYTES": "0",
        "AOS_GATEWAY_LOG__ACCESS": "off",
    }
    with RedisServer(settings={"enable-debug-command": "yes"}) as redis:
        async with ScriptedAos() as aos, FaultProxy(redis.address) as front, FaultProxy(aos.address) as way:
            well(aos)
            arguments = ("--upstream", f"http://{way.address}", "--redis", f"redis://{front.address}/0")
            gateway = GatewayProcess(*arguments, environ=environ)
            try:
                yield Stage(redis, front, aos, way, await gateway.ready(), phase_s)
            finally:
                gateway.discard()


def well(aos: ScriptedAos) -> None:
    """Let the upstream answer as it should."""
    for target in (HITS, FORWARDED):
        fields = [("Content-Type", "application/json")]
        aos.on("GET", target, after_two_ms(Answer(headers=fields, body=body_of(target))))
    aos.on("DELETE", "/v2/", after_two_ms(Answer(202)))


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


def redis_commands(*commands: tuple[str, ...]) -> Step:
    """Return the step that gives Redis some commands."""

    async def run(stage: Stage) -> None:
        for command in commands:
            await stage.redis.command(*command)

    return run


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
    """Have Redis busy with one command for longer than the phase."""
    with suppress(TimeoutError):
        await stage.redis.command("DEBUG", "SLEEP", str(stage.phase_s + BLOCKED_BEYOND_S), timeout_s=0.01)


async def unblock(stage: Stage) -> None:
    """Wait for the end of that command."""
    await stage.redis.command("PING", timeout_s=stage.phase_s + BLOCKED_BEYOND_S)


async def lock(stage: Stage) -> None:
    """Ask for a password from now on."""
    await redis_commands(("CONFIG", "SET", "requirepass", "sesame"))(stage)
    stage.redis.password = "sesame"
    await redis_commands(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))(stage)


async def unlock(stage: Stage) -> None:
    """Ask for none again."""
    await redis_commands(("CONFIG", "SET", "requirepass", ""))(stage)
    stage.redis.password = None


FULL = ("CONFIG", "SET", "maxmemory", "1")
ROOMY = ("CONFIG", "SET", "maxmemory", "0")
# Nobody is there: a replica keeps what it has, and refuses to change it.
READ_ONLY = ("REPLICAOF", "127.0.0.1", "1")
MASTER = ("REPLICAOF", "NO", "ONE")
STALE = frozenset({502, 504})

FAULTS = (
    Fault("Redis refused", "forwarded", redis_mode(RESET), redis_mode(PASS), opens=True),
    Fault("Redis killed", "forwarded", kill, start, opens=True, is_bounded=True),
    Fault("Redis stopped", "forwarded", pause, resume, opens=True, is_bounded=True),
    Fault("Redis blocked", "forwarded", block, unblock, opens=True, is_bounded=True),
    Fault(
        "Redis slow (300 ms)", "forwarded", redis_mode(Mode(delay_down_s=0.3)), redis_mode(PASS), opens=True
    ),
    Fault("Redis stalled", "forwarded", redis_mode(STALL), redis_mode(PASS), opens=True),
    Fault("Redis half-open", "forwarded", redis_mode(HALF_OPEN), redis_mode(PASS), opens=True),
    Fault("Redis wants a password", "forwarded", lock, unlock, opens=True),
    Fault("Redis read-only", "hits", redis_commands(READ_ONLY), redis_commands(MASTER)),
    Fault("Redis full", "hits", redis_commands(FULL), redis_commands(ROOMY)),
    Fault("Redis flushed", "hits", redis_commands(("FLUSHALL",)), redis_commands()),
    Fault("upstream refused", "forwarded", aos_mode(RESET), aos_mode(PASS), unavoidable=STALE),
    Fault("upstream silent", "forwarded", ill(never), cured, unavoidable=STALE),
    Fault("upstream slow (100 ms)", "forwarded", aos_mode(Mode(delay_down_s=0.1)), aos_mode(PASS)),
    Fault("upstream 500s", "forwarded", ill(Answer(500, body=b"{}")), cured, unavoidable=frozenset({500})),
    Fault("upstream refused", "hits", aos_mode(RESET), aos_mode(PASS)),
    Fault("upstream silent", "hits", ill(never), cured),
    Fault("upstream 500s", "hits", ill(Answer(500, body=b"{}")), cured),
)
