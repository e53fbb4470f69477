"""Several workers behind one socket and one admin address: shared invalidations and metrics."""

import asyncio
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import Headers, RawClient, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess, StartGateway
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token
from tests.testbed.workers import hit, one_to_each, pids, says_hit, worker_of

pytestmark = pytest.mark.operation

A = token("a")
TOKEN: Headers = [("X-Auth-Token", A)]
ASKING = request_bytes("GET", TARGET, TOKEN)
STACK = f"/v2/stacks/{STACK_ID}"
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
NEW = Answer(headers=[("Content-Type", "application/json")], body=record(unknownField="new"))


@pytest.fixture
def start(start_gateway: StartGateway) -> StartGateway:
    """Starts gateways of two workers in front of the scripted AOS."""
    return partial(start_gateway, "--workers", "2")


@pytest.fixture(params=["without Redis", "with Redis"])
def store(request: pytest.FixtureRequest, redis: RedisServer) -> list[str]:
    return ["--redis", redis.url] if request.param == "with Redis" else []


async def request_count(admin: str, outcome: str = r'[^"]*') -> int:
    """Sum of the request counters."""
    text = (await fetch(admin, "/metrics")).body.decode()
    values = re.findall(rf'^aos_gateway_requests_total{{outcome="{outcome}".* (\S+)$', text, re.MULTILINE)
    return int(sum(map(float, values)))


async def test_a_write_through_one_worker_invalidates_in_the_other_before_its_response(
    aos: ScriptedAos, start: StartGateway, store: list[str]
) -> None:
    aos.on("GET", "/", OLD)
    aos.on("DELETE", "/", Answer(202))
    gateway = await start(*store)
    async with one_to_each(gateway.address, 2, A) as clients:
        for writer, reader in (clients, clients[::-1]):
            await hit(reader, A)
            assert (await writer.request("DELETE", STACK)).status == 202
            aos.on("GET", "/", NEW)
            response = await reader.request("GET", TARGET, [("X-Auth-Token", A)])
            assert not says_hit(response)
            assert response.body == NEW.body


async def test_an_entry_dropped_by_one_worker_is_not_served_by_the_other(
    aos: ScriptedAos, start: StartGateway
) -> None:
    aos.on("GET", "/", OLD)
    gateway = await start()
    async with one_to_each(gateway.address, 2, A) as (one, other):
        aos.on("GET", "/", Answer(403, body=b"no"))
        fields: Headers = [("X-Auth-Token", A), ("Cache-Control", "no-cache")]
        assert (await one.request("GET", TARGET, fields)).status == 403

        async def is_refused() -> bool:
            return (await other.request("GET", TARGET, [("X-Auth-Token", A)])).status == 403

        await until(is_refused, "the other worker's own fetch", timeout_s=1.0)


async def test_what_a_worker_without_the_entry_is_refused_ends_it_in_the_other(
    aos: ScriptedAos, start: StartGateway, tmp_path: Path
) -> None:
    refusals = [("GET", Answer(status, body=b"no")) for status in (401, 403, 404, 410)]
    refusals += [
        ("HEAD", Answer(403)),
        ("GET", Answer(headers=OLD.headers, body=record(padding="x" * 10_000))),
        ("GET", Answer(headers=[*OLD.headers, ("Cache-Control", "no-store")], body=record())),
    ]
    aos.on("GET", "/", OLD)
    config = tmp_path / "gateway.toml"
    config.write_text("[cache]\nmax_body_bytes = 8000\norigin_cache_control = 'obey'\n")
    gateway = await start("--config", str(config))
    async with one_to_each(gateway.address, 2, A) as (one, other):
        for number, (method, answer) in enumerate(refusals):
            target = f"{TARGET}{number}"
            aos.on("GET", target, Answer(headers=OLD.headers, body=record(name=target.rpartition("/")[2])))
            for _ in range(2):
                response = await other.request("GET", target, TOKEN)
            assert says_hit(response)
            aos.on(method, target, answer)
            refused = await one.request(method, target, TOKEN)
            assert (refused.status, says_hit(refused)) == (answer.status, False)

            async def is_dropped(target: str = target) -> bool:
                return not says_hit(await other.request("GET", target, TOKEN))

            await until(is_dropped, f"the other worker's own fetch after {method} {answer}", timeout_s=1.0)


async def test_no_number_means_one_worker_for_each_core(start: StartGateway) -> None:
    gateway = await start("--workers", "0")
    cores = len(os.sched_getaffinity(0))
    assert cores == 1 or f", {cores} workers" in gateway.output()


