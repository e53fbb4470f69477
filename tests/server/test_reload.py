"""SIGHUP: what changes while the gateway runs, what stays, and what is said about it."""

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.openloop.generator import offer
from benchmarks.openloop.targets import Target
from gateway.config.load import Sources
from gateway.config.model import RULES
from gateway.server.reload import LIVE, reread
from tests.store.kit import until
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import gauges
from tests.testbed.redis_server import RedisServer
from tests.testbed.run_length import RunLength, run_length
from tests.testbed.secrets import token
from tests.testbed.tls import Authority
from tests.testbed.workers import hit

pytestmark = pytest.mark.operation

A = token("a")
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
RELOADS = 3 if run_length() is RunLength.SHORT else 10

Start = Callable[..., Awaitable[GatewayProcess]]


@pytest.fixture
async def start(aos: ScriptedAos, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts gateways in front of the scripted AOS with a configuration file."""
    started: list[GatewayProcess] = []
    aos.on("GET", "/", OLD)

    async def begin(text: str, *arguments: str, **environ: str) -> GatewayProcess:
        (tmp_path / "gateway.toml").write_text(text)
        started.append(
            GatewayProcess(
                *("--upstream", aos.url, "--config", str(tmp_path / "gateway.toml")),
                *arguments,
                environ=environ,
            )
        )
        return await started[-1].ready()

    yield begin
    for process in started:
        process.discard()


async def reload(gateway: GatewayProcess, count: int = 1) -> None:
    """Send SIGHUP and wait until the settings were read anew, for the ``count``-th time."""
    os.kill(gateway.pid, signal.SIGHUP)
    await until(
        lambda: gateway.output().count("reloaded; changed") + gateway.output().count("not reloaded") == count,
        "the reload",
    )


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_what_can_change_does_and_the_rest_is_named(start: Start, tmp_path: Path, workers: str) -> None:
    gateway = await start('[log]\nlevel = "info"\n', "--workers", workers)
    async with await RawClient.connect(gateway.address) as client:
        await hit(client, A)
        (tmp_path / "gateway.toml").write_text(
            '[log]\nlevel = "warning"\n[cache]\nsettle_s = 5\n[server]\nheader_timeout_s = 7\n'
        )
        await reload(gateway)
        # What is in memory stays, and so do connections.
        await hit(client, A)
    output = gateway.output()
    assert "reloaded; changed: server.header_timeout_s, log.level" in output
    assert "these need a restart or SIGUSR2: cache.settle_s" in output
    config = (await fetch(gateway.admin, "/config")).json()
    assert (config["log"]["level"], config["cache"]["settle_s"]) == ("warning", 600)
    values = await gauges(gateway.admin)
    assert (values["config_reloads_total"], values["config_last_reload_success"]) == (1, 1)
    assert await gateway.stop() == 0


async def test_times_and_access_lines_change_while_it_runs(
    aos: ScriptedAos, start: Start, tmp_path: Path
) -> None:
    gate = aos.gate()
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    gateway = await start('[log]\naccess = "off"\n')
    async with await RawClient.connect(gateway.address) as client:
        await hit(client, A)
        assert '"request"' not in gateway.output()
        (tmp_path / "gateway.toml").write_text(
            '[log]\naccess = "all"\n[upstream]\nread_timeout_s = 0.2\nconnect_timeout_s = 2\n'
            "[server]\nbody_timeout_s = 3\n"
        )
        await reload(gateway)
        reported = (
            "changed: server.body_timeout_s, upstream.connect_timeout_s, upstream.read_timeout_s, log.access"
        )
        assert reported in gateway.output()
        answer = await client.request("GET", "/v2/slow", [("X-Auth-Token", A)])
        assert answer.status == 504
    await until(lambda: '"status":504' in gateway.output(), "its line")
    gate.open()
    assert await gateway.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_bad_file_keeps_the_old_configuration(start: Start, tmp_path: Path, workers: str) -> None:
    gateway = await start("", "--workers", workers)
    (tmp_path / "gateway.toml").write_text("[server]\nheader_timeout_s = 'soon'\n")
    await reload(gateway)
    lines = [line for line in gateway.output().splitlines() if "not reloaded" in line]
    assert len(lines) == 1
    assert "server.header_timeout_s = 'soon'" in lines[0]
    values = await gauges(gateway.admin)
    assert (values["config_reload_failures_total"], values["config_last_reload_success"]) == (1, 0)
    assert (await fetch(gateway.address, TARGET, token=A)).status == 200
    (tmp_path / "gateway.toml").write_text("[server]\nheader_timeout_s = 5\n")
    await reload(gateway, 2)
    assert (await gauges(gateway.admin))["config_last_reload_success"] == 1


async def serial_of(address: str, context: ssl.SSLContext) -> object:
    async with await RawClient.connect(address, tls=context, server_hostname="127.0.0.1") as client:
        assert (await client.request("GET", TARGET, [("X-Auth-Token", A)])).status == 200
        shown = client.writer.get_extra_info("peercert")
        return shown["serialNumber"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_new_connections_see_the_new_certificate_and_open_ones_go_on(
    start: Start, authority: Authority, tmp_path: Path, workers: str
) -> None:
    certificate, key = authority.files("127.0.0.1")
    paths = {
        "AOS_GATEWAY_SERVER__TLS_CERT": tmp_path / "c.pem",
        "AOS_GATEWAY_SERVER__TLS_KEY": tmp_path / "k.pem",
    }
    for path, file in zip(paths.values(), (certificate, key), strict=True):
        path.write_bytes(file.read_bytes())
    gateway = await start("", "--workers", workers, **{name: str(path) for name, path in paths.items()})
    context = authority.client_context()
    first = await serial_of(gateway.address, context)
    async with await RawClient.connect(gateway.address, tls=context, server_hostname="127.0.0.1") as open_one:
        await hit(open_one, A)
        for path, file in zip(paths.values(), authority.files("127.0.0.1"), strict=True):
            path.write_bytes(file.read_bytes())
        await reload(gateway)
        second = await serial_of(gateway.address, context)
        assert second != first
        await hit(open_one, A)
    paths["AOS_GATEWAY_SERVER__TLS_KEY"].write_text("none")
    await reload(gateway, 2)
    assert "hold no certificate and key" in gateway.output()
    assert await serial_of(gateway.address, context) == second


async def test_secret_files_are_reread(start: Start, own_redis: RedisServer, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text(own_redis.url.replace("redis://", "redis://gw:one@"))
    await own_redis.command("ACL", "SETUSER", "gw", "on", ">one", "~*", "&*", "+@all")
    secret = tmp_path / "secret"
    secret.write_text("x" * 32)
    gateway = await start(
        "",
        AOS_GATEWAY_REDIS__URL_FILE=str(url),
        AOS_GATEWAY_CACHE__SECRET_FILE=str(secret),
        AOS_GATEWAY_REDIS__TIMEOUT_S="1",
    )
    await own_redis.command("ACL", "SETUSER", "gw", "resetpass", ">two")
    await own_redis.command("CLIENT", "KILL", "USER", "gw")
    url.write_text(own_redis.url.replace("redis://", "redis://gw:two@"))
    secret.write_text("y" * 32)
    await reload(gateway)
    assert "changed: redis.url" in gateway.output()
    assert "need a restart or SIGUSR2: cache.secret" in gateway.output()
    assert "gw:" not in gateway.output()

    async def is_up() -> bool:
        await fetch(gateway.address, TARGET, token=token("b"))
        values = await gauges(gateway.admin)
        return values["redis_up"] == 1 and values["redis_subscription_up"] == 1

    await until(is_up, "Redis with the new password")


async def test_under_load_reloads_fail_no_request(start: Start, tmp_path: Path) -> None:
    gateway = await start("", "--workers", "2")
    load = offer(
        f"http://{gateway.address}",
        [Target(target=TARGET)],
        rate_per_s=200,
        duration_s=RELOADS * 0.8,
        connections=8,
        token=A.decode(),
    )
    offering = asyncio.create_task(load)
    for number in range(RELOADS):
        (tmp_path / "gateway.toml").write_text(f"[server]\nheader_timeout_s = {10 + number}\n")
        await reload(gateway, number + 1)
        await asyncio.sleep(0.6)
    report = await offering
    assert report.errors == {}
    assert report.completed == report.scheduled
    print(f"{RELOADS} reloads: of {report.scheduled} requests none failed")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_signal_that_comes_while_it_starts_is_obeyed_when_it_serves(
    aos: ScriptedAos, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "gateway.toml"
    os.mkfifo(path)
    gateway = GatewayProcess("--upstream", aos.url, "--workers", workers, "--config", str(path))
    try:
        # Both sides of a pipe wait for one another, so here it is starting.
        with await asyncio.to_thread(path.open, "w") as settings:
            path.unlink()
            path.write_text('[log]\nlevel = "warning"\n')
            os.kill(gateway.pid, signal.SIGHUP)
            settings.write('[log]\nlevel = "info"\n')
        await until(lambda: "reloaded; changed: log.level" in gateway.output(), "the reload")
        assert await gateway.stop() == 0
    finally:
        gateway.discard()


def test_a_reload_keeps_settings_that_cannot_change(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[cache]\nsettle_s = 1\n[log]\nlevel = "error"\n')
    sources = Sources(path=str(file), environ={}, flags={"upstream.url": "http://aos.example"})
    raw = sources.read()
    file.write_text("[cache]\nsettle_s = 2\n[upstream]\nmax_waiting = 9\n[wait]\nmax_waiting = 3\n")
    change = reread(sources, raw)
    assert (change.config.cache.settle_s, change.config.upstream.max_waiting) == (1, 1024)
    assert change.config.log.level == "info"
    assert change.config.wait.max_waiting == 3
    assert change.changed == ("wait.max_waiting", "log.level")
    assert change.deferred == ("upstream.max_waiting", "cache.settle_s")
    again = reread(sources, change.raw)
    assert (again.changed, again.deferred) == ((), change.deferred)


def test_live_settings_exist() -> None:
    assert set(RULES) >= LIVE
