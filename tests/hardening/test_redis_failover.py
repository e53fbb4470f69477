"""A primary that dies under load, behind Sentinels and in a Cluster: no failed request, no wrong answer."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.app.settings import identity
from gateway.core.aos.route import stack_key
from gateway.core.caching.key import KeySpace
from tests.store.kit import until
from tests.testbed.answers import AnswerCall, Conversation
from tests.testbed.aos import ACTION_ID, Answer, Received, ScriptedAos, record
from tests.testbed.client import fetch
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_cluster import RedisCluster
from tests.testbed.redis_sentinels import SentinelGroup
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token

pytestmark = [pytest.mark.operation, pytest.mark.timeout(90)]

STACKS = 24
# Those of the first half of them are not written to.
RUNNING = 4
TTL_RUNNING_S = 1.0
CALLERS = [token("a", 300), token("b", 300)]
READERS = 6
POLLERS = 3
KEPT = [f"stack-{number}" for number in range(STACKS * 2 // 3)]
WITHIN_S = 15.0
PAUSE_S = 0.02

Servers = SentinelGroup | RedisCluster


@dataclass
class Load:
    """Readers and a writer of many stacks, each stack through one of the gateways.

    Attributes:
        versions: of each stack's record, at AOS.
        asked: how often AOS was asked for it.
        written: the version that the last write of a stack brought whose response has come.
        faults: failed requests and wrong answers.
    """

    aos: ScriptedAos
    gateways: list[RunningGateway]
    versions: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    responses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def script(self) -> None:
        """Have AOS answer with the record that a stack has now; each write makes it another one."""
        self.aos.on("GET", "/v2/stacks/", self._answer_of(is_write=False))
        self.aos.on("DELETE", "/v2/stacks/", self._answer_of(is_write=True))

    def _answer_of(self, *, is_write: bool) -> AnswerCall:
        async def answer(received: Received, conversation: Conversation) -> None:
            stack = received.target.split("/")[3]
            self.versions[stack] += is_write
            if is_write:
                await conversation.answer(Answer(202))
                return
            self.asked[stack] += 1
            phase = "Running" if stack.startswith("running") else "Succeeded"
            body = record(phase, unknownField=[stack, self.versions[stack], time.monotonic()])
            await conversation.answer(Answer(headers=[("Content-Type", "application/json")], body=body))

        return answer

    def gateway_of(self, stack: str) -> RunningGateway:
        """Return through which one a stack is written."""
        return self.gateways[int(stack.partition("-")[2]) % len(self.gateways)]

    async def get(self, stack: str, caller: bytes, gateway: RunningGateway) -> bool:
        """Request the record of a stack, and return whether it was a hit."""
        least, arrived_s = self.written[stack], time.monotonic()
        response = await fetch(
            gateway.address, f"/v2/stacks/{stack}/actions/{ACTION_ID}", token=caller, timeout_s=10
        )
        status = response.all("cache-status")[-1].decode()
        self.responses["hit" if "; hit" in status else status.partition("fwd=")[2].split(";")[0]] += 1
        if response.status != 200:
            self.faults.append(f"{response.status} {response.body!r}")
            return False
        name, version, asked_s = json.loads(response.body)["unknownField"]
        if name != stack or (version < least and gateway is self.gateway_of(stack)):
            self.faults.append(f"{stack} from {least}: {name} {version} ({status})")
        if stack.startswith("running") and arrived_s - asked_s > TTL_RUNNING_S:
            self.faults.append(f"{stack}: {arrived_s - asked_s:.2f} s old ({status})")
        return "; hit" in status

    async def read(self, reader: int) -> None:
        for number in range(reader, 1_000_000):
            stack = f"stack-{number % STACKS}"
            await self.get(stack, CALLERS[number // STACKS % 2], self.gateway_of(stack))
            await asyncio.sleep(PAUSE_S)

    async def poll(self, reader: int) -> None:
        for number in range(reader, 1_000_000):
            gateway = self.gateways[number // RUNNING % len(self.gateways)]
            await self.get(f"running-{number % RUNNING}", CALLERS[0], gateway)
            await asyncio.sleep(PAUSE_S)

    async def write(self) -> None:
        # The last stacks alone: the others are to be hit again.
        for number in range(1_000_000):
            stack = f"stack-{STACKS - 1 - number % (STACKS // 3)}"
            if number % 10 == 0:
                stack = f"running-{RUNNING - 1 - number // 10 % (RUNNING // 2)}"
            response = await fetch(
                self.gateway_of(stack).address,
                f"/v2/stacks/{stack}",
                method="DELETE",
                token=CALLERS[0],
                timeout_s=10,
            )
            if response.status != 202:
                self.faults.append(f"write: {response.status}")
            # Nothing else writes it: this is what the write has made it.
            self.written[stack] = self.versions[stack]
            await asyncio.sleep(PAUSE_S)

    def start(self) -> list[asyncio.Task[None]]:
        work = [*(self.read(one) for one in range(READERS)), *(self.poll(one) for one in range(POLLERS))]
        return [asyncio.create_task(one) for one in (*work, self.write())]

    async def stop(self, tasks: list[asyncio.Task[None]]) -> None:
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self.faults == []

    async def all_hit(self, stacks: Sequence[str] = KEPT) -> bool:
        hits = [await self.get(stack, CALLERS[0], each) for stack in stacks for each in self.gateways]
        return all(hits)

    async def has_leases(self) -> bool:
        """Whether polls cost no more than a call in an interval, of both gateways together."""
        began_s, asked = time.monotonic(), self.asked.copy()
        await asyncio.sleep(3 * TTL_RUNNING_S)
        most = (time.monotonic() - began_s) / TTL_RUNNING_S + 1
        unwritten = [f"running-{number}" for number in range(RUNNING // 2)]
        return all(0 < self.asked[stack] - asked[stack] <= most for stack in unwritten)


@asynccontextmanager
async def loaded(aos: ScriptedAos, servers: Servers, **settings: object) -> AsyncIterator[Load]:
    """Two gateways that have the records that are not written to."""
    prefix = servers.prefix if isinstance(servers, RedisCluster) else servers.servers[0].prefix
    settings |= {"redis__url": servers.url, "redis__prefix": prefix}
    # No copy fits into memory: every answer is from Redis or from AOS.
    settings |= {"cache__memory_bytes": 1, "cache__ttl_running_s": TTL_RUNNING_S}
    # mypy takes each of them for a clock.
    async with (
        running(aos.url, clock=None, **settings) as one,
        running(aos.url, clock=None, **settings) as other,
    ):
        load = Load(aos, [one, other])
        load.script()
        for gateway in load.gateways:
            await until(lambda gateway=gateway: gateway.app.tiers.redis_state().is_subscribed, "Redis")  # type: ignore[misc]
        await until(load.all_hit, "hits", WITHIN_S)
        yield load


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with SentinelGroup() if request.param == "sentinel" else RedisCluster() as group:
        yield group


def primary_of(servers: Servers, load: Load, stack: str) -> RedisServer:
    if isinstance(servers, SentinelGroup):
        return servers.primary
    keys = KeySpace("p", identity(load.gateways[0].app.config))
    return servers.primary_of(keys.generation(stack_key(stack.encode())))


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_primary_that_dies_under_load_costs_no_request_no_wrong_answer_and_15_seconds_of_caching(
    aos: ScriptedAos, servers: Servers, how: str
) -> None:
    async with loaded(aos, servers) as load:
        tasks = load.start()
        await asyncio.sleep(1.0)
        dying = primary_of(servers, load, "stack-0")
        load.responses.clear()
        getattr(dying, {"killed": "kill", "paused": "pause"}[how])()
        died_s = time.monotonic()
        await asyncio.sleep(1.5)
        await until(load.all_hit, "hits", WITHIN_S - 1.5)
        assert time.monotonic() - died_s < WITHIN_S
        await until(load.has_leases, "leases", WITHIN_S)
        await load.stop(tasks)
        assert load.responses.total() > READERS * 20
        for gateway in load.gateways:
            tiers = gateway.app.tiers
            await until(lambda tiers=tiers: tiers.redis_state().pending_invalidations == 0, "all to be told")  # type: ignore[misc]
        # All is told: whatever the other gateway has, it is what AOS has now.
        for number in range(STACKS):
            for gateway in load.gateways:
                response = await fetch(
                    gateway.address, f"/v2/stacks/stack-{number}/actions/{ACTION_ID}", token=CALLERS[1]
                )
                version = json.loads(response.body)["unknownField"][1]
                assert version == load.versions[f"stack-{number}"]


async def test_while_a_shard_is_gone_the_stacks_of_the_others_are_hits(aos: ScriptedAos) -> None:
    with RedisCluster(replicas=False) as servers:
        # A busy machine may be slow; what is gone refuses at once.
        async with loaded(aos, servers, redis__timeout_s=1.0) as load:
            dying = primary_of(servers, load, "stack-0")
            others = [stack for stack in KEPT if primary_of(servers, load, stack) is not dying]
            assert 0 < len(others) < len(KEPT)
            tasks = load.start()
            dying.kill()
            died_s = time.monotonic()
            rounds = 0
            while time.monotonic() - died_s < 5.0:
                assert await load.all_hit(others)
                rounds += 1
            assert rounds > 10
            await load.stop(tasks)
