"""The leak check."""

import asyncio
import socket

import pytest

from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient, fetch
from tests.testbed.faultproxy import FaultProxy
from tests.testbed.leaks import no_leaks
from tests.testbed.redis_server import RedisServer


async def test_the_kit_itself_leaks_nothing() -> None:
    async with no_leaks():
        async with ScriptedAos() as aos, FaultProxy(aos.address) as proxy:
            aos.answer(Answer())
            await fetch(proxy.address, "/")
            client = await RawClient.connect(proxy.address)
            await aos.wait_until(lambda: aos.connections == 2, "the second connection")
        await client.close()
        with RedisServer() as server:
            await server.command("PING")


async def test_a_task_left_behind_is_named() -> None:
    with pytest.raises(AssertionError, match="task forgotten"):
        async with no_leaks(rounds=2, pause_s=0):
            task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
    task.cancel()


async def test_a_descriptor_left_behind_is_named() -> None:
    with pytest.raises(AssertionError, match=r"descriptor \d+: .*socket"):
        async with no_leaks(rounds=2, pause_s=0):
            left = socket.socket()
    left.close()


async def test_a_task_that_is_about_to_end_is_no_leak() -> None:
    async with no_leaks():
        task = asyncio.create_task(asyncio.sleep(0.02))
    assert task.done()


async def test_an_error_in_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        async with no_leaks():
            raise ZeroDivisionError
