"""Workers that end: what is lost, how they are replaced, and when the service gives up."""

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from benchmarks.openloop.generator import offer
from benchmarks.openloop.targets import Target
from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess, StartGateway
from tests.testbed.process import gauges, is_alive
from tests.testbed.run_length import RunLength, run_length
from tests.testbed.secrets import token
from tests.testbed.tls import Authority
from tests.testbed.workers import one_to_each, pids

pytestmark = pytest.mark.operation

A = token("a")
STACK = f"/v2/stacks/{STACK_ID}"
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
NEW = Answer(headers=[("Content-Type", "application/json")], body=record(unknownField="new"))
KILLS = 3 if run_length() is RunLength.SHORT else 30


@pytest.fixture
def start(start_gateway: StartGateway) -> StartGateway:
    """Starts gateways of two workers in front of the scripted AOS."""
    return partial(start_gateway, "--workers", "2")


async def test_a_killed_worker_takes_only_its_own_requests_along_and_is_replaced(
    aos: ScriptedAos, start: StartGateway
) -> None:
    aos.on("GET", "/", OLD)
    gate = aos.gate()
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    gateway = await start()
    before = await pids(gateway.admin)
    async with one_to_each(gateway.address, 2, A) as clients:
        for client in clients:
            await client.send(request_bytes("GET", "/v2/slow"))
        await aos.wait_until(lambda: aos.count("GET", "/v2/slow") == 2, "both requests")
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: "ended: SIGKILL" in gateway.output(), "its end")
        gate.open()
        ended = await asyncio.gather(*(client.read_response() for client in clients), return_exceptions=True)
        assert sum(isinstance(each, BaseException) for each in ended) == 1

    async def is_whole() -> bool:
        return len(set(await pids(gateway.admin)) - {before[0]}) == 2 and "workers 2.0" in (
            (await fetch(gateway.admin, "/metrics")).body.decode()
        )

    await until(is_whole, "the new worker", timeout_s=5.0)
    async with one_to_each(gateway.address, 2, A):
        pass
    assert await gateway.stop() == 0


@pytest.mark.timeout(30 + 2 * KILLS)
async def test_under_load_kills_fail_only_what_the_killed_had_accepted(
    aos: ScriptedAos, start: StartGateway
) -> None:
    aos.on("GET", "/", OLD)
    gateway = await start()
    connections = 8
    load = asyncio.create_task(
        offer(
            f"http://{gateway.address}",
            [Target(target=TARGET)],
            rate_per_s=200,
            duration_s=KILLS + 1.0,
            connections=connections,
            token=A.decode(),
        )
    )
    for number in range(KILLS):
        await asyncio.sleep(1)
        os.kill((await pids(gateway.admin))[0], signal.SIGKILL)
        seen = number + 1
        await until(lambda seen=seen: gateway.output().count("ended: SIGKILL") == seen, "its end")  # type: ignore[misc]
    report = await load
    # Each connection carries one request at a time, so a kill can cut no more than there are connections.
    cut = sum(report.errors.values())
    assert set(report.errors) <= {"reset-reused", "reset-fresh", "cut"}, report.errors
    assert cut <= KILLS * connections
    assert report.completed + cut == report.scheduled
    assert (await gauges(gateway.admin))["worker_restarts_total"] == KILLS
    print(f"{KILLS} kills: of {report.scheduled} requests {cut} failed: {dict(report.errors)}")


async def test_workers_that_cannot_start_end_the_gateway_with_one_line(
    aos: ScriptedAos, authority: Authority, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.ca_file.read_bytes())
    gateway = GatewayProcess(
        *("--upstream", aos.url, "--workers", "2"), environ={"AOS_GATEWAY_UPSTREAM__CA_FILE": str(ca_file)}
    )
    try:
        await gateway.ready()
        ca_file.unlink()
        os.kill((await pids(gateway.admin))[0], signal.SIGKILL)
        assert await gateway.ended() == 1
        lines = [line for line in gateway.output().splitlines() if '"level":"critical"' in line]
        assert len(lines) == 1
        assert "ended 4 times soon after its start, last with exit code 2" in lines[0]
        assert "upstream.ca_file" in gateway.output()
        assert "Traceback" not in gateway.output()
    finally:
        gateway.discard()


async def test_a_drain_lets_requests_in_every_worker_end(aos: ScriptedAos, start: StartGateway) -> None:
    aos.on("GET", "/", OLD)
    gate = aos.gate()
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    gateway = await start()
    workers = await pids(gateway.admin)
    async with one_to_each(gateway.address, 2, A) as clients:
        for client in clients:
            await client.send(request_bytes("GET", "/v2/slow"))
        await aos.wait_until(lambda: aos.count("GET", "/v2/slow") == 2, "both requests")
        async with await RawClient.connect(gateway.address) as idle:
            stopping = asyncio.create_task(gateway.stop())
            assert await idle.at_eof()
        assert (await fetch(gateway.admin, "/readyz")).status == 503
        gate.open()
        for client in clients:
            assert (await client.read_response()).body == b"slow"
        assert await stopping == 0
    assert not any(map(is_alive, workers))
    assert "Traceback" not in gateway.output()


async def test_a_signal_to_all_processes_drains_as_one_to_the_parent_does(
    aos: ScriptedAos, start: StartGateway
) -> None:
    gate = aos.gate()
    aos.on("GET", "/v2/slow", gate.before(Answer(body=b"slow")))
    gateway = await start()
    workers = await pids(gateway.admin)
    async with await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("GET", "/v2/slow"))
        await gate.wait_reached()
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        stopping = asyncio.create_task(gateway.stop())
        await until(lambda: "draining" in gateway.output(), "the drain")
        assert sum(map(is_alive, workers)) >= 1
        gate.open()
        assert (await client.read_response()).body == b"slow"
        assert await stopping == 0


async def test_workers_end_when_their_parent_is_killed(aos: ScriptedAos, start: StartGateway) -> None:
    gateway = await start()
    workers = await pids(gateway.admin)
    gateway.kill()
    await until(lambda: not any(map(is_alive, workers)), "the workers' end", timeout_s=5.0)
