"""`aos-gateway check --redis`: each command once, and what Redis says to it."""

import time
from pathlib import Path

import pytest

from gateway.cli.check import try_redis
from tests.store.kit import documented_rights, replying
from tests.testbed.gateway import loaded
from tests.testbed.redis_cluster import RedisCluster
from tests.testbed.redis_sentinels import SERVICE, SentinelServer
from tests.testbed.redis_server import RedisServer

ALLOWED = "PING, SET, GET, MGET, PEXPIRE, PTTL, DEL, PUBLISH, SUBSCRIBE, UNSUBSCRIBE are allowed\n"


async def _said(capsys: pytest.CaptureFixture[str], url: str, **settings: object) -> tuple[int, str]:
    config = loaded("http://127.0.0.1:9", redis__url=url, redis__prefix="p", **settings)
    code = await try_redis(config)
    said = "".join(capsys.readouterr())
    assert "sesame" not in said
    return code, said


async def test_it_says_what_is_allowed_on_each_server_and_leaves_nothing(
    redis: RedisServer, cluster: RedisCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await _said(capsys, redis.url) == (0, f"{redis.url}\n{redis.address}: {ALLOWED}")
    code, said = await _said(capsys, cluster.url)
    assert code == 0
    assert sorted(said.splitlines(keepends=True)[1:]) == sorted(
        f"{node.address}: {ALLOWED}" for node in cluster.nodes
    )
    host, _, port = redis.address.rpartition(":")
    with SentinelServer([f"sentinel monitor {SERVICE} {host} {port} 1"]) as sentinel:
        code, said = await _said(capsys, f"redis+sentinel://{sentinel.address}/{SERVICE}")
    assert code == 0
    assert said.endswith(f"\n{redis.address}: {ALLOWED}")
    for server in (redis, *cluster.nodes):
        assert await server.keys() == []


async def test_the_documented_rights_allow_all_of_it(
    own_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    at_server, _ = documented_rights("p")
    await own_redis.command("ACL", "SETUSER", "user", *at_server)
    code, _ = await _said(capsys, f"redis://user:secret@{own_redis.address}/1")
    assert code == 0


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("-set", "SET is refused: NOPERM "),
        ("-pexpire", "PEXPIRE is refused: NOPERM "),
        ("resetkeys", "DEL is refused: NOPERM "),
        ("resetchannels", "PUBLISH is refused: NOPERM "),
        ("-select", "cannot be used: NOPERM "),
        (">sesame-other <sesame", "cannot be used: WRONGPASS "),
    ],
)
async def test_it_names_what_is_refused_in_the_words_of_redis(
    own_redis: RedisServer, capsys: pytest.CaptureFixture[str], rule: str, line: str
) -> None:
    await own_redis.command("ACL", "SETUSER", "user", "on", ">sesame", "~*", "&*", "+@all", *rule.split())
    code, said = await _said(capsys, f"redis://user:sesame@{own_redis.address}/1")
    assert code == 1
    assert f"\n{own_redis.address}: {line}" in said


async def test_it_names_a_server_of_another_kind(
    redis: RedisServer, cluster: RedisCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = await _said(capsys, cluster.nodes[0].url)
    assert code == 1
    assert "DEL is refused: a node of a Redis Cluster: write redis+cluster://" in said
    code, said = await _said(capsys, f"redis+cluster://{redis.address}")
    assert code == 1
    assert "CLUSTER SLOTS is refused: no node tells the slots: ERR This instance has cluster" in said
    with SentinelServer() as sentinel:
        code, said = await _said(capsys, sentinel.url)
        assert code == 1
        assert ": a Sentinel: write redis+sentinel://" in said
        code, said = await _said(capsys, f"redis+sentinel://{sentinel.address}/other")
        assert code == 1
        assert (
            f"{sentinel.address}: cannot be used: no Sentinel names a primary: they do not know other" in said
        )


async def test_it_needs_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = await _said(capsys, "")
    assert code == 1
    assert "--redis needs redis.url" in said


async def test_a_redis_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], free_port: int, tmp_path: Path
) -> None:
    for url, server in (
        (f"redis://127.0.0.1:{free_port}/0", f"127.0.0.1:{free_port}"),
        (f"unix://{tmp_path}/none", f"{tmp_path}/none"),
    ):
        code, said = await _said(capsys, url)
        assert code == 1
        assert f"{server}: cannot be used: " in said


async def test_a_redis_that_does_not_answer_is_asked_once(
    own_redis: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    own_redis.pause()
    began_s = time.monotonic()
    code, said = await _said(capsys, own_redis.url)
    assert time.monotonic() - began_s < 5.0
    assert (code, said.count("TimeoutError")) == (1, 1)


async def test_what_is_no_reply_of_redis_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with replying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        code, said = await _said(capsys, f"redis://{address}/0")
    assert (code, said.count("Protocol error")) == (1, 1)


@pytest.mark.parametrize(("host", "port"), [(b"a/b@c", b"1"), (b"h", b"65536"), (b"h", b"0"), (b"", b"1")])
async def test_a_sentinel_that_names_no_address_is_named(
    capsys: pytest.CaptureFixture[str], host: bytes, port: bytes
) -> None:
    reply = b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(host), host, len(port), port)
    async with replying(reply) as address:
        code, said = await _said(capsys, f"redis+sentinel://{address}/{SERVICE}")
    assert code == 1
    assert f"{address}: cannot be used: no Sentinel names a primary: InvalidResponse" in said
