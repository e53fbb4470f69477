"""How connections to Redis begin and end."""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis.asyncio

from gateway.clock import Clock
from gateway.config.redis_url import redis_place
from gateway.store.redis_connection import check_library, connection_arguments
from gateway.store.redis_errors import StoreError
from gateway.store.subscription import Subscription
from tests.store.kit import direct_redis, entry_of, key_of, redis_settings
from tests.testbed.faultproxy import RESET, FaultProxy
from tests.testbed.gateway import GatewayProcess
from tests.testbed.leaks import no_leaks
from tests.testbed.redis_server import RedisServer

# Beyond what the kernel takes for a peer that reads nothing.
_LARGE = b'{"a": "%s"}' % (b"x" * 16_000_000)


async def test_a_redis_that_reads_nothing_keeps_no_socket(own_redis: RedisServer) -> None:
    async with no_leaks():
        direct = direct_redis(own_redis.url, own_redis.prefix, timeout_s=0.1)
        key = key_of(own_redis.prefix)
        await direct.store.lookup(key)
        own_redis.pause()
        for _ in range(3):
            with pytest.raises(StoreError):
                await direct.put(key, entry_of(_LARGE), b"g" * 16)
        await direct.store.close()
    own_redis.resume()


async def test_idle_connections_are_closed_without_harm_to_who_needs_one(own_redis: RedisServer) -> None:
    direct = direct_redis(own_redis.url, own_redis.prefix)
    key, node = key_of(own_redis.prefix), direct.node

    async def look_up_after(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await direct.store.lookup(key)

    for _ in range(10):
        await asyncio.gather(*(direct.store.mint(key) for _ in range(4)))
        await asyncio.gather(node.disconnect_idle(), *(look_up_after(turns) for turns in range(8)))
    assert direct.metrics.redis_failures == {}
    await direct.store.close()


async def test_look_ups_without_end_leave_the_only_connection_to_others_too(own_redis: RedisServer) -> None:
    direct = direct_redis(own_redis.url, own_redis.prefix, max_connections=1)
    key = key_of(own_redis.prefix)

    async def look_up_for_ever() -> None:
        while True:
            assert not (await direct.store.lookup(key)).has_failed

    callers = [asyncio.create_task(look_up_for_ever()) for _ in range(8)]
    minted = [await direct.store.mint(key) for _ in range(50)]
    assert None not in minted
    assert len(set(minted)) == 1
    assert direct.node.connections <= 1
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert direct.metrics.redis_failures == {}
    await direct.store.close()


async def test_a_new_connection_carries_nothing_but_what_was_asked(own_redis: RedisServer) -> None:
    await own_redis.command("CONFIG", "RESETSTAT")
    direct = direct_redis(own_redis.url, own_redis.prefix)
    await direct.store.lookup(key_of(own_redis.prefix))
    ran = await own_redis.commands_run()
    assert {name for name in ran if not name.startswith("config")} == {"mget"}
    await direct.store.close()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost:1/0", "_TcpConnection"),
        ("rediss://localhost:1/0", "_TlsConnection"),
        ("unix:///tmp/redis.sock", "_UnixConnection"),
    ],
)
def test_each_way_to_connect_ends_at_once(url: str, name: str) -> None:
    arguments = connection_arguments(redis_settings(url), 0.1)
    assert arguments["connection_class"].__name__ == name
    assert arguments["socket_timeout"] == arguments["socket_connect_timeout"] == 0.1


async def test_a_subscription_that_is_reset_connects_once_a_try(
    redis: RedisServer, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    proxy = await fault_proxy(redis.address)
    proxy.mode = RESET
    direct = direct_redis(f"redis://{proxy.address}/0", redis.prefix)
    subscription = Subscription(direct.store.link, b"channel", Clock(), lambda: None, lambda message: None)
    async with no_leaks():
        listening = asyncio.create_task(subscription.run())
        began_s = time.monotonic()
        await proxy.wait_until(lambda: proxy.connections >= 3, "three tries")
        # The pauses between them are 0.2 and 0.4 s.
        assert time.monotonic() - began_s > 0.5
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert not subscription.is_up


def test_the_installed_redis_py_is_as_expected() -> None:
    check_library()


@pytest.mark.parametrize(
    ("file", "name", "other"),
    [
        ("connection.py", "_available_connections", "_idle"),
        ("connection.py", "connect_check_health", "connect_once"),
        ("client.py", "_reconnect", "_connect_again"),
    ],
)
async def test_another_redis_py_prevents_the_start_with_one_line(
    tmp_path: Path, file: str, name: str, other: str
) -> None:
    installed = Path(redis.asyncio.__file__).parents[1]
    shutil.copytree(installed, tmp_path / "redis", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "redis" / "asyncio" / file
    module.write_text(re.sub(rf"\b{name}\b", other, module.read_text("utf-8")), "utf-8")
    arguments = ("--upstream", "http://127.0.0.1:9", "--redis", "redis://127.0.0.1:9")
    gateway = GatewayProcess(*arguments, environ={"PYTHONPATH": str(tmp_path)})
    try:
        assert await gateway.ended() == 2
        [line] = gateway.output().splitlines()
    finally:
        gateway.discard()
    assert name in line
    assert "install the version that requirements.lock names" in line


def test_no_password_is_shown() -> None:
    url = "redis+sentinel://user:sesame-one@host/records"
    settings = redis_settings(url, sentinel_user="user", sentinel_password="sesame-two")
    assert "sesame" not in f"{settings!r} {settings} {redis_place(url)!r} {redis_place(url)}"
