"""Hot restart by SIGUSR2: a new process serves on the same sockets while the former one drains."""

import asyncio
import os
import re
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.openloop.generator import offer
from benchmarks.openloop.report import Report
from benchmarks.openloop.targets import Target
from gateway.config.address import OWNER_ONLY, TcpAddress, UnixAddress
from gateway.runtime.listeners import open_sockets
from gateway.server.hot_restart import InheritedSockets
from gateway.server.run import take_sockets
from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import gauges, is_alive
from tests.testbed.redis_server import RedisServer
from tests.testbed.run_length import RunLength, run_length
from tests.testbed.secrets import token
from tests.testbed.workers import hit, says_hit

pytestmark = pytest.mark.operation

A = token("a")
STACK = f"/v2/stacks/{STACK_ID}"
NEW = Answer(headers=[("Content-Type", "application/json")], body=record(unknownField="new"))
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
RESTARTS = 3 if run_length() is RunLength.SHORT else 10

Start = Callable[..., Awaitable[GatewayProcess]]


@pytest.fixture
async def start(aos: ScriptedAos) -> AsyncIterator[Start]:
    """Starts gateways in front of the scripted AOS; their successors are ended with them."""
    started: list[GatewayProcess] = []
    aos.on("GET", "/", OLD)

    async def begin(*arguments: str) -> GatewayProcess:
        started.append(GatewayProcess("--upstream", aos.url, *arguments))
        return await started[-1].ready()

    yield begin
    for process in started:
        for pid in successors(process):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.discard()


def successors(gateway: GatewayProcess) -> list[int]:
    """The processes that have taken over, one after the other."""
    return [int(pid) for pid in re.findall(r"process (\d+) has taken over", gateway.output())]


async def hot_restart(gateway: GatewayProcess, pid: int) -> int:
    """Restart a process, and return the id of the new one once it serves."""
    count = len(successors(gateway))
    os.kill(pid, signal.SIGUSR2)
    await until(lambda: len(successors(gateway)) > count, "the new process", timeout_s=20.0)
    return successors(gateway)[-1]


async def gone(pid: int) -> None:
    await until(lambda: not is_alive(pid), "the end of the former process", timeout_s=15.0)


async def stop(pid: int) -> None:
    """End a process that is not a child of the test."""
    os.kill(pid, signal.SIGTERM)
    await gone(pid)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_under_load_hot_restarts_fail_no_request(start: Start, workers: str) -> None:
    gateway = await start("--workers", workers)
    is_over = asyncio.Event()
    load = asyncio.create_task(load_until(is_over, gateway.address))
    pid, before = gateway.pid, [gateway.pid]
    for _ in range(RESTARTS):
        pid = await hot_restart(gateway, pid)
        before.append(pid)
    is_over.set()
    reports = await load
    for report in reports:
        assert report.errors == {}
        assert report.completed == report.scheduled
    requests = sum(report.scheduled for report in reports)
    print(f"{RESTARTS} hot restarts, {workers} workers: of {requests} requests none failed")
    for former in before[:-1]:
        await gone(former)
    assert await gateway.ended() == 0
    assert (await fetch(gateway.admin, "/readyz")).json()["ready"]
    await stop(pid)
    assert "Traceback" not in gateway.output()


async def load_until(is_over: asyncio.Event, address: str) -> list[Report]:
    """Send 200 requests a second, however long that takes, in runs of a few hundred each."""
    reports: list[Report] = []
    while not is_over.is_set():
        run = offer(
            *(f"http://{address}", [Target(target=TARGET)]),
            rate_per_s=200,
            duration_s=1.5,
            connections=8,
            token=A.decode(),
        )
        reports.append(await run)
    return reports


async def test_a_request_in_progress_ends_in_the_process_that_began_it(
    aos: ScriptedAos, start: Start
) -> None:
    gate = aos.gate()
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    gateway = await start()
    async with (
        await RawClient.connect(gateway.address) as busy,
        await RawClient.connect(gateway.address) as idle,
    ):
        await hit(idle, A)
        await busy.send(request_bytes("GET", "/v2/slow"))
        await gate.wait_reached()
        pid = await hot_restart(gateway, gateway.pid)
        # An idle connection carries one more request, and the record is fetched again.
        asked = aos.count("GET", TARGET)
        last = await idle.request("GET", TARGET, [("X-Auth-Token", A)])
        while last.get("connection") is None:
            # The new process serves, and the old one has not begun to drain yet.
            last = await idle.request("GET", TARGET, [("X-Auth-Token", A)])
        assert (last.status, last.get("connection")) == (200, b"close")
        assert aos.count("GET", TARGET) == asked + 1
        gate.open()
        answer = await busy.read_response()
        assert (answer.body, answer.get("connection")) == (b"slow", b"close")
    assert await gateway.ended() == 0
    await stop(pid)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_callers_who_wait_are_answered_with_the_newest_record_at_once(
    aos: ScriptedAos, start: Start, workers: str
) -> None:
    running = Answer(body=record("Running"))
    aos.on("GET", "/", running)
    gateway = await start("--workers", workers)
    clients = [await RawClient.connect(gateway.address) for _ in range(8)]
    for client in clients:
        await client.send(request_bytes("GET", TARGET, [("X-Auth-Token", A), ("Prefer", "wait=50")]))

    async def all_wait() -> bool:
        return (await gauges(gateway.admin))["waiting_callers"] == len(clients)

    await until(all_wait, "the callers to wait")
    pid = await hot_restart(gateway, gateway.pid)
    async with asyncio.timeout(5):
        for client in clients:
            answer = await client.read_response()
            assert (answer.status, answer.body) == (200, running.body)
            await client.close()
    assert await gateway.ended() == 0
    await stop(pid)


