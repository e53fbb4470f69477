"""Faults of Redis under a whole gateway: right responses, no error, no waiting, back within two seconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.store.kit import replying, until
from tests.testbed.aos import ACTION_ID, STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawResponse, fetch
from tests.testbed.faultproxy import HALF_OPEN, PASS, RESET, STALL, FaultProxy, Mode
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisReplyError, RedisServer
from tests.testbed.secrets import token

A, B = token("a", 300), token("b", 300)
STACK = f"/v2/stacks/{STACK_ID}"
SECRET = "0123456789abcdef" * 2
RECOVERY_S = 2.0
# Three failures of 0.1 s each open the breaker; the rest is for a busy machine.
OPENING_S = 3.0
MANY_STACKS = 1000
REQUESTS = 200
# What 200 requests would cost if each waited for Redis once: 200 * 0.1 s. They may take a quarter of it.
UNWAITED_S = 5.0

MakeProxy = Callable[[str], Awaitable[FaultProxy]]


def settled(number: int) -> Answer:
    return Answer(headers=[("Content-Type", "application/json")], body=record(unknownField=number))


def of_stack(number: int) -> str:
    return f"/v2/stacks/stack-{number}/actions/{ACTION_ID}"


def cache_status(response: RawResponse) -> bytes:
    return response.all("cache-status")[-1]


@dataclass
class Rig:
    """A gateway without a memory tier, so that Redis is asked each time, on a Redis behind a fault proxy.

    Attributes:
        current: the number in the record that the upstream has now.
    """

    aos: ScriptedAos
    redis: RedisServer
    proxy: FaultProxy
    gateway: RunningGateway
    current: int = 0
    seen: list[RawResponse] = field(default_factory=list)

    def changed(self) -> None:
        """Let the record become another one, so that a response shows which it is."""
        self.current += 1
        self.aos.answer(settled(self.current))

    async def get(self, target: str = TARGET, caller: bytes = A) -> RawResponse:
        """Request a record; whatever Redis does, it must be the one that the upstream has now."""
        response = await fetch(self.gateway.address, target, token=caller)
        assert response.status == 200
        assert response.body == settled(self.current).body
        return response

    async def is_hit(self, target: str = TARGET, caller: bytes = A) -> bool:
        return b"; hit" in cache_status(await self.get(target, caller))

    async def hits(self, timeout_s: float = RECOVERY_S, caller: bytes = A) -> None:
        """Wait until Redis answers."""
        await until(lambda: self.is_hit(caller=caller), "a hit from Redis", timeout_s)

    async def write(self, stack: str = STACK) -> None:
        """Write to a stack, through the gateway; the record is another one then."""
        self.changed()
        assert (await fetch(self.gateway.address, stack, method="DELETE", token=A)).status == 202

    @property
    def breaker(self) -> str:
        return str(self.gateway.app.health()["breaker"])

    @property
    def pending(self) -> int:
        return self.gateway.app.tiers.redis_state().pending_invalidations

    def gauge(self, name: str) -> float:
        [number] = self.gateway.app.metrics_snapshot()[name][()]
        return number

    async def subscribed(self) -> None:
        """Wait until invalidations by others are received."""
        await until(lambda: self.gateway.app.tiers.redis_state().is_subscribed, "the subscription")

    async def opened(self) -> None:
        """Send requests until the breaker opens; every response is right meanwhile."""

        async def is_open() -> bool:
            await self.get()
            return self.breaker != "closed"

        await until(is_open, "the breaker to open", OPENING_S)

    async def recovered(self) -> None:
        """Wait until Redis is used again, every invalidation is confirmed, and entries are found."""
        await until(
            lambda: self.breaker == "closed" and self.pending == 0,
            "the breaker and the confirmations",
            RECOVERY_S,
        )
        await self.hits()


@asynccontextmanager
async def rig_on(
    aos: ScriptedAos, redis: RedisServer, proxy: FaultProxy, **settings: object
) -> AsyncIterator[Rig]:
    url = redis.url.replace(redis.address, proxy.address)
    aos.on("DELETE", "/v2/stacks/", Answer(202))
    defaults: dict[str, object] = {
        "redis__url": url,
        "redis__prefix": "faults",
        "cache__memory_bytes": 0,
        "cache__secret": SECRET,
    }
    async with running(aos.url, **(defaults | settings)) as gateway:  # type: ignore[arg-type]
        rig = Rig(aos, redis, proxy, gateway)
        rig.changed()
        await rig.subscribed()
        await rig.hits(5.0)
        yield rig
    assert gateway.app.upstream.slots.in_use == 0


@pytest.fixture
async def rig(aos: ScriptedAos, own_redis: RedisServer, fault_proxy: MakeProxy) -> AsyncIterator[Rig]:
    async with rig_on(aos, own_redis, await fault_proxy(own_redis.address)) as made:
        yield made


# Faults of a Redis that does not answer


@dataclass
class Outage:
    """One way not to answer.

    Attributes:
        begins: brings it about.
        heals: ends it.
    """

    begins: Callable[[Rig], Awaitable[object]]
    heals: Callable[[Rig], Awaitable[object]]


def by_mode(mode: Mode) -> Outage:
    async def begins(rig: Rig) -> None:
        rig.proxy.mode = mode

    async def heals(rig: Rig) -> None:
        rig.proxy.mode = PASS

    return Outage(begins, heals)


async def kill(rig: Rig) -> None:
    rig.redis.kill()


async def start(rig: Rig) -> None:
    await asyncio.to_thread(rig.redis.start)


async def pause(rig: Rig) -> None:
    rig.redis.pause()


async def resume(rig: Rig) -> None:
    rig.redis.resume()


async def loop_in_lua(rig: Rig) -> None:
    """Keep Redis busy with a script; it answers -BUSY to others only after five seconds."""
    with suppress(TimeoutError):
        await rig.redis.command("EVAL", "while true do end", 0, timeout_s=0.05)


async def stop_lua(rig: Rig) -> None:
    # A script can be killed only once Redis listens again; before that only a signal helps.
    rig.redis.kill()
    await asyncio.to_thread(rig.redis.start)


async def require_password(rig: Rig) -> None:
    await rig.redis.command("CONFIG", "SET", "requirepass", "sesame")
    rig.redis.password = "sesame"
    await rig.redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def drop_password(rig: Rig) -> None:
    await rig.redis.command("CONFIG", "SET", "requirepass", "")
    rig.redis.password = None


OUTAGES = {
    "refused": by_mode(RESET),
    "killed": Outage(kill, start),
    "stopped": Outage(pause, resume),
    "blocked by a script": Outage(loop_in_lua, stop_lua),
    "slow": by_mode(Mode(delay_down_s=0.3)),
    "dripping": by_mode(Mode(bytes_per_s=2000.0)),
    # Short replies to invalidations come in time, those to look-ups do not.
    "dripping less slowly": by_mode(Mode(bytes_per_s=9000.0)),
    "stalled": by_mode(STALL),
    "half-open": by_mode(HALF_OPEN),
    "password required": Outage(require_password, drop_password),
}


@pytest.mark.parametrize("name", OUTAGES)
async def test_an_outage_costs_no_error_no_waiting_and_ends_within_two_seconds(rig: Rig, name: str) -> None:
    outage = OUTAGES[name]
    await rig.write()
    await until(lambda: rig.pending == 0, "the confirmation")
    await rig.hits()
    await outage.begins(rig)
    await rig.opened()
    assert rig.gauge("redis_breaker_open") == 1
    assert rig.gauge("redis_up") == 0
    assert rig.gateway.app.health()["redis"] == "down"
    failures = rig.gateway.app.metrics.redis_failures
    asked = failures["lookup", "timeout"] + failures["lookup", "connection"]
    sent = len(rig.aos.received)
    began_s = time.monotonic()
    for number in range(REQUESTS):
        if number == REQUESTS // 2:
            await rig.write()
        assert not await rig.is_hit()
    assert time.monotonic() - began_s < UNWAITED_S
    assert failures["lookup", "timeout"] + failures["lookup", "connection"] == asked
    assert len(rig.aos.received) == sent + REQUESTS + 1
    assert rig.breaker != "closed"
    await outage.heals(rig)
    await rig.recovered()
    assert rig.gauge("redis_breaker_open") == 0
    assert rig.gauge("redis_up") == 1
    assert rig.gateway.app.health()["redis"] == "up"


async def test_a_redis_blocked_by_a_long_command_is_used_again_when_it_is_over(
    aos: ScriptedAos, fault_proxy: MakeProxy
) -> None:
    with RedisServer(settings={"enable-debug-command": "yes"}) as redis:
        async with rig_on(aos, redis, await fault_proxy(redis.address)) as rig:
            with suppress(TimeoutError):
                await redis.command("DEBUG", "SLEEP", "1", timeout_s=0.01)
            await rig.opened()
            for _ in range(20):
                await rig.get()
            await until(rig.is_hit, "the end of the sleep and then a hit", 1.0 + RECOVERY_S)


async def test_a_redis_that_says_it_is_busy_is_used_again_when_its_script_is_killed(rig: Rig) -> None:
    await rig.redis.command("CONFIG", "SET", "busy-reply-threshold", "50")
    with suppress(TimeoutError):
        await rig.redis.command("EVAL", "while true do end", 0, timeout_s=0.01)
    for number in range(20):
        if number == 10:
            await rig.write()
        assert not await rig.is_hit()
    await rig.redis.command("SCRIPT", "KILL")
    await rig.recovered()


async def use_many_connections(rig: Rig) -> None:
    """Look up at different moments what Redis answers slowly: what is sent at one moment shares a connection."""
    rig.proxy.mode = Mode(delay_down_s=0.02)
    asking = []
    for number in range(60):
        asking.append(asyncio.create_task(rig.get(of_stack(number))))
        await asyncio.sleep(0.002)
    await asyncio.gather(*asking)


async def test_connections_that_lead_nowhere_cost_one_probe_and_not_one_each(rig: Rig) -> None:
    await use_many_connections(rig)
    assert rig.proxy.open_connections > 4
    # Dead from here on, without a reset.
    rig.proxy.mode = HALF_OPEN
    await rig.opened()
    rig.proxy.mode = PASS
    await rig.recovered()
    failures = rig.gateway.app.metrics.redis_failures["lookup", "timeout"]
    await use_many_connections(rig)
    assert rig.gateway.app.metrics.redis_failures["lookup", "timeout"] == failures


async def test_hits_from_memory_go_on_during_an_outage(
    aos: ScriptedAos, own_redis: RedisServer, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy(own_redis.address)
    async with rig_on(aos, own_redis, proxy, cache__memory_bytes=1 << 20) as rig:
        own_redis.pause()
        sent = len(aos.received)
        for _ in range(REQUESTS):
            assert await rig.is_hit()
        assert len(aos.received) == sent
        own_redis.resume()


async def test_a_gateway_started_without_redis_uses_it_once_it_is_there(
    aos: ScriptedAos, own_redis: RedisServer
) -> None:
    own_redis.kill()
    async with running(aos.url, redis__url=own_redis.url, cache__memory_bytes=0) as gateway:
        aos.answer(settled(0))
        for _ in range(10):
            assert (await fetch(gateway.address, TARGET, token=A)).body == settled(0).body
        assert gateway.app.health()["breaker"] != "closed"
        await asyncio.to_thread(own_redis.start)

        async def is_hit() -> bool:
            return b"; hit" in cache_status(await fetch(gateway.address, TARGET, token=A))

        await until(is_hit, "a hit", RECOVERY_S)


# Pending invalidations


@pytest.mark.parametrize("name", ["killed", "stopped", "half-open"])
async def test_invalidations_of_a_thousand_stacks_are_confirmed_within_two_seconds(
    rig: Rig, name: str
) -> None:
    await OUTAGES[name].begins(rig)
    await rig.opened()
    app = rig.gateway.app
    for number in range(MANY_STACKS):
        assert await app.purge(f"stack-{number}") is False
    assert rig.pending == MANY_STACKS
    assert rig.gauge("redis_pending_invalidations") == MANY_STACKS
    assert app.health()["pending_invalidations"] == MANY_STACKS
    await OUTAGES[name].heals(rig)
    await rig.recovered()


@pytest.mark.parametrize("name", ["refused", "stopped", "half-open"])
async def test_a_stack_invalidated_during_an_outage_stays_invalidated(rig: Rig, name: str) -> None:
    generation = [key for key in await rig.redis.keys() if b":entry" not in key]
    before = {key: await rig.redis.command("GET", key) for key in generation}
    await OUTAGES[name].begins(rig)
    await rig.opened()
    await rig.write()
    # Only here: what Redis still has is the older record under its generation.
    await OUTAGES[name].heals(rig)
    for _ in range(20):
        await rig.get()
    await rig.recovered()
    assert {key: await rig.redis.command("GET", key) for key in generation} != before


# A Redis that answers, but not as it should


async def test_a_read_only_replica_costs_no_error_and_what_it_keeps_is_not_used_after_a_write(
    rig: Rig, own_redis: RedisServer
) -> None:
    with RedisServer() as master:
        host, _, port = master.address.rpartition(":")
        # Detached from its keys' owner right away: it must keep what it has, and refuse to change it.
        await own_redis.command("REPLICAOF", host, port)

        async def is_read_only() -> bool:
            try:
                await own_redis.command("SET", "x", "y")
            except RedisReplyError as error:
                return "READONLY" in str(error)
            return False

        await until(is_read_only, "the role of a replica")
        for _ in range(10):
            await rig.get()
        await rig.write()
        for _ in range(10):
            assert not await rig.is_hit()
        assert rig.pending > 0
        assert rig.breaker != "closed"
        assert rig.gateway.app.health()["redis"] == "down"
        await own_redis.command("REPLICAOF", "NO", "ONE")
        await rig.recovered()


async def test_a_full_redis_still_reads_and_invalidates(rig: Rig) -> None:
    await rig.redis.command("CONFIG", "SET", "maxmemory", "1")
    assert await rig.is_hit()
    await rig.write()
    for _ in range(10):
        assert not await rig.is_hit()
    await until(lambda: rig.pending == 0, "the confirmation", RECOVERY_S)
    assert rig.breaker == "closed"
    await rig.redis.command("CONFIG", "SET", "maxmemory", "0")
    await rig.recovered()


async def test_a_flushed_redis_is_a_miss_and_fills_again(rig: Rig) -> None:
    await rig.redis.command("FLUSHALL")
    assert not await rig.is_hit()
    await rig.recovered()


async def test_any_single_key_may_be_evicted(rig: Rig) -> None:
    await rig.write()
    await rig.hits()
    for key in await rig.redis.keys():
        await rig.redis.command("DEL", key)
        assert not await rig.is_hit()
        await rig.hits()


@pytest.mark.parametrize("kind", ["list", "hash", "set"])
async def test_another_type_at_any_key_is_a_miss_until_it_is_gone(rig: Rig, kind: str) -> None:
    commands = {"list": ("RPUSH", "x"), "hash": ("HSET", "x", "y"), "set": ("SADD", "x")}
    verb, *values = commands[kind]
    for key in await rig.redis.keys():
        await rig.redis.command("DEL", key)
        await rig.redis.command(verb, key, *values)
        assert not await rig.is_hit()
        assert rig.breaker == "closed"
        await rig.redis.command("DEL", key)
        await rig.hits()


def _cut(value: bytes) -> bytes:
    return value[: len(value) // 2]


def _flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


def _older(value: bytes) -> bytes:
    # The version is the first member behind the mark of the array.
    return value[:1] + b"\x00" + value[2:]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"\xff" * 64, id="garbage"),
        pytest.param(lambda _: record(), id="foreign"),
        pytest.param(_cut, id="truncated"),
        pytest.param(_flipped, id="a flipped bit"),
        pytest.param(_older, id="an older version"),
        pytest.param(lambda value: value + b"\x00", id="a byte more"),
        pytest.param(lambda value: value * 200, id="two hundred times itself"),
    ],
)
async def test_a_spoilt_value_at_any_key_is_a_miss(rig: Rig, spoil: Callable[[bytes], bytes]) -> None:
    for key, value in (await rig.redis.contents()).items():
        await rig.redis.command("SET", key, spoil(value))
        assert not await rig.is_hit()
        assert rig.breaker == "closed"
        # Only a write replaces a foreign generation.
        await rig.write()
        await rig.hits()


async def test_a_value_moved_to_another_key_is_never_served(rig: Rig) -> None:
    """Each entry stands for a while at the others' keys: of another caller, of another stack."""
    owners = [(TARGET, A), (TARGET, B), (of_stack(1), A)]
    own = {}
    for number, (target, caller) in enumerate(owners, 100):
        rig.aos.on("GET", target, settled(number), times=None)
        rig.current = number
        if number == 100:
            await rig.write()
            rig.current = number
            rig.aos.on("GET", target, settled(number))
        await until(lambda t=target, c=caller: rig.is_hit(t, c), "an entry")  # type: ignore[misc]
        own[target, caller] = settled(number).body
    contents = {key: value for key, value in (await rig.redis.contents()).items() if len(value) > 16}
    assert len(contents) == len(owners)
    # Neither stored nor a reason to drop what is: nothing but this test writes to Redis now.
    fresh = Answer(500, body=b"fetched")
    rig.aos.on("GET", "/v2/stacks/", fresh)
    for moved in contents.values():
        for key in contents:
            await rig.redis.command("SET", key, moved)
        answers = [(await fetch(rig.gateway.address, target, token=of)).body for target, of in owners]
        right = [body in {own[owner], fresh.body} for owner, body in zip(owners, answers, strict=True)]
        assert all(right)
        assert answers.count(fresh.body) == len(owners) - 1
        await asyncio.gather(*(rig.redis.command("SET", key, value) for key, value in contents.items()))


