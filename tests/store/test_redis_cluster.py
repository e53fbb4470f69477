"""A Redis Cluster: each key at its node, each node with its own state, invalidations in order."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from gateway.config.redis_url import redis_place
from gateway.core.caching.key import EntryKey
from gateway.store.breaker import BreakerState
from gateway.store.lookup import FAILED
from gateway.store.redis_cluster import ClusterLink, read_slots
from tests.store.conftest import Replicas
from tests.store.kit import (
    FOLDED,
    DirectRedis,
    Replica,
    as_stored,
    direct_redis,
    documented_rights,
    entry_of,
    is_used,
    key_of,
    lines_about,
    redis_settings,
    replying,
    until,
)
from tests.testbed.redis_binary import find_valkey_server
from tests.testbed.redis_cluster import RedisCluster
from tests.testbed.redis_server import RedisServer
from tests.testbed.tls import Authority, tls_in_front

FAILOVER_S = 15.0
STACKS = 60


@pytest.fixture
def own_cluster() -> Iterator[RedisCluster]:
    """A Cluster of this test alone, without replicas."""
    with RedisCluster(replicas=False) as one:
        yield one


@pytest.fixture
def failing_over() -> Iterator[RedisCluster]:
    """A Cluster of this test alone, with replicas."""
    with RedisCluster() as one:
        yield one


def keys_of(prefix: str) -> list[EntryKey]:
    return [key_of(prefix, stack=b"stack-%d" % number) for number in range(STACKS)]


async def ready(direct: DirectRedis, nodes: int = 3) -> Callable[[], Awaitable[None]]:
    """Have the slots read; returns what ends that."""
    running = asyncio.create_task(direct.store.link.run())
    await until(lambda: len(direct.store.link.nodes) == nodes, "the slots")

    async def end() -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await direct.close()

    return end


async def calls(cluster: RedisCluster, *names: str) -> list[Counter[str]]:
    """How often each node ran some commands."""
    return [
        Counter({name: count for name, count in (await node.commands_run()).items() if name in names})
        for node in cluster.nodes
    ]


async def use(one: Replica, stacks: int = STACKS) -> list[EntryKey]:
    """Store a record of each of many stacks, which are at all nodes."""
    keys = [one.key(stack=b"stack-%d" % number) for number in range(stacks)]
    await asyncio.gather(*map(one.fill, keys))
    return keys


async def test_look_ups_of_one_turn_are_one_round_trip_to_each_node(cluster: RedisCluster) -> None:
    direct = direct_redis(cluster.url, cluster.prefix)
    end = await ready(direct)
    keys = keys_of(cluster.prefix)
    entries = {}
    for number, key in enumerate(keys[::2]):
        generation = await direct.store.mint(key)
        assert generation is not None
        entries[key.name] = entry_of(b"%d" % number)
        await direct.put(key, entries[key.name], generation)
    before = await calls(cluster, "mget")
    sent = sum(direct.metrics.redis_s["lookup",].counts)
    found = await asyncio.gather(*map(direct.lookup, keys))
    assert [as_stored(one.entry) for one in found] == [entries.get(key.name) for key in keys]
    assert not any(one.has_failed for one in found)
    after = await calls(cluster, "mget")
    asked = [(now - then)["mget"] for now, then in zip(after, before, strict=True)]
    # One MGET for two keys each, in one round trip a node.
    assert sum(asked) == STACKS
    assert all(asked)
    assert sum(direct.metrics.redis_s["lookup",].counts) - sent == len(cluster.nodes)
    await end()


async def test_an_invalidation_is_deleted_and_then_published_by_one_node(cluster: RedisCluster) -> None:
    direct = direct_redis(cluster.url, cluster.prefix)
    end = await ready(direct)
    key = key_of(cluster.prefix)
    await direct.store.mint(key)
    before = await calls(cluster, "del", "publish")
    assert await direct.store.invalidate([(key.stack, b"message")]) == [(True, True)]
    after = await calls(cluster, "del", "publish")
    home = cluster.nodes.index(cluster.primary_of(key.generation))
    for number, (now, then) in enumerate(zip(after, before, strict=True)):
        assert (now - then)["publish"] == (number == home)
    assert (await direct.lookup(key)).generation is None
    await end()


async def test_invalidations_of_many_stacks_reach_all_nodes_and_all_replicas(
    cluster: RedisCluster, replicas: Replicas
) -> None:
    one, other = [await replicas(cluster.url, cluster.prefix, memory_bytes=0) for _ in range(2)]
    keys = await use(one)
    assert [await other.found(key) for key in keys] == [b'{"a": 1}'] * STACKS
    assert await one.tiers.invalidate([key.stack for key in keys], "write", settles=True)
    assert [await other.found(key) for key in keys] == [None] * STACKS
    await until(lambda: {key.stack for key in keys} <= set(other.detached), "the messages")
    assert one.pending == 0


async def test_valkey_as_a_cluster_is_used_in_the_same_way(replicas: Replicas) -> None:
    with RedisCluster(replicas=False, binary=find_valkey_server()) as cluster:
        one, other = [await replicas(cluster.url, cluster.prefix, memory_bytes=0) for _ in range(2)]
        keys = await use(one, 12)
        assert await one.tiers.invalidate([key.stack for key in keys], "write", settles=True)
        await until(lambda: {key.stack for key in keys} <= set(other.detached), "the messages")


async def test_a_node_that_is_gone_stops_none_of_the_others(
    own_cluster: RedisCluster, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replicas(own_cluster.url, own_cluster.prefix, memory_bytes=0)
    keys = await use(one)
    dead = own_cluster.nodes[1]
    lost = [key for key in keys if own_cluster.primary_of(key.generation) is dead]
    kept = [key for key in keys if key not in lost]
    assert lost
    assert kept
    dead.kill()
    for key in lost:
        await one.tiers.lookup(key)
    await until(lambda: one.state.breaker is not BreakerState.CLOSED, "the breaker of the dead node")
    states = {node.address: node is not dead for node in own_cluster.nodes}
    await until(lambda: one.state.nodes == states, "the others to be up")
    # What is read while another node is subscribed at does not count.
    await until(lambda: one.state.is_subscribed, "a subscription at another node")
    redis = one.tiers.redis
    assert redis is not None
    link = redis._store.link
    gone, home = link.node_of(lost[0]), link.node_of(kept[0])
    assert home is not None
    # More than go in one round trip: those of the dead node are first, and hold up no other.
    many = (one.key(stack=b"lost-%d" % number) for number in itertools.count())
    lost += itertools.islice((key for key in many if link.node_of(key) is gone), 300)
    await one.tiers.invalidate([key.stack for key in lost], "write", settles=True)
    for _ in range(3):
        assert [await one.found(key) for key in kept] == [b'{"a": 1}'] * len(kept)
    assert await one.tiers.invalidate([kept[0].stack], "write", settles=True)
    redis._connection_opened(home.mark)
    assert one.pending > len(lost)
    await until(lambda: one.pending == len(lost), "the repeat to the others")
    await until(lambda: bool(lines_about(caplog, f"redis {dead.address} down")), "the line")
    assert not lines_about(caplog, f"redis {own_cluster.nodes[0].address} down")


async def test_a_new_connection_to_one_node_makes_only_its_own_invalidations_pending(
    cluster: RedisCluster, replicas: Replicas
) -> None:
    one = await replicas(cluster.url, cluster.prefix, memory_bytes=0)
    keys = await use(one)
    assert await one.tiers.invalidate([key.stack for key in keys], "write", settles=True)
    await one.confirmed()
    redis = one.tiers.redis
    assert redis is not None
    [node] = [
        node
        for node in redis._store.link.nodes
        if node.settings.url.endswith(f"{cluster.nodes[2].address}/0")
    ]
    redis._connection_opened(node.mark)
    own = [key for key in keys if cluster.primary_of(key.generation) is cluster.nodes[2]]
    assert own
    home = redis._store.link.node_of(own[0])
    assert home is not None
    redis._connection_opened(home.mark)
    assert one.pending == len(own)
    assert {key.stack for key in keys if one.invalidations.is_pending(key.stack)} == {
        key.stack for key in own
    }
    await one.confirmed()


async def test_a_slot_that_moves_is_followed_and_its_invalidations_are_sent_again(
    own_cluster: RedisCluster, replicas: Replicas
) -> None:
    one, other = [await replicas(own_cluster.url, own_cluster.prefix, memory_bytes=0) for _ in range(2)]
    key = one.key()
    await one.fill(key)
    source = own_cluster.primary_of(key.generation)
    target = next(node for node in own_cluster.nodes if node is not source)
    await move(own_cluster, key, source, target)
    # Redirected: neither the DEL nor the PUBLISH counts.
    await one.tiers.invalidate([FOLDED], "write", settles=True)
    await one.confirmed(FAILOVER_S)
    assert await target.command("EXISTS", key.generation) == 0
    await until(lambda: other.detached.count(FOLDED) > 1, "the message of the node that has deleted it")
    await one.fill(key)
    assert await target.command("EXISTS", key.name) == 1
    assert one.state.breaker is BreakerState.CLOSED
    assert one.state.breaker_openings == 0


async def test_a_slot_that_has_moved_fails_no_other_command_of_the_same_turn(
    own_cluster: RedisCluster,
) -> None:
    direct = direct_redis(own_cluster.url, own_cluster.prefix)
    end = await ready(direct)
    home = own_cluster.nodes[0]
    here = [key for key in keys_of(own_cluster.prefix) if own_cluster.primary_of(key.generation) is home]
    await move(own_cluster, here[0], home, own_cluster.nodes[1])
    generations = await asyncio.gather(*map(direct.store.mint, here))
    assert generations[0] is None
    assert None not in generations[1:]
    await end()


async def move(cluster: RedisCluster, key: EntryKey, source: RedisServer, target: RedisServer) -> None:
    """Give the slot of a stack, with its keys, to another node."""
    slot = await source.command("CLUSTER", "KEYSLOT", key.generation)
    assert isinstance(slot, int)
    names = {node: str(await node.command("CLUSTER", "MYID"), "ascii") for node in cluster.nodes}  # type: ignore[arg-type]
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
    host, _, port = target.address.rpartition(":")
    for name in (key.name, key.generation):
        await source.command("MIGRATE", host, port, name, 0, 1000)
    for node in (target, source):
        await node.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])


async def test_the_nodes_are_reached_over_tls(authority: Authority) -> None:
    with RedisServer(settings={"cluster-enabled": "yes"}) as node:
        await node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with tls_in_front(node.address, authority.server_context("127.0.0.1")) as port:
            await node.command("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
            await node.command("CONFIG", "SET", "cluster-announce-port", port)

            async def is_ok() -> bool:
                info = await node.command("CLUSTER", "INFO")
                return isinstance(info, bytes) and b"cluster_state:ok" in info

            await until(is_ok, "the slots to be served")
            url = f"rediss+cluster://127.0.0.1:{port}"
            direct = direct_redis(url, node.prefix, tls=authority.client_context())
            end = await ready(direct, 1)
            key = key_of(node.prefix)
            generation = await direct.store.mint(key)
            assert generation is not None
            await direct.put(key, entry_of(), generation)
            assert (await direct.lookup(key)).entry is not None
            await end()


def slots_reply(*ranges: tuple[int, int, bytes, int]) -> bytes:
    """The reply to ``CLUSTER SLOTS``."""
    return b"*%d\r\n" % len(ranges) + b"".join(
        b"*3\r\n:%d\r\n:%d\r\n*2\r\n%s:%d\r\n"
        % (first, last, b"$-1\r\n" if host == b"nil" else b"$%d\r\n%s\r\n" % (len(host), host), port)
        for first, last, host, port in ranges
    )


@pytest.mark.parametrize(
    ("reply", "hosts"),
    [
        (slots_reply((0, 16383, b"a", 1), (0, 16383, b"b", 2)), ["b:2"]),
        (slots_reply((0, 1, b"nil", 1), (2, 16383, b"::1", 2)), ["127.0.0.1:1", "[::1]:2"]),
        (slots_reply((0, 1, b"", 1), (2, 3, b"?", 2)), ["127.0.0.1:1", "127.0.0.1:2"]),
        (slots_reply((0, 16384, b"a", 1)), None),
        (slots_reply((2, 1, b"a", 1)), None),
        # Its address is not known: a node that was reset, or is gone.
        (slots_reply((0, 1, b"", 0), (2, 3, b"b", 2)), ["b:2"]),
        (slots_reply((0, 1, b"a", 65536)), None),
        (slots_reply((0, 1, b"a/b@", 1)), None),
        (slots_reply((0, 1, b"\xff", 1)), None),
        (b"*1\r\n:1\r\n", None),
        (b"+OK\r\n", None),
        (b"$-1\r\n", None),
    ],
)
async def test_whatever_a_node_says_of_the_slots_names_servers_or_is_logged(
    caplog: pytest.LogCaptureFixture, reply: bytes, hosts: list[str] | None
) -> None:
    async with replying(reply) as address:
        direct = direct_redis(f"redis+cluster://{address}", "prefix", timeout_s=0.2)
        running = asyncio.create_task(direct.store.link.run())
        if hosts is None:
            await until(lambda: bool(lines_about(caplog, "redis cluster down: no node tells")), "the line")
        await until(lambda: len(direct.store.link.nodes) == len(hosts or ()), "the slots")
        assert [node.settings.url for node in direct.store.link.nodes] == [
            f"redis://{host}/0" for host in hosts or ()
        ]
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await direct.close()


@pytest.mark.parametrize("known", [slots_reply(), slots_reply((0, 5460, b"old", 1))], ids=["none", "some"])
async def test_a_node_that_does_not_know_all_slots_is_believed_only_where_no_other_does(known: bytes) -> None:
    whole = slots_reply((0, 9000, b"a", 1), (9001, 16383, b"b", 2))
    async with replying(known) as first, replying(slots_reply()) as second, replying(whole) as third:
        settings = redis_settings(f"redis+cluster://{first},{second},{third}")
        places = [place for _, _, place in await read_slots(settings, redis_place(settings.url).hosts)]
        assert places == [("a", 1), ("b", 2)]
        settings = redis_settings(f"redis+cluster://{second},{first}")
        places = [place for _, _, place in await read_slots(settings, redis_place(settings.url).hosts)]
        assert places == [("old", 1)] * (b"old" in known)


async def test_a_node_that_was_reset_stops_none_of_the_others(
    own_cluster: RedisCluster, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replicas(own_cluster.url, own_cluster.prefix, memory_bytes=0)
    keys = await use(one)
    reset = own_cluster.nodes[0]
    kept = [key for key in keys if own_cluster.primary_of(key.generation) is not reset]
    await reset.command("FLUSHALL")
    await reset.command("CLUSTER", "RESET", "HARD")
    await until(lambda: bool(lines_about(caplog, "redis cluster down")), "the line", FAILOVER_S)
    assert "slots are served by no node" in lines_about(caplog, "redis cluster down")[0]
    await until(lambda: is_used(one), "the subscription at another node", FAILOVER_S)
    assert [await one.found(key) for key in kept] == [b'{"a": 1}'] * len(kept)


async def test_a_url_without_a_cluster_behind_it_says_so(
    redis: RedisServer, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    one = await replicas(f"redis+cluster://{redis.address}", redis.prefix, subscribed=False)
    await until(lambda: bool(lines_about(caplog, "redis cluster down")), "the line")
    assert "cluster support disabled" in lines_about(caplog, "redis cluster down")[0]
    assert await one.tiers.lookup(one.key()) == FAILED


async def test_exactly_the_documented_rights_are_enough(
    own_cluster: RedisCluster, replicas: Replicas
) -> None:
    at_server, _ = documented_rights(own_cluster.prefix)
    assert "In a Cluster also `+cluster|slots`" in Path("deploy/README.md").read_text("utf-8")
    for node in own_cluster.nodes:
        await node.command("ACL", "SETUSER", "aos-gateway", *at_server, "+cluster|slots")
    url = own_cluster.url.replace("://", "://aos-gateway:secret@")
    one, other = [await replicas(url, own_cluster.prefix, memory_bytes=0, timeout_s=0.2) for _ in range(2)]
    keys = await use(one)
    one.drop(keys[0])
    await one.in_redis(keys[0], None)
    await one.tiers.invalidate([key.stack for key in keys], "write", settles=True)
    await until(lambda: {key.stack for key in keys} <= set(other.detached), "the messages")
    own_cluster.nodes[0].pause()
    for key in keys:
        await one.tiers.lookup(key)
    await until(lambda: one.state.breaker is not BreakerState.CLOSED, "the breaker")
    own_cluster.nodes[0].resume()
    await until(lambda: is_used(one), "a probe to succeed", FAILOVER_S)
    await use(one)
    for node in own_cluster.nodes:
        assert await node.command("ACL", "LOG") == []


@pytest.mark.parametrize(
    ("trouble", "about", "words"),
    [
        (("CONFIG", "SET", "requirepass", "another"), "redis cluster down", "NOAUTH"),
        (("ACL", "SETUSER", "default", "-cluster|slots"), "redis cluster down", "'cluster|slots' command"),
        (("ACL", "SETUSER", "default", "-mget"), "redis {} lookup down", "'mget' command"),
        (("ACL", "SETUSER", "default", "resetchannels"), "redis subscription down", "NOPERM"),
    ],
    ids=["password", "slots", "mget", "channel"],
)
async def test_what_a_node_refuses_is_logged_in_its_words(
    own_cluster: RedisCluster,
    replicas: Replicas,
    caplog: pytest.LogCaptureFixture,
    trouble: tuple[str, ...],
    about: str,
    words: str,
) -> None:
    for node in own_cluster.nodes:
        await node.command(*trouble)
    one = await replicas(own_cluster.url, own_cluster.prefix, subscribed=False)
    where = own_cluster.primary_of(one.key().generation).address if "{}" in about else ""

    async def is_logged() -> bool:
        await one.tiers.lookup(one.key())
        return any(words in line for line in lines_about(caplog, about.format(where)))

    await until(is_logged, "the line")


@pytest.mark.operation
@pytest.mark.parametrize("how", ["killed", "paused", "demoted"])
async def test_after_a_failover_the_new_primary_has_look_ups_and_what_is_pending(
    failing_over: RedisCluster, replicas: Replicas, how: str
) -> None:
    cluster = failing_over
    one, other = [await replicas(cluster.url, cluster.prefix, memory_bytes=0) for _ in range(2)]
    keys = await use(one)
    former = cluster.primary_of(keys[0].generation)
    own = [key for key in keys if cluster.primary_of(key.generation) is former]
    match how:
        case "killed":
            former.kill()
        case "paused":
            former.pause()
        case _:
            await cluster.nodes[3 + cluster.nodes.index(former)].command("CLUSTER", "FAILOVER")
    await one.tiers.invalidate([keys[0].stack], "write", settles=True)
    await until(lambda: cluster.primary_of(keys[0].generation) is not former, "the failover", FAILOVER_S)
    await until(lambda: is_used(one) and is_used(other), "the Cluster to be used", FAILOVER_S)
    await one.confirmed(FAILOVER_S)
    assert await cluster.primary_of(keys[0].generation).command("EXISTS", keys[0].generation) == 0

    async def is_received() -> bool:
        # The other one may still be on its way from the former primary to another node.
        await one.tiers.invalidate([b"after"], "write", settles=True)
        return b"after" in other.detached

    await until(is_received, "a message", pause_s=0.2)
    for key in own[:3]:
        await one.fill(key)
    assert one.tiers.redis is not None
    link = one.tiers.redis._store.link
    assert isinstance(link, ClusterLink)
    # Nothing watches the former primary any more.
    assert len(link._watching) == len(link.nodes) == 3
    promoted = cluster.nodes[3 + cluster.nodes.index(former)]
    used = {promoted, *cluster.nodes[:3]} - {former}
    await until(lambda: one.state.nodes == {node.address: True for node in used}, "all to be up")
    if how == "paused":
        former.resume()