async def test_a_purge_reaches_all_workers(aos: ScriptedAos, start: StartGateway, store: list[str]) -> None:
    aos.on("GET", "/", OLD)
    gateway = await start(*store)
    async with one_to_each(gateway.address, 2, A) as clients:
        async with await RawClient.connect(gateway.admin) as admin:
            body = b'{"stack_id": "%s"}' % STACK_ID.encode()
            purged = await admin.request("POST", "/purge", [("Content-Type", "application/json")], body)
        assert (purged.status, purged.json()) == (200, {"forgotten": True})
        asked = aos.count("GET")
        for client in clients:
            await hit(client, A)
        assert aos.count("GET") > asked


async def test_one_scrape_counts_every_request_once(aos: ScriptedAos, start: StartGateway) -> None:
    aos.on("GET", "/", OLD)
    aos.on("GET", "/v2/other", Answer(429))
    gateway = await start()
    async with one_to_each(gateway.address, 2, A) as clients:
        before, hits = await request_count(gateway.admin), await request_count(gateway.admin, "hit")
        for number, client in enumerate(clients):
            for _ in range(5 + number):
                await client.request("GET", TARGET, [("X-Auth-Token", A)])
            await client.request("GET", "/v2/other", [("X-Auth-Token", A)])
        assert await request_count(gateway.admin) - before == 13
        assert await request_count(gateway.admin, "hit") - hits == 11
        # A caller throttled by both workers is one caller.
        [throttled] = (await fetch(gateway.admin, "/status")).json()["throttled"]
        assert throttled["upstream"] == 2
        # What a worker has counted outlives it.
        os.kill((await pids(gateway.admin))[0], signal.SIGKILL)
        await until(lambda: "ended: SIGKILL" in gateway.output(), "its end")
        assert await request_count(gateway.admin) - before == 13


async def test_a_write_counts_for_the_other_worker_while_the_parent_is_stopped(
    aos: ScriptedAos, start: StartGateway, store: list[str]
) -> None:
    aos.on("GET", "/", OLD)
    aos.on("DELETE", "/", Answer(202))
    gateway = await start(*store)
    async with one_to_each(gateway.address, 2, A) as clients:
        os.kill(gateway.pid, signal.SIGSTOP)
        try:
            for number, (writer, reader) in enumerate((clients, clients[::-1])):
                assert (await reader.request("GET", TARGET, TOKEN)).status == 200
                async with asyncio.timeout(1):
                    assert (await writer.request("DELETE", STACK)).status == 202
                new = record(unknownField=f"new {number}")
                aos.on("GET", "/", Answer(headers=OLD.headers, body=new))
                async with asyncio.timeout(1):
                    assert (await reader.request("GET", TARGET, TOKEN)).body == new
        finally:
            os.kill(gateway.pid, signal.SIGCONT)


async def test_a_fetch_from_before_a_write_is_not_joined_while_the_parent_is_stopped(
    aos: ScriptedAos, start: StartGateway
) -> None:
    gate = aos.gate()
    aos.on("GET", "/", OLD)
    aos.on("DELETE", "/", Answer(202))
    gateway = await start()
    stopped, _ = await pids(gateway.admin)
    async with one_to_each(gateway.address, 2, A) as clients:
        reader, writer = await held_and_other(clients, stopped)
        later = await same_worker(gateway.address, reader)
        async with later:
            aos.on("GET", "/", gate.before(OLD))
            await reader.send(request_bytes("GET", TARGET, [*TOKEN, ("Accept-Language", "xy")]))
            await gate.wait_reached()
            os.kill(gateway.pid, signal.SIGSTOP)
            try:
                assert (await writer.request("DELETE", STACK)).status == 202
                aos.on("GET", "/", NEW)
                fields: Headers = [*TOKEN, ("Accept-Language", "xy")]
                assert (await later.request("GET", TARGET, fields)).body == NEW.body
            finally:
                os.kill(gateway.pid, signal.SIGCONT)
                gate.open()
            assert (await reader.read_response()).body == OLD.body


