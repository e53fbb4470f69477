"""No record of a running execution is older than `cache.ttl_running_s`, or from before a write."""

import asyncio
import json
import os
import re
import signal
import time

import pytest

from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient
from tests.testbed.gateway import GatewayProcess
from tests.testbed.secrets import token
from tests.testbed.workers import one_to_each, says_hit

from .test_hot_restart import Start, gone, hot_restart, start, stop

__all__ = ["start"]

pytestmark = pytest.mark.operation

_TTL_S = 0.3
_CALLERS = 8
_RUN_S = 2.0


class Ages:
    """An AOS whose records tell when they were asked for, and callers who compare.

    Attributes:
        hits: answers from a copy.
        answers: all of them.
        written_s: when AOS answered the last write whose response has come.
    """

    def __init__(self) -> None:
        self.hits = 0
        self.answers = 0
        self.written_s = 0.0

    async def answer(self, _: Received, conversation: Conversation) -> None:
        """Answer with a record that holds the time."""
        body = record("Running", status__asked=time.monotonic())
        await asyncio.sleep(0.01)
        await conversation.answer(Answer(headers=[("Content-Type", "application/json")], body=body))

    async def answer_write(self, _: Received, conversation: Conversation) -> None:
        """Answer a write with the time."""
        await conversation.answer(Answer(202, body=b"%f" % time.monotonic()))

    async def poll(self, address: str, caller: bytes, is_over: asyncio.Event) -> None:
        """Ask until `is_over`, on new connections now and then."""
        fields = [("X-Auth-Token", caller)]
        while not is_over.is_set():
            async with await RawClient.connect(address) as client:
                for _ in range(20):
                    sent_s, written_s = time.monotonic(), self.written_s
                    response = await client.request("GET", TARGET, fields)
                    asked_s = json.loads(response.body)["status"]["asked"]
                    # AOS was asked after the fetch began, and the request came after it was sent.
                    assert sent_s - asked_s <= _TTL_S
                    assert asked_s >= written_s
                    self.answers += 1
                    self.hits += says_hit(response)
                    await asyncio.sleep(0.002)
                    if response.get("Connection") == b"close":
                        break

    async def write(self, address: str, is_over: asyncio.Event) -> None:
        """Write to the stack now and then."""
        while not is_over.is_set():
            async with await RawClient.connect(address) as client:
                response = await client.request("DELETE", f"/v2/stacks/{STACK_ID}")
                self.written_s = float(response.body)
            await asyncio.sleep(0.1)


async def _two_workers(start: Start, ttl_running_s: float) -> GatewayProcess:
    os.environ["AOS_GATEWAY_CACHE__TTL_RUNNING_S"] = str(ttl_running_s)
    try:
        return await start("--workers", "2")
    finally:
        del os.environ["AOS_GATEWAY_CACHE__TTL_RUNNING_S"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("event", ["writes", "reload", "hot restart"])
async def test_no_answer_is_older_than_the_bound(aos: ScriptedAos, start: Start, event: str) -> None:
    ages, is_over = Ages(), asyncio.Event()
    aos.on("GET", "/", ages.answer)
    aos.on("DELETE", "/", ages.answer_write)
    gateway = await _two_workers(start, _TTL_S)
    pid = gateway.pid
    async with asyncio.TaskGroup() as load:
        for number in range(_CALLERS):
            load.create_task(ages.poll(gateway.address, token(f"{number % 2}"), is_over))
        if event == "writes":
            load.create_task(ages.write(gateway.address, is_over))
        for _ in range(2):
            await asyncio.sleep(_RUN_S / 2)
            if event == "reload":
                os.kill(pid, signal.SIGHUP)
            elif event == "hot restart":
                former, pid = pid, await hot_restart(gateway, pid)
                await gone(former)
        await asyncio.sleep(_RUN_S / 2)
        is_over.set()
    assert ages.answers > 100
    assert ages.hits > ages.answers / 10
    if event == "hot restart":
        await stop(pid)
    assert not re.search("Traceback|error", gateway.output())


async def test_each_worker_makes_one_call_an_interval(aos: ScriptedAos, start: Start) -> None:
    gateway = await _two_workers(start, 60)
    aos.on("GET", "/", Answer(body=record("Running")))
    async with one_to_each(gateway.address, 2, token("a")) as clients:
        for client in clients * 5:
            assert says_hit(await client.request("GET", TARGET, [("X-Auth-Token", token("a"))]))
    assert aos.count() == 2
