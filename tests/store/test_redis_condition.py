"""A Redis that is the wrong server, or refuses commands: what is done, and what is logged."""

from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from gateway.store.breaker import BreakerState
from gateway.store.lookup import FAILED
from gateway.store.redis_errors import StoreError, error_text
from tests.store.conftest import Replicas
from tests.store.kit import (
    FOLDED,
    direct_redis,
    documented_rights,
    is_left,
    is_used,
    key_of,
    lines_about,
    replying,
    until,
)
from tests.testbed.faultproxy import PASS, RESET, STALL, FaultProxy
from tests.testbed.redis_sentinels import SentinelServer
from tests.testbed.redis_server import RedisServer

Proxies = Callable[[str], Awaitable[FaultProxy]]


# The wrong server


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-MOVED 1234 127.0.0.1:1\r\n", "redis+cluster://"),
        (b"-ASK 1234 127.0.0.1:1\r\n", "redis+cluster://"),
        (b"-CROSSSLOT Keys in request don't hash to the same slot\r\n", "redis+cluster://"),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "redis+cluster://"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "redis+cluster://"),
        (b"-READONLY You can't write against a read only replica.\r\n", "a replica; READONLY You can't"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN Link with MASTER"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING Redis is loading"),
        (b"-NOREPLICAS Not enough good replicas to write.\r\n", "NOREPLICAS Not enough good"),
        (b"-ERR unknown command 'DEL', with args beginning with: 'x'\r\n", "redis+sentinel://"),
    ],
    ids=lambda value: value[1:].split()[0].decode() if isinstance(value, bytes) else "",
)
async def test_one_answer_of_the_wrong_server_is_enough_to_leave_it(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, answer: bytes, words: str
) -> None:
    async with replying(answer * 8) as address:
        direct = direct_redis(f"redis://{address}/0", own_redis.prefix)
        assert await direct.lookup(key_of(own_redis.prefix)) is FAILED
        assert not direct.node.condition.breaker.is_closed
        assert not direct.node.condition.is_up
        with pytest.raises(StoreError, match="open"):
            await direct.drop(key_of(own_redis.prefix))
        await direct.store.close()
    [line] = lines_about(caplog, "redis down")
    assert words in line


@pytest.mark.parametrize("asked_first", ["look-ups alone", "a write"])
async def test_a_demoted_redis_is_left_while_its_connections_stay_open(
    replicas: Replicas, own_redis: RedisServer, fault_proxy: Proxies, asked_first: str
) -> None:
    proxy = await fault_proxy(own_redis.address)
    one = await replicas(f"redis://{proxy.address}/0", own_redis.prefix, memory_bytes=0)
    key = one.key()
    await one.fill(key)
    with RedisServer() as promoted:
        host, _, port = promoted.address.rpartition(":")
        await own_redis.command("REPLICAOF", host, port)
        if asked_first == "a write":
            assert not await one.tiers.invalidate([FOLDED], "write", settles=True)
        await until(lambda: is_left(one), "the demoted server to be left")
        # From here on the address leads to the new master; what was opened before still leads to the old one.
        proxy.target = promoted.address
        await until(lambda: is_used(one), "the new master to be used")
        await one.confirmed()
        other = await replicas(promoted.url, own_redis.prefix)
        await other.tiers.invalidate([b"after"], "write", settles=True)
        await until(lambda: b"after" in one.detached, "the message of the new master")
        await one.fill(key)
        assert await promoted.command("EXISTS", key.name) == 1