# Something else where Redis was


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
        pytest.param(b"+OK\r\n" * 8, id="OK to everything"),
        pytest.param(b":1\r\n" * 8, id="1 to everything"),
        pytest.param(b"*0\r\n" * 8, id="an empty list to everything"),
        pytest.param(b"$x\r\n", id="a length that is none"),
        pytest.param(b"*1\r\n" * 20_000, id="nested without end"),
        pytest.param(b"-\xff\xfe\r\n" * 8, id="errors that do not decode"),
        pytest.param(b"$536870912\r\nx", id="half a gigabyte announced"),
        pytest.param(b"\x00\xff\x16\x03", id="noise"),
        pytest.param(b"-LOADING Redis is loading the dataset in memory\r\n" * 8, id="loading"),
        pytest.param(b"-MISCONF Errors writing to the disk\r\n" * 8, id="misconfigured"),
        pytest.param(b"-NOPERM this user has no permissions\r\n" * 8, id="without permission"),
    ],
)
async def test_a_server_with_other_replies_costs_no_error_and_is_left_when_it_is_gone(
    rig: Rig, answer: bytes
) -> None:
    async with replying(answer) as address:
        rig.proxy.target = address
        rig.proxy.mode = RESET
        rig.proxy.mode = PASS
        for number in range(20):
            if number == 10:
                await rig.write()
            assert not await rig.is_hit()
        rig.proxy.target = rig.redis.address
        rig.proxy.mode = RESET
        rig.proxy.mode = PASS
    await rig.recovered()
    await rig.subscribed()


