"""Many callers of several tenants with everything they do, one request after the other each."""

import asyncio
import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.testbed.client import RawClient, TruncatedResponse, request_bytes
from tests.testbed.response import RawResponse
from tests.testbed.wire import ConnectionCut

from .mixed_aos import RUNNING, SETTLED, STACKS, TENANTS, WRITTEN, MixedAos, token
from .mixed_turns import Turns

CALLERS_PER_TENANT = 8
# Longer than any deadline of the gateway: it answers, whatever fails.
_TIMEOUT_S = 10.0
_PAUSE_S = 0.04
_UNAVOIDABLE = {502, 503, 504}
_CUT = "cut"
_MOST_WORDS = 20


@dataclass
class Tally:
    """What the requests came to.

    Attributes:
        kinds: answers by what was asked for.
        hits: answers from the cache.
        hits_without_upstream: those while the upstream failed.
        left: requests whose caller did not wait.
        refused: 401 of the revoked tenant.
        excused: errors that a failing upstream made unavoidable, by status.
        avoidable: all other errors, in words; the first few.
        slowest_s: the slowest answer while Redis failed.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    hits_without_upstream: int = 0
    left: int = 0
    refused: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    avoidable: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def answers(self) -> int:
        """How many there were."""
        return self.kinds.total()


@dataclass
class Callers:
    """All callers; each speaks for one tenant to one replica.

    Attributes:
        addresses: of the replicas.
        aos: knows what is right.
        turns: knows what was failing.
        seed: of what they choose.
    """

    addresses: list[str]
    aos: MixedAos
    turns: Turns
    seed: int
    tally: Tally = field(default_factory=Tally)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def run(self, until: asyncio.Event) -> None:
        """Ask until stopped; each ends with the answer to his last request."""
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS_PER_TENANT * len(TENANTS)):
                tenant = TENANTS[number % len(TENANTS)]
                # Each tenant asks all replicas, so that what one stored another may serve.
                replica = number // len(TENANTS) % len(self.addresses)
                group.create_task(self._caller(tenant, replica, random.Random(self.seed + number), until))

    async def _caller(self, tenant: str, replica: int, chooser: random.Random, until: asyncio.Event) -> None:
        client: RawClient | None = None
        try:
            while not until.is_set():
                if client is None:
                    client = await RawClient.connect(self.addresses[replica])
                if not await self._ask(client, tenant, replica, chooser):
                    await client.close()
                    client = None
                # The pace of the load, not a wait for anything.
                await asyncio.sleep(chooser.random() * 2 * _PAUSE_S)
        finally:
            if client is not None:
                await client.close()

    async def _ask(self, client: RawClient, tenant: str, replica: int, chooser: random.Random) -> bool:
        """Make one request and check its response; returns whether the connection can go on."""
        fields = [("X-Auth-Token", token(tenant)), ("X-Through", str(replica))]
        method, write, action, body = "GET", "", "", None
        # Some stacks are asked for much more often than others.
        stack = STACKS[int(len(STACKS) * chooser.random() ** 2)]
        dice = chooser.random()
        if dice < 0.02:
            method, kind = chooser.choice(["PUT", "DELETE"]), "write"
            stack, write = chooser.choice(WRITTEN), f"write-{next(self._numbers)}"
            fields.append(("X-Write", write))
            body = b'{"template": "' + b"t" * 300 + b'"}' if method == "PUT" else None
            target = f"/v2/stacks/{stack}"
        elif dice < 0.1:
            kind, target = "stack", f"/v2/stacks/{stack}"
        else:
            action = RUNNING if dice < 0.2 else chooser.choice(SETTLED)
            kind, target = (
                ("running" if action == RUNNING else "settled"),
                f"/v2/stacks/{stack}/actions/{action}",
            )
        request = request_bytes(method, target, fields, body)
        if kind != "write" and chooser.random() < 0.01:
            await client.send(request)
            client.abort()
            self.tally.left += 1
            return False
        return await self._checked(client, request, kind, (stack, action, tenant, replica, write))

    async def _checked(
        self, client: RawClient, request: bytes, kind: str, about: tuple[str, str, str, int, str]
    ) -> bool:
        stack, action, tenant, replica, write = about
        redis_fails = self.turns.fails("redis")
        began_s = self.aos.now_s()
        response: RawResponse | None = None
        what = _CUT
        try:
            await client.send(request, _TIMEOUT_S)
            response = await client.read_response(timeout_s=_TIMEOUT_S)
            what = str(response.status)
        except TimeoutError:
            what = "silence"
        except (ConnectionCut, TruncatedResponse, ConnectionError):
            # What was passed on as it came, and broke off.
            pass
        if write:
            self.aos.answered(write)
        ended_s = self.aos.now_s()
        self.tally.kinds[kind] += 1
        if redis_fails:
            self.tally.slowest_s = max(self.tally.slowest_s, ended_s - began_s)
        if response is None or response.status not in {200, 202, 401}:
            may_fail = kind == "stack" if response is None else response.status in _UNAVOIDABLE
            self._error(f"{kind} {what}", began_s, ended_s, what, may_fail=may_fail and what != "silence")
            return response is not None and response.get("Connection") != b"close"
        if response.status == 401:
            self._refused(tenant)
        elif kind == "write":
            self.aos.check_write(stack, tenant, began_s)
        elif kind == "stack":
            self.aos.check_stack(response, stack, tenant, began_s)
        else:
            self.aos.check_record(response, stack, action, tenant, replica, began_s)
            if b"; hit" in response.all("Cache-Status")[-1]:
                self.tally.hits += 1
                self.tally.hits_without_upstream += self.turns.fails("upstream")
        return True

    def _refused(self, tenant: str) -> None:
        self.tally.refused += 1
        if self.aos.revoked is None or self.aos.revoked[0] != tenant:
            self.tally.avoidable.append(f"401 for {tenant}, whose token is good")

    def _error(self, words: str, began_s: float, ended_s: float, what: str, *, may_fail: bool) -> None:
        if may_fail and self.turns.excuses_errors(began_s, ended_s):
            self.tally.excused[what] += 1
        elif len(self.tally.avoidable) < _MOST_WORDS:
            met = [one.turn.name for one in self.turns.played if one.meets(began_s, ended_s)]
            self.tally.avoidable.append(f"{words} from {began_s:.2f} to {ended_s:.2f} s, meeting {met}")
