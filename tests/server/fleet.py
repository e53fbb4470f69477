"""Several gateways on one Redis, an AOS that says when it was asked, and callers who poll all of them."""

import asyncio
import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from tests.end_to_end.kit import ALICE
from tests.store.kit import until
from tests.testbed.answers import AnswerCall, Conversation, Received
from tests.testbed.aos import ACTION_ID, STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawResponse, fetch
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.wire import values

STACK = f"/v2/stacks/{STACK_ID}"
Fleet = list[RunningGateway]
# A slow upstream and a busy machine together.
_POLL_S = 15.0


@asynccontextmanager
async def fleet_of(
    count: int, aos: ScriptedAos, redis: RedisServer, **settings: object
) -> AsyncIterator[Fleet]:
    """Start gateways on one Redis."""
    settings = {
        "redis__url": redis.url,
        "redis__prefix": redis.prefix,
        "redis__timeout_s": 1.0,
        "cache__ttl_running_s": 1,
        **settings,
    }
    async with contextlib.AsyncExitStack() as stack:
        start = functools.partial(running, aos.url, clock=None, **settings)
        fleet = [await stack.enter_async_context(start()) for _ in range(count)]
        states = [each.app.tiers.redis_state for each in fleet]
        await until(lambda: all(state().is_subscribed for state in states), "the subscriptions")
        yield fleet


def target_of(stack: str, action: str = ACTION_ID) -> str:
    """Return where an execution is fetched."""
    return f"/v2/stacks/{stack}/actions/{action}"


def after(delay_s: float, phase: str = "Running") -> AnswerCall:
    """Answer after a while with a record that says when it was asked for, and by whom."""

    async def answer(received: Received, conversation: Conversation) -> None:
        asked = {
            "askedAt": time.monotonic(),
            "askedFor": received.target,
            "askedBy": values(received.headers, "x-auth-token")[0].decode(),
        }
        await asyncio.sleep(delay_s)
        name = received.target.rpartition("/")[2]
        await conversation.answer(Answer(body=record(phase, name=name, **asked)))

    return answer


def asked_s(response: RawResponse) -> float:
    """Return when AOS was asked for what a response brings, as monotonic time."""
    return float(json.loads(response.body)["askedAt"])


def leases(fleet: Fleet) -> Counter[str]:
    """Return what has become of the leases of all gateways."""
    return sum((each.app.metrics.leases for each in fleet), Counter())


def outages(fleet: Fleet) -> int:
    """Return how often one of the gateways was without Redis: each time it may fetch for itself."""
    return sum(
        sum(each.app.metrics.redis_failures.values()) + each.app.metrics.redis_subscriptions - 1
        for each in fleet
    )


class Addressed(Protocol):
    """A gateway, in this process or another."""

    @property
    def address(self) -> str: ...


async def poll(
    fleet: Sequence[Addressed],
    pollers: int,
    polls: int,
    *,
    pause_s: float,
    ttl_s: float,
    tokens: int = 1,
    targets: Sequence[str] = (TARGET,),
) -> list[RawResponse]:
    """Poll from many callers, each at one gateway after the other; each answer is his own and not too old."""
    responses: list[RawResponse] = []

    async def one(number: int) -> None:
        token, target = ALICE + b"%d" % (number % tokens), targets[number // tokens % len(targets)]
        await asyncio.sleep(pause_s * number / pollers)
        for turn in range(polls):
            arrived_s = time.monotonic()
            gateway = fleet[(number + turn) % len(fleet)]
            response = await fetch(gateway.address, target, token=token, timeout_s=_POLL_S)
            assert response.status == 200
            asked = json.loads(response.body)
            assert (asked["askedFor"], asked["askedBy"]) == (target, token.decode())
            assert arrived_s - asked["askedAt"] <= ttl_s, target
            responses.append(response)
            await asyncio.sleep(max(0.0, arrived_s + pause_s - time.monotonic()))

    await asyncio.gather(*(one(number) for number in range(pollers)))
    return responses
