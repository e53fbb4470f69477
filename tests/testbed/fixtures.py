"""The fixtures of the test kit; tests/conftest.py names this module as a plugin."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from . import address, gateway
from .aos import ScriptedAos
from .faultproxy import FaultProxy
from .iam import ScriptedIam
from .redis_cluster import RedisCluster
from .redis_server import RedisServer, find_valkey_server
from .tls import Authority


@pytest.fixture(params=["fast path", "parser"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test twice: with the fast path, and with the parser alone; the bytes must be the same."""
    monkeypatch.setitem(gateway.DEFAULTS, "server.fast_lane", request.param == "fast path")
    return str(request.param)


@pytest.fixture
async def aos() -> AsyncIterator[ScriptedAos]:
    """A scripted AOS on a loopback port; a malformed or unscripted request fails the test."""
    async with ScriptedAos() as server:
        yield server
    assert server.violations == []


@pytest.fixture
async def iam() -> AsyncIterator[ScriptedIam]:
    """A scripted IAM on a loopback port, which knows nobody; a malformed request fails the test."""
    async with ScriptedIam() as server:
        yield server
    assert server.violations == []


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """One real Redis for the whole run; tests take `redis` instead, which is clean."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(shared_redis: RedisServer) -> RedisServer:
    """The shared Redis, empty, without old clients, with a new prefix; not to be killed or configured."""
    shared_redis.flush()
    return shared_redis


@pytest.fixture(scope="session")
def shared_valkey() -> Iterator[RedisServer]:
    """One real Valkey for the whole run; tests take `valkey` instead, which is clean."""
    with RedisServer(binary=find_valkey_server()) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: RedisServer) -> RedisServer:
    """The shared Valkey, empty, without old clients, with a new prefix; not to be killed or configured."""
    shared_valkey.flush()
    return shared_valkey


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RedisCluster]:
    """One real Cluster without replicas for the whole run; tests take `cluster` instead, which is clean."""
    with RedisCluster(replicas=False) as one:
        yield one


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """The shared Cluster, empty, without old clients, with a new prefix; no node is to be killed."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A real Redis of this test alone, to be killed, paused or filled."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def fault_proxy() -> AsyncIterator[Callable[[str], Awaitable[FaultProxy]]]:
    """Starts a fault proxy in front of an address; all are closed at the end."""
    started: list[FaultProxy] = []

    async def start(target: str) -> FaultProxy:
        started.append(await FaultProxy(target).start())
        return started[-1]

    yield start
    for proxy in started:
        await proxy.close()
    assert [proxy.failures for proxy in started if proxy.failures] == []


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority for TLS on loopback."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for Unix sockets (they end at 104 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="aosgw-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def start_gateway(aos: ScriptedAos) -> AsyncIterator[gateway.StartGateway]:
    """Starts gateways as processes of their own in front of the scripted AOS."""
    started: list[gateway.GatewayProcess] = []

    async def start(*arguments: str, **settings: object) -> gateway.GatewayProcess:
        environ = {f"AOS_GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
        started.append(gateway.GatewayProcess("--upstream", aos.url, *arguments, environ=environ))
        return await started[-1].ready()

    yield start
    for process in started:
        process.discard()


@pytest.fixture
def free_port() -> int:
    """A loopback TCP port without a listener."""
    return address.free_port()
