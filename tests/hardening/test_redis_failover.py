"""A primary that dies under load, behind Sentinels and in a Cluster: no failed request, no wrong answer."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.store.kit import key_of, until
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
CALLERS = [token("a", 300), token("b", 300)]
READERS = 6
WITHIN_S = 15.0
PAUSE_S = 0.02

Servers = SentinelGroup | RedisCluster


@dataclass
class Load:
    """Readers and a writer of many stacks, each stack through one of the gateways.

    Attributes:
        versions: of each stack's record, at AOS.
        written: the version that the last write of a stack brought whose response has come.
        faults: failed requests and wrong answers.
    """

    aos: ScriptedAos
    gateways: list[RunningGateway]
    versions: Counter[str] = field(default_factory=Counter)
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
            body = record(unknownField=[stack, self.versions[stack]])
            await conversation.answer(Answer(headers=[("Content-Type", "application/json")], body=body))

        return answer

    def gateway_of(self, number: int) -> RunningGateway:
        return self.gateways[number % len(self.gateways)]

    async def get(self, number: int, caller: bytes, gateway: RunningGateway) -> bool:
        """Request the record of a stack, and return whether it was a hit."""
        stack = f"stack-{number}"
        least = self.written[stack]
        response = await fetch(
            gateway.address, f"/v2/stacks/{stack}/actions/{ACTION_ID}", token=caller, timeout_s=10
        )
        status = response.all("cache-status")[-1].decode()
        self.responses["hit" if "; hit" in status else status.partition("fwd=")[2].split(";")[0]] += 1
        if response.status != 200:
            self.faults.append(f"{response.status} {response.body!r}")
            return False
        name, version = json.loads(response.body)["unknownField"]
        if name != stack or (version < least and gateway is self.gateway_of(number)):
            self.faults.append(f"{stack} from {least}: {name} {version} ({status})")
        return "; hit" in status

    async def read(self, reader: int) -> None:
        for number in range(reader, 1_000_000):
            await self.get(number % STACKS, CALLERS[number // STACKS % 2], self.gateway_of(number % STACKS))
            await asyncio.sleep(PAUSE_S)

    async def write(self) -> None:
        # The last stacks alone: the others are to be hit again.
        for number in range(1_000_000):
            chosen = STACKS - 1 - number % (STACKS // 3)
            gateway = self.gateway_of(chosen)
            response = await fetch(
                gateway.address, f"/v2/stacks/stack-{chosen}", method="DELETE", token=CALLERS[0], timeout_s=10
            )
            if response.status != 202:
                self.faults.append(f"write: {response.status}")
            stack = f"stack-{chosen}"
            # Nothing else writes it: this is what the write has made it.
            self.written[stack] = self.versions[stack]
            await asyncio.sleep(PAUSE_S)

    async def all_hit(self) -> bool:
        hits = [
            await self.get(number, CALLERS[0], gateway)
            for number in range(STACKS * 2 // 3)
            for gateway in self.gateways
        ]
        return all(hits)


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with SentinelGroup() if request.param == "sentinel" else RedisCluster() as group:
        yield group


def primary_of(servers: Servers, stack: str) -> RedisServer:
    if isinstance(servers, SentinelGroup):
        return servers.primary
    return servers.primary_of(key_of("p", stack=stack.encode()).generation)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_primary_that_dies_under_load_costs_no_request_no_wrong_answer_and_15_seconds_of_caching(
    aos: ScriptedAos, servers: Servers, how: str
) -> None:
    prefix = servers.prefix if isinstance(servers, RedisCluster) else servers.servers[0].prefix
    settings = {"redis__url": servers.url, "redis__prefix": prefix, "cache__memory_bytes": 0}
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
        tasks = [asyncio.create_task(load.read(reader)) for reader in range(READERS)]
        tasks.append(asyncio.create_task(load.write()))
        await asyncio.sleep(1.0)
        dying = primary_of(servers, "stack-0")
        load.responses.clear()
        getattr(dying, {"killed": "kill", "paused": "pause"}[how])()
        died_s = time.monotonic()
        await asyncio.sleep(1.5)
        await until(load.all_hit, "hits", WITHIN_S - 1.5)
        assert time.monotonic() - died_s < WITHIN_S
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert load.faults == []
        assert sum(load.responses.values()) > READERS * 20
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