async def test_a_redis_that_returns_from_an_outage_as_a_replica_is_left_with_its_subscription(
    replicas: Replicas, own_redis: RedisServer, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(own_redis.address)
    one = await replicas(f"redis://{proxy.address}/0", own_redis.prefix)
    with RedisServer(settings={"replicaof": own_redis.address.replace(":", " ")}) as replica:
        proxy.mode = RESET
        await until(lambda: is_left(one), "the outage to be noticed")
        proxy.target = replica.address
        proxy.mode = PASS
        redis = one.tiers.redis
        assert redis is not None
        await until(lambda: redis._store.link.nodes[0].condition.refuses, "the replica's error")
        assert is_left(one)
        proxy.target = own_redis.address
        await until(lambda: is_used(one), "the master to be used")
        assert await one.tiers.invalidate([FOLDED], "write", settles=True)


async def test_a_node_of_a_cluster_is_logged_at_the_start_and_when_it_appears_later(
    replicas: Replicas, own_redis: RedisServer, fault_proxy: Proxies, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = await fault_proxy(own_redis.address)
    late = await replicas(f"redis://{proxy.address}/0", own_redis.prefix)
    with RedisServer(settings={"cluster-enabled": "yes"}) as node:
        await node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        one = await replicas(node.url, own_redis.prefix, subscribed=False)
        await until(lambda: is_left(one), "the node to be left")
        [line] = lines_about(caplog, "redis down")
        assert "a node of a Redis Cluster: write redis+cluster://host,host in redis.url; CROSSSLOT" in line
        assert (await one.tiers.lookup(one.key())).has_failed
        proxy.target = node.address
        await own_redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: is_left(late), "the node to be left")
        assert len([line for line in caplog.messages if "a node of a Redis Cluster" in line]) == 2
        proxy.target = own_redis.address
        await until(lambda: is_used(late), "the former server to be used")
    assert lines_about(caplog, "redis up again after")


async def test_a_sentinel_is_logged(replicas: Replicas, caplog: pytest.LogCaptureFixture) -> None:
    with SentinelServer() as server:
        one = await replicas(server.url, server.prefix, subscribed=False)
        expected = "a Sentinel: write redis+sentinel://host,host,host/SERVICE in redis.url; ERR unknown"
        await until(lambda: any(expected in message for message in caplog.messages), "the line")
        await until(lambda: is_left(one), "the Sentinel to be left")


# Log lines


async def test_an_outage_has_one_line_when_it_begins_and_one_when_it_is_over(
    replicas: Replicas, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replicas(own_redis.url, own_redis.prefix)
    await until(lambda: is_used(one), "the first answer")
    own_redis.kill()
    await until(lambda: is_left(one), "the end to be noticed")
    await own_redis.restart()
    await until(lambda: is_used(one), "Redis to be used again")
    down, up = lines_about(caplog, "redis down"), lines_about(caplog, "redis up again after")
    assert len(up) == 1
    assert "Connect call failed" in down[-1]
    assert len(down) <= 2  # closed by the server, then refused


@pytest.mark.parametrize(
    ("trouble", "about", "words"),
    [
        (("CONFIG", "SET", "requirepass", "another"), "redis down", "WRONGPASS"),
        (("ACL", "SETUSER", "default", "-mget"), "redis lookup down", "'mget' command"),
        (("ACL", "SETUSER", "default", "-set"), "redis mint down", "'set' command"),
        (("ACL", "SETUSER", "default", "-del"), "redis ping down", "'del' command"),
        (("ACL", "SETUSER", "default", "resetchannels"), "redis subscription down", "NOPERM"),
        (("CONFIG", "SET", "maxmemory", "1"), "redis mint down", "OOM command not allowed"),
    ],
    ids=["password", "mget", "set", "del", "channel", "full"],
)
async def test_a_refused_command_is_logged_with_the_error_of_redis_and_without_the_password(
    replicas: Replicas, caplog: pytest.LogCaptureFixture, trouble: tuple[str, ...], about: str, words: str
) -> None:
    with RedisServer(password="sesame-open") as server:
        one = await replicas(server.url, server.prefix)
        await until(lambda: is_used(one), "the first answer")
        await server.command(*trouble)
        if trouble[-1] == "another":
            server.password = "another"
        for kind in ("normal", "pubsub"):
            await server.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        async def is_logged() -> bool:
            await one.begin_fill(one.key(stack=b"unknown"))
            return any(words in line for line in lines_about(caplog, about))

        await until(is_logged, "the line")
        assert len(lines_about(caplog, about)) <= 2  # the connection's end may come before it
        assert "sesame-open" not in caplog.text


def test_the_error_text_names_the_class_and_masks_the_password() -> None:
    assert error_text(ValueError("no sesame here"), "sesame") == "no *** here (ValueError)"


@pytest.mark.parametrize(
    ("password", "echoed"),
    [("sesame", "'sesame' "), ("sesame" * 40, f"'{('sesame' * 40)[:128]}' "), ("se\r\nsame", "'se  same' ")],
    ids=["short", "longer than what is repeated", "line ends"],
)
def test_the_error_text_has_none_of_the_arguments_that_a_server_repeats(password: str, echoed: str) -> None:
    text = f"unknown command 'AUTH', with args beginning with: {echoed}"
    assert error_text(ResponseError(text), password) == "unknown command 'AUTH' (ResponseError)"
    assert error_text(TimeoutError()) == "TimeoutError"


# The rights that it has to give


@pytest.mark.parametrize("kind", ["single", "sentinel"])
async def test_exactly_the_documented_rights_are_enough(
    replicas: Replicas, own_redis: RedisServer, fault_proxy: Proxies, kind: str
) -> None:
    at_server, at_sentinel = documented_rights(own_redis.prefix)
    await own_redis.command("ACL", "SETUSER", "aos-gateway", *at_server)
    await own_redis.command("CONFIG", "SET", "acllog-max-len", "100")
    proxy = await fault_proxy(own_redis.address)
    if kind == "single":
        url = f"redis://aos-gateway:secret@{proxy.address}/1"
        await use_all(replicas, own_redis, proxy, url, {})
        return
    host, _, port = proxy.address.rpartition(":")
    with SentinelServer([f"sentinel monitor main {host} {port} 1"]) as server:
        await server.command("ACL", "SETUSER", "aos-gateway", *at_sentinel)
        url = f"redis+sentinel://aos-gateway:secret@{server.address}/main/1"
        settings = {"sentinel_user": "aos-gateway", "sentinel_password": "secret"}
        await use_all(replicas, own_redis, proxy, url, settings)
        assert await server.command("ACL", "LOG") == []


async def use_all(
    replicas: Replicas, own_redis: RedisServer, proxy: FaultProxy, url: str, settings: dict[str, str]
) -> None:
    """Do with Redis all that a gateway does, without being refused anything."""
    one, other = [await replicas(url, own_redis.prefix, timeout_s=0.2, more=settings) for _ in range(2)]
    key = one.key()
    await one.fill(key)
    one.drop(key)
    await one.in_redis(key, None)
    assert await one.tiers.invalidate([FOLDED], "write", settles=True)
    await until(lambda: FOLDED in other.detached, "the message")
    proxy.mode = STALL
    while one.state.breaker is BreakerState.CLOSED:
        await one.tiers.lookup(one.key(b"b"))
    proxy.mode = PASS
    await until(lambda: is_used(one), "a probe to succeed")
    await one.fill(one.key(b"c"))
    for replica in (one, other):
        await replica.tiers.close(1.0)
    assert await own_redis.command("ACL", "LOG") == []
