"""Redis behind Sentinels: the primary is found, left when it is none any more, and found again."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator

import pytest

from gateway.store.lookup import FAILED
from tests.store.conftest import Replicas
from tests.store.kit import (
    FOLDED,
    Replica,
    direct_redis,
    entry_of,
    is_used,
    key_of,
    lines_about,
    replying,
    until,
)
from tests.testbed.faultproxy import FaultProxy
from tests.testbed.redis_sentinels import SERVICE, SentinelGroup, SentinelServer
from tests.testbed.redis_server import RedisServer
from tests.testbed.tls import Authority, tls_in_front

# Detected after 0.4 s, elected within 2 s on a busy machine, found by a probe at most 0.5 s later.
FAILOVER_S = 15.0


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup() as one:
        yield one


def watched(server: RedisServer) -> str:
    """The line of a Sentinel that watches a server."""
    host, _, port = server.address.rpartition(":")
    return f"sentinel monitor {SERVICE} {host} {port} 1"


@pytest.mark.operation
@pytest.mark.parametrize("how", ["killed", "paused", "demoted"])
async def test_after_a_failover_the_new_primary_has_look_ups_invalidations_and_the_subscription(
    group: SentinelGroup, replicas: Replicas, how: str
) -> None:
    former = group.primary
    one, other = [await replicas(group.url, former.prefix, memory_bytes=0) for _ in range(2)]
    key = one.key()
    await one.fill(key)
    await until(lambda: is_used(one) and is_used(other), "Redis to be used")
    match how:
        case "killed":
            former.kill()
        case "paused":
            former.pause()
        case _:
            group.fail_over()
    # While nobody knows the new primary: the invalidation stays pending, and goes there.
    await one.tiers.invalidate([FOLDED], "write", settles=True)
    await until(lambda: group.primary is not former, "the failover", FAILOVER_S)
    promoted = group.primary

    def uses_it(each: Replica) -> bool:
        return is_used(each) and each.state.nodes == {promoted.address: True}

    # A primary demoted by hand goes on as one for some eight seconds.
    await until(lambda: uses_it(one) and uses_it(other), "the new primary to be used", FAILOVER_S)
    await one.confirmed(FAILOVER_S)
    assert await promoted.command("EXISTS", key.generation) == 0
    detached = len(other.detached)
    assert await one.tiers.invalidate([b"after"], "write", settles=True)
    await until(lambda: b"after" in other.detached[detached:], "the message by the new primary")
    await one.fill(key)
    assert await promoted.command("EXISTS", key.name) == 1


async def test_a_sentinel_that_is_gone_costs_nothing_and_all_gone_are_named_in_one_line(
    own_redis: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as stack:
        dead, silent, last = [stack.enter_context(SentinelServer([watched(own_redis)])) for _ in range(3)]
        dead.kill()
        silent.pause()
        hosts = ",".join(one.address for one in (dead, silent, last))
        one = await replicas(f"redis+sentinel://{hosts}/{SERVICE}", own_redis.prefix)
        await one.fill(one.key())
        silent.resume()
        silent.kill()
        last.kill()
        # What is connected stays so; what has to connect anew can't.
        assert not (await one.tiers.lookup(one.key(b"b"))).has_failed

        async def is_lost() -> bool:
            await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            return any("no Sentinel names a primary: " in line for line in lines_about(caplog, "redis down"))

        await until(is_lost, "the line", FAILOVER_S)
        assert "Connect call failed" in lines_about(caplog, "redis down")[-1]
        await last.restart()
        await until(lambda: is_used(one), "Redis to be used again", FAILOVER_S)


async def test_many_connections_ask_the_sentinels_once(
    redis: RedisServer, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    with SentinelServer([watched(redis)]) as server:
        proxy = await fault_proxy(server.address)
        direct = direct_redis(f"redis+sentinel://{proxy.address}/{SERVICE}", redis.prefix)
        keys = [key_of(redis.prefix, stack=b"s%d" % number) for number in range(8)]
        invalidated = await asyncio.gather(*(direct.store.invalidate([(key.stack, b"")]) for key in keys))
        assert invalidated == [[(True, True)]] * 8
        assert direct.opened.count > 1
        assert proxy.connections == 1
        await direct.close()


async def test_a_write_that_a_former_primary_has_confirmed_is_confirmed_by_the_next_one_too(
    redis: RedisServer, own_redis: RedisServer, replicas: Replicas
) -> None:
    with SentinelServer([watched(redis)]) as sentinel:
        url = f"redis+sentinel://{sentinel.address}/{SERVICE}"
        one = await replicas(url, redis.prefix, memory_bytes=0)
        key = one.key()
        await one.fill(key)
        for name, value in (await redis.contents()).items():
            await own_redis.command("SET", name, value)
        # The other server is made the primary without this, and the former one remains writable.
        assert await one.tiers.invalidate([FOLDED], "write", settles=True)
        host, _, port = own_redis.address.rpartition(":")
        await sentinel.command("SENTINEL", "REMOVE", SERVICE)
        await sentinel.command("SENTINEL", "MONITOR", SERVICE, host, port, 1)
        one.times.move(2.0)
        others = [one.key(stack=b"s%d" % number) for number in range(8)]

        async def has_moved() -> bool:
            # All at once, so that another connection is opened.
            found, *_ = await asyncio.gather(one.found(key), *map(one.tiers.mint, others))
            assert found is None
            return await own_redis.command("EXISTS", key.generation) == 0

        await until(has_moved, "the invalidation at the other server")
        await until(lambda: is_used(one), "the other server to be used")
        assert await one.found(key) is None


async def test_a_service_that_the_sentinels_do_not_know_is_named(
    redis: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    with SentinelServer([watched(redis)]) as server:
        one = await replicas(f"redis+sentinel://{server.address}/other", redis.prefix, subscribed=False)
        await until(lambda: bool(lines_about(caplog, "redis down")), "the line")
        assert "no Sentinel names a primary: they do not know other" in lines_about(caplog, "redis down")[0]
        assert one.state.nodes == {}
        assert (await one.tiers.lookup(one.key())).has_failed


async def test_a_wrong_password_at_the_sentinels_is_logged_in_their_words_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with SentinelServer([f"sentinel monitor {SERVICE} 127.0.0.1 1 1"], password="right") as server:
        url = f"redis+sentinel://:of-the-primary@{server.address}/{SERVICE}"
        for password, words in (("sesame-open", "WRONGPASS"), ("", "NOAUTH")):
            direct = direct_redis(url, "prefix", sentinel_password=password)
            assert await direct.store.lookup(key_of("prefix")) is FAILED
            await direct.close()
            assert words in lines_about(caplog, "redis down")[-1]
    for secret in ("sesame-open", "of-the-primary"):
        assert secret not in caplog.text


async def test_sentinels_and_primary_are_reached_over_tls(
    redis: RedisServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server_tls = authority.server_context("127.0.0.1")
    async with tls_in_front(redis.address, server_tls) as port:
        # Knows where the primary speaks TLS, without speaking to it.
        with SentinelServer([f"sentinel monitor {SERVICE} 127.0.0.1 {port} 1"]) as server:
            async with tls_in_front(server.address, server_tls) as sentinel_port:
                url = f"rediss+sentinel://127.0.0.1:{sentinel_port}/{SERVICE}"
                trusting = authority.client_context()
                direct = direct_redis(url, redis.prefix, tls=trusting)
                key = key_of(redis.prefix)
                generation = await direct.store.mint(key)
                assert generation is not None
                await direct.put(key, entry_of(), generation)
                assert (await direct.lookup(key)).entry is not None
                await direct.close()
                stranger = direct_redis(url, redis.prefix, tls=ssl.create_default_context())
                assert await stranger.store.lookup(key) is FAILED
                await stranger.close()
    assert "certificate verify failed" in lines_about(caplog, "redis down")[0]


def names(server: RedisServer) -> bytes:
    """The reply of a Sentinel that takes a server for the primary."""
    parts = server.address.encode().split(b":")
    return b"*2\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("how", ["gone", "demoted"])
async def test_a_sentinel_that_is_cut_off_from_the_others_does_not_keep_redis_from_being_used(
    redis: RedisServer, replicas: Replicas, how: str
) -> None:
    host, _, port = redis.address.rpartition(":")
    with RedisServer(settings={"replicaof": f"{host} {port}"}) as former:
        if how == "gone":
            former.kill()
        async with replying(names(former)) as cut_off, replying(names(redis)) as other:
            url = f"redis+sentinel://{cut_off},{other}/{SERVICE}"
            one = await replicas(url, redis.prefix, subscribed=False)
            await until(lambda: is_used(one), "Redis to be used")


async def test_the_primary_is_the_one_that_most_sentinels_name(redis: RedisServer) -> None:
    with RedisServer() as former:
        async with (
            replying(names(former)) as cut_off,
            replying(names(redis)) as one,
            replying(names(redis)) as other,
        ):
            url = f"redis+sentinel://{cut_off},{one},{other}/{SERVICE}"
            direct = direct_redis(url, redis.prefix)
            for number in range(5):
                assert await direct.store.mint(key_of(redis.prefix, stack=b"s%d" % number)) is not None
                await direct.node.disconnect_idle()
            assert await former.keys() == []
            await direct.close()


async def test_no_connection_to_a_former_primary_is_left_once_another_is_named(
    redis: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with RedisServer() as former, SentinelServer([watched(former)]) as sentinel:
        one = await replicas(f"redis+sentinel://{sentinel.address}/{SERVICE}", redis.prefix, memory_bytes=0)
        key = one.key()
        await one.fill(key)
        await sentinel.command("SENTINEL", "REMOVE", SERVICE)
        await sentinel.command(*watched(redis).split())
        await asyncio.sleep(1.1)  # so long an answer is remembered
        # More at once than there are connections: others are opened.
        purges = (one.tiers.invalidate([b"x%d" % number], "purge", settles=False) for number in range(8))
        await asyncio.gather(*purges)

        async def is_left() -> bool:
            clients = await former.command("CLIENT", "LIST", "TYPE", "normal")
            assert isinstance(clients, bytes)
            return len(clients.splitlines()) == 1

        await until(is_left, "the connections to be closed")
        await until(lambda: is_used(one), "the other primary to be used")
        assert await one.found(key) is None
    assert lines_about(caplog, "redis sentinel") == [
        f"redis sentinel: the primary is {server.address}" for server in (former, redis)
    ]