async def test_while_the_parent_is_silent_workers_start_over(aos: ScriptedAos, start: StartGateway) -> None:
    aos.on("GET", "/", OLD)
    gateway = await start()
    async with one_to_each(gateway.address, 2, A) as (one, other):
        os.kill(gateway.pid, signal.SIGSTOP)
        try:
            aos.on("GET", "/", Answer(403, body=b"no"))
            fields: Headers = [*TOKEN, ("Cache-Control", "no-cache")]
            assert (await one.request("GET", TARGET, fields)).status == 403

            async def is_refused() -> bool:
                return (await other.request("GET", TARGET, TOKEN)).status == 403

            await until(is_refused, "the fresh start", timeout_s=4.0)
        finally:
            os.kill(gateway.pid, signal.SIGCONT)


async def test_a_hung_worker_is_reported_and_delays_nothing(aos: ScriptedAos, start: StartGateway) -> None:
    aos.on("GET", "/", OLD)
    aos.on("DELETE", "/", Answer(202))
    gateway = await start()
    stopped, _ = await pids(gateway.admin)
    async with one_to_each(gateway.address, 2, A) as clients:
        os.kill(stopped, signal.SIGSTOP)
        try:
            health = (await fetch(gateway.admin, "/readyz")).json()
            assert health["ready"]
            assert [each["ready"] for each in health["workers"]] == [False, True]
            async with asyncio.timeout(1):
                deleting = [asyncio.create_task(each.request("DELETE", STACK)) for each in clients]
                done, _ = await asyncio.wait(deleting, return_when=asyncio.FIRST_COMPLETED)
            assert done.pop().result().status == 202
        finally:
            os.kill(stopped, signal.SIGCONT)
        await asyncio.gather(*deleting)


async def test_the_admin_side_works_while_all_workers_hang(start: StartGateway) -> None:
    gateway = await start()
    workers = await pids(gateway.admin)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(4):
            assert (await fetch(gateway.admin, "/healthz")).status == 200
            ready = await fetch(gateway.admin, "/readyz")
            assert (await fetch(gateway.admin, "/metrics")).status == 200
        assert ready.status == 503
        assert [each["ready"] for each in ready.json()["workers"]] == [False, False]
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


async def test_a_worker_stopped_for_a_moment_does_not_serve_what_was_invalidated_meanwhile(
    aos: ScriptedAos, start: StartGateway, store: list[str]
) -> None:
    aos.on("DELETE", "/", Answer(202))
    gateway = await start(*store)
    stopped, _ = await pids(gateway.admin)
    for _ in range(3):
        aos.on("GET", "/", OLD)
        async with one_to_each(gateway.address, 2, A) as clients:
            held, other = await held_and_other(clients, stopped)
            await hit(held, A)
            os.kill(stopped, signal.SIGSTOP)
            try:
                assert (await other.request("DELETE", STACK)).status == 202
                aos.on("GET", "/", NEW)
                await held.send(ASKING)
            finally:
                os.kill(stopped, signal.SIGCONT)
            assert (await held.read_response()).body == NEW.body


async def held_and_other(clients: list[RawClient], pid: int) -> tuple[RawClient, RawClient]:
    """Find out which of two connections leads to a process."""
    os.kill(pid, signal.SIGSTOP)
    try:
        asked = [asyncio.create_task(each.request("GET", TARGET, TOKEN)) for each in clients]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        other = next(index for index, each in enumerate(asked) if each.done())
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.gather(*asked)
    return clients[1 - other], clients[other]


async def same_worker(address: str, client: RawClient) -> RawClient:
    """Connect until that leads to the worker that a connection leads to."""
    worker = worker_of(await hit(client, A))
    for _ in range(200):
        other = await RawClient.connect(address)
        if worker_of(await hit(other, A)) == worker:
            return other
        await other.close()
    raise AssertionError("no second connection to that worker")


async def test_workers_share_unix_sockets(aos: ScriptedAos, socket_folder: Path) -> None:
    aos.on("GET", "/", OLD)
    path, admin = socket_folder / "gateway.sock", socket_folder / "admin.sock"
    gateway = GatewayProcess(
        *("--upstream", aos.url, "--workers", "2"), "--listen", f"unix:{path}", "--admin", f"unix:{admin}"
    )
    try:
        await gateway.ready()
        async with one_to_each(f"unix:{path}", 2, A):
            os.kill((await pids(f"unix:{admin}"))[0], signal.SIGTERM)
            await until(lambda: gateway.output().count(" serves, process") == 3, "the new worker")
        async with one_to_each(f"unix:{path}", 2, A):
            pass
        assert await gateway.stop() == 0
        assert not path.exists()
        assert not admin.exists()
    finally:
        gateway.discard()