# A failover


async def test_a_failover_that_loses_a_write_does_not_bring_its_stack_back(rig: Rig) -> None:
    for _ in range(3):
        await rig.hits()
        await rig.redis.command("SAVE")
        await rig.write()
        await until(lambda: rig.pending == 0, "the confirmation")
        # The snapshot knows nothing of the write: the older record and its generation are there again.
        await rig.redis.restart()
        for _ in range(10):
            await rig.get()
        await rig.recovered()


async def test_a_failover_to_a_server_that_missed_the_last_second_does_not_bring_a_stack_back(
    rig: Rig,
) -> None:
    with RedisServer() as other:
        for key in await rig.redis.keys():
            dump = await rig.redis.command("DUMP", key)
            assert isinstance(dump, bytes)
            await other.command("RESTORE", key, 0, dump)
        await rig.write()
        await until(lambda: rig.pending == 0, "the confirmation")
        rig.proxy.target = other.address
        rig.proxy.mode = RESET
        rig.proxy.mode = PASS
        for _ in range(20):
            await rig.get()
        await rig.recovered()


# While the breaker is open


async def test_while_the_breaker_is_open_only_probes_reach_redis(rig: Rig) -> None:
    await require_password(rig)
    await rig.opened()
    await rig.redis.command("CONFIG", "RESETSTAT")
    await asyncio.gather(*(rig.get() for _ in range(REQUESTS)))
    run = await rig.redis.commands_run()
    assert not {"mget", "set", "get", "publish"} & set(run)
    assert run.get("del", 0) == 0  # the probe's own command is refused
