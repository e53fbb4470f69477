"""Four gateway processes, one Redis and two hundred callers who poll: what that costs AOS."""

import time
from collections import Counter

import pytest

from tests.testbed.aos import ScriptedAos
from tests.testbed.gateway import StartGateway
from tests.testbed.redis_server import RedisServer
from tests.testbed.wire import values

from .fleet import after, poll

pytestmark = [pytest.mark.operation, pytest.mark.timeout(60)]

POLLERS = 200
CALLS_PER_S = 1.2


@pytest.mark.parametrize(
    ("tokens", "fetch_s", "polls"),
    [(1, 0.05, 6), (20, 0.05, 6), (1, 2.5, 3)],
    ids=["one token", "20 tokens", "slow upstream"],
)
async def test_two_hundred_pollers_cost_little_more_than_a_call_a_second_for_each_token(
    aos: ScriptedAos, redis: RedisServer, start_gateway: StartGateway, tokens: int, fetch_s: float, polls: int
) -> None:
    aos.answer(after(fetch_s))
    settings = {"redis__url": redis.url, "redis__prefix": redis.prefix, "redis__timeout_s": 1}
    fleet = [await start_gateway(**settings, cache__ttl_running_s=1, log__access="off") for _ in range(4)]
    began_s = time.monotonic()
    responses = await poll(fleet, POLLERS, polls, pause_s=1.0, ttl_s=1.0, tokens=tokens)
    took_s = time.monotonic() - began_s
    assert len(responses) == POLLERS * polls
    asked = Counter(values(each.headers, "x-auth-token")[0] for each in aos.received)
    assert len(asked) == tokens
    assert max(asked.values()) <= CALLS_PER_S * took_s