async def test_a_new_process_that_cannot_start_changes_nothing(
    aos: ScriptedAos, start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    gateway = await start("--config", str(config))
    async with await RawClient.connect(gateway.address) as client:
        await hit(client, A)
        config.write_text("[server]\nnonsense = 1\n")
        os.kill(gateway.pid, signal.SIGUSR2)
        await until(lambda: "no process has taken over" in gateway.output(), "the failed restart")
        assert "ended with exit code 2" in gateway.output()
        await hit(client, A)
    assert (await fetch(gateway.admin, "/readyz")).status == 200
    # With a valid configuration it works, including settings that only a start can change.
    config.write_text("[cache]\nsettle_s = 5\n")
    pid = await hot_restart(gateway, gateway.pid)
    assert (await fetch(gateway.admin, "/config")).json()["cache"]["settle_s"] == 5
    assert await gateway.ended() == 0
    await stop(pid)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_write_that_ends_in_the_process_before_is_not_outlived_by_copies(
    aos: ScriptedAos, start: Start, workers: str
) -> None:
    gate = aos.gate()
    gateway = await start("--workers", workers)
    aos.on("DELETE", "/", gate.before(Answer(202)))
    async with await RawClient.connect(gateway.address) as writer:
        await writer.send(request_bytes("DELETE", STACK))
        await gate.wait_reached()
        pid = await hot_restart(gateway, gateway.pid)
        # These go to the new process, which misses the former one's invalidations.
        async with asyncio.timeout(5):
            while (await fetch(gateway.address, TARGET, token=A)).get("connection") is not None:
                pass
        for _ in range(8):
            assert (await fetch(gateway.address, TARGET, token=A)).body == OLD.body
        aos.on("GET", "/", NEW)
        gate.open()
        assert (await writer.read_response("DELETE")).status == 202
    for _ in range(8):
        assert (await fetch(gateway.address, TARGET, token=A)).body == NEW.body
    assert await gateway.ended() == 0

    async def is_kept() -> bool:
        return says_hit(await fetch(gateway.address, TARGET, token=A))

    await until(is_kept, "copies")
    await stop(pid)


@pytest.mark.parametrize(("workers", "count", "killed"), [("1", 3, False), ("2", 2, True)], ids=str)
async def test_memory_stays_off_until_all_former_processes_have_ended(
    aos: ScriptedAos, start: Start, workers: str, count: int, killed: bool
) -> None:
    gate = aos.gate()
    gateway = await start("--workers", workers)
    aos.on("PUT", "/", gate.before(Answer(202)))
    pid = gateway.pid
    async with await RawClient.connect(gateway.address) as writer:
        await writer.send(request_bytes("PUT", STACK, body=b"{}"))
        await gate.wait_reached()
        for _ in range(count):
            former, pid = pid, await hot_restart(gateway, pid)
            if killed:
                # Its workers finish their requests.
                os.kill(former, signal.SIGKILL)
            if former != gateway.pid:
                await gone(former)
        # Long enough to notice that the former process has ended.
        observed_until_s = time.monotonic() + 0.5
        while time.monotonic() < observed_until_s:
            answer = await fetch(gateway.address, TARGET, token=A)
            assert (says_hit(answer), answer.body) == (False, OLD.body)
        aos.on("GET", "/", NEW)
        gate.open()
        assert (await writer.read_response("PUT")).status == 202
    for _ in range(8):
        assert (await fetch(gateway.address, TARGET, token=A)).body == NEW.body

    async def is_kept() -> bool:
        return says_hit(await fetch(gateway.address, TARGET, token=A))

    await until(is_kept, "copies")
    await stop(pid)


async def test_with_another_redis_nothing_is_kept_while_the_former_process_drains(
    aos: ScriptedAos, start: Start, tmp_path: Path, redis: RedisServer
) -> None:
    gate = aos.gate()
    config = tmp_path / "gateway.toml"
    config.write_text("")
    gateway = await start("--config", str(config))
    aos.on("PUT", "/", gate.before(Answer(202)))
    async with await RawClient.connect(gateway.address) as writer:
        await writer.send(request_bytes("PUT", STACK, body=b"{}"))
        await gate.wait_reached()
        config.write_text(f'[redis]\nurl = "{redis.url}"\n')
        pid = await hot_restart(gateway, gateway.pid)
        for _ in range(8):
            assert not says_hit(await fetch(gateway.address, TARGET, token=A))
        aos.on("GET", "/", NEW)
        gate.open()
        assert (await writer.read_response("PUT")).status == 202
    assert (await fetch(gateway.address, TARGET, token=A)).body == NEW.body
    await stop(pid)


async def test_unix_sockets_are_taken_over_with_their_files(aos: ScriptedAos, socket_folder: Path) -> None:
    aos.on("GET", "/", OLD)
    listen, admin = socket_folder / "g.sock", socket_folder / "a.sock"
    config = socket_folder / "gateway.toml"
    config.write_text("")
    gateway = GatewayProcess(
        *("--upstream", aos.url, "--config", str(config)),
        *("--listen", f"unix:{listen}", "--admin", f"unix:{admin}"),
    )
    try:
        await gateway.ready()
        # A new process that fails to start leaves the files.
        config.write_text("[server]\nnonsense = 1\n")
        os.kill(gateway.pid, signal.SIGUSR2)
        await until(lambda: "no process has taken over" in gateway.output(), "the failed restart")
        assert (await fetch(f"unix:{listen}", TARGET, token=A)).status == 200
        config.write_text('[server]\nlisten_mode = "0666"\n')
        pid = await hot_restart(gateway, gateway.pid)
        assert await gateway.ended() == 0
        assert (await fetch(f"unix:{listen}", TARGET, token=A)).status == 200
        assert (await fetch(f"unix:{admin}", "/readyz")).status == 200
        assert [stat.S_IMODE(each.stat().st_mode) for each in (listen, admin)] == [0o666, 0o600]
        await stop(pid)
        assert not listen.exists()
        assert not admin.exists()
    finally:
        gateway.discard()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_process_that_drains_leaves_the_socket_of_the_next_one_alone(
    aos: ScriptedAos, socket_folder: Path, workers: str
) -> None:
    gate = aos.gate()
    aos.on("GET", "/", OLD)
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    listen = f"unix:{socket_folder / 'g.sock'}"
    arguments = ("--upstream", aos.url, "--listen", listen, "--workers", workers)
    former, following = GatewayProcess(*arguments), None
    try:
        await former.ready()
        async with await RawClient.connect(listen) as busy:
            await busy.send(request_bytes("GET", "/v2/slow"))
            await gate.wait_reached()
            stopping = asyncio.create_task(former.stop())
            await until(lambda: not (socket_folder / "g.sock").exists(), "the drain")
            following = await GatewayProcess(*arguments).ready()
            gate.open()
            assert (await busy.read_response()).body == b"slow"
        assert await stopping == 0
        assert (await fetch(listen, TARGET, token=A)).status == 200
    finally:
        former.discard()
        if following is not None:
            following.discard()


async def test_an_address_that_is_left_is_left_by_the_new_process_too() -> None:
    former = socket.create_server(("127.0.0.1", 0))
    left, former_port = os.dup(former.fileno()), former.getsockname()[1]
    former.close()
    opened = await take_sockets(
        *("server.listen", TcpAddress(host="127.0.0.1", port=0), OWNER_ONLY),
        InheritedSockets([left], f"127.0.0.1:{former_port}"),
    )
    try:
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(f"127.0.0.1:{former_port}")
    finally:
        opened.leave()


async def test_the_file_of_a_unix_socket_that_is_left_goes_when_the_new_process_serves(
    socket_folder: Path,
) -> None:
    former = await open_sockets(UnixAddress(path=str(socket_folder / "former.sock")))
    following = UnixAddress(path=str(socket_folder / "following.sock"))
    left = InheritedSockets([os.dup(former.descriptors[0])], str(former.address), former.file)
    opened = await take_sockets("server.listen", following, OWNER_ONLY, left)
    assert sorted(os.listdir(socket_folder)) == ["following.sock", "former.sock"]
    left.hand_over_file(opened)
    former.hand_over()
    former.leave()
    assert os.listdir(socket_folder) == ["following.sock"]
    # A removed file is no error.
    left = InheritedSockets([os.dup(opened.descriptors[0])], str(following), opened.file)
    (socket_folder / "following.sock").unlink()
    (await take_sockets("server.listen", following, OWNER_ONLY, left)).leave()
    opened.leave()
    assert os.listdir(socket_folder) == []
