"""Hundreds of slow peers and ten thousand idle ones: the others are served, and in the end all are gone."""

import asyncio
import contextlib
import errno
import resource
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.testbed import address as addresses
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, never, record
from tests.testbed.client import RawClient, request_bytes
from tests.testbed.gateway import GatewayProcess, StartGateway
from tests.testbed.process import descriptors, gauges, rss_bytes
from tests.testbed.slow_peers import Slow, slow_peers

_TOKEN = ("X-Auth-Token", "alice")
_RUNNING = f"/v2/stacks/{STACK_ID}/actions/running"
_BIG = f"/v2/stacks/{STACK_ID}/actions/big"
_INTERVAL_S = 0.5
_UPLOAD = request_bytes("POST", "/v2/stacks", [_TOKEN, ("Content-Length", "1000000")])


@pytest.fixture
def start(aos: ScriptedAos, start_gateway: StartGateway) -> StartGateway:
    """Start a gateway as a process of its own, with settings by `section__key`."""
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("GET", _RUNNING, Answer(body=record("Running", name="running")))
    aos.on("GET", _BIG, Answer(body=record(name="big", padding="x" * 1_000_000)))
    return partial(start_gateway, log__access="off")


async def _served(gateway: GatewayProcess, times: int) -> None:
    """Make requests that are hits and requests that are forwarded; all must be answered soon."""
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(times):
            hit = await client.request("GET", TARGET, [_TOKEN])
            assert (hit.status, hit.body) == (200, record())
            assert b"; hit" in hit.all("Cache-Status")[-1]
            forwarded = await client.request("GET", _RUNNING, [_TOKEN])
            assert (forwarded.status, forwarded.body) == (200, record("Running", name="running"))


async def _rested(gateway: GatewayProcess, within_s: float, at_most: int | None = None) -> int:
    """Wait until no caller is connected, and return how many descriptors are open.

    Args:
        gateway: the process.
        within_s: by when.
        at_most: wait also until there are no more descriptors than that.
    """
    async with asyncio.timeout(within_s):
        while True:
            found = await gauges(gateway.admin)
            count = descriptors(gateway.pid)
            if not found["connections"] and (at_most is None or count <= at_most):
                return count
            await asyncio.sleep(0.05)


async def _warm(gateway: GatewayProcess) -> None:
    async with await RawClient.connect(gateway.address) as client:
        for target in (TARGET, _RUNNING, _BIG):
            assert (await client.request("GET", target, [_TOKEN])).status == 200


async def test_600_slow_peers_do_not_hold_up_the_others_and_are_gone_after_their_deadlines(
    aos: ScriptedAos, start: StartGateway
) -> None:
    # Longer than it takes to open them all, on a slow machine too.
    deadline_s = 5
    gateway = await start(server__header_timeout_s=deadline_s, server__body_timeout_s=deadline_s)
    await _warm(gateway)
    base = await _rested(gateway, 5)
    memory = rss_bytes(gateway.pid)
    # More than the kernel takes on behalf of those who do not read.
    big = request_bytes("GET", _BIG, [_TOKEN]) * 8
    async with slow_peers(gateway.address, 200, read=big, upload=_UPLOAD, step_s=None) as peers:
        assert len(peers) == 600
        await aos.wait_until(lambda: len(aos.heads) >= 203, "the slow bodies to be on their way", 10)
        assert (await gauges(gateway.admin))["connections"] == 600
        await _served(gateway, 50)
        # A copy of the big record for each who reads slowly would be 400 MB.
        assert rss_bytes(gateway.pid) - memory < 64 << 20
        # Twice their deadline, and the second in which a refused peer may still read.
        assert await _rested(gateway, 2 * deadline_s + 5, base) <= base
        answered = [peer.slow for peer in peers if peer.received.startswith(b"HTTP/1.1 408 ")]
        assert answered.count(Slow.HEAD) == answered.count(Slow.BODY) == 200
    # The uploads that broke off did so upstream too.
    await aos.wait_until(lambda: len(aos.cut) == 200, "the uploads to be cut")
    await _served(gateway, 1)


@pytest.fixture
def many() -> Iterator[int]:
    """How many connections this process and a gateway can have: 10,000, or what the hard limit leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = 500
    wanted = 10_000 + others
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        print(f"the hard limit of open files, {hard}, leaves {limit - others} connections instead of 10,000")
    yield limit - others
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _connect(host: str, port: int) -> socket.socket:
    """Connect from the first loopback address that has a port left."""
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
        try:
            return socket.create_connection((host, port), 10, (source, 0))
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EADDRINUSE}:
                raise
    raise OSError(errno.EADDRNOTAVAIL, "no port is left")


def _idle(address: str, count: int, held: list[socket.socket]) -> None:
    """Open connections; every other one makes a request first and reads its answer."""
    where = addresses.split(address)
    assert not isinstance(where, str)
    body = record()
    for number in range(count):
        sock = _connect(*where)
        held.append(sock)
        if number % 2:
            sock.sendall(request_bytes("GET", TARGET, [_TOKEN]))
            answer = b""
            while not answer.endswith(body):
                piece = sock.recv(65536)
                assert piece, f"connection {number} was closed"
                answer += piece


def _are_closed(held: list[socket.socket]) -> bool:
    return all(sock.recv(1) == b"" for sock in held)


async def test_10000_idle_connections_are_held_in_little_memory_and_closed_at_drain(
    start: StartGateway, many: int
) -> None:
    gateway = await start(server__header_timeout_s=60)
    await _warm(gateway)
    await _served(gateway, 10)
    before = rss_bytes(gateway.pid)
    held: list[socket.socket] = []
    try:
        began_s = time.monotonic()
        await asyncio.to_thread(_idle, gateway.address, many, held)
        opened_s = time.monotonic() - began_s
        assert (await gauges(gateway.admin))["connections"] == many
        each_bytes = (rss_bytes(gateway.pid) - before) / many
        await _served(gateway, 100)
        assert (await gauges(gateway.admin))["connections"] >= many
        print(f"{many} idle connections: {each_bytes / 1024:.1f} KiB each, opened in {opened_s:.1f} s")
        assert each_bytes < 40 * 1024
        assert await gateway.stop() == 0
        assert await asyncio.to_thread(_are_closed, held)
    finally:
        for sock in held:
            sock.close()


def _ask(held: list[socket.socket], target: str) -> None:
    for sock in held:
        sock.sendall(request_bytes("GET", target, [_TOKEN, ("Prefer", "wait=50")]))


def _answers(held: list[socket.socket], body: bytes) -> int:
    """Read an answer from each connection, and return how many have this body."""
    count = 0
    for sock in held:
        sock.settimeout(10)
        answer = b""
        while not answer.endswith(body) and (piece := sock.recv(65_536)):
            answer += piece
        count += answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(body)
    return count


async def test_1000_callers_who_wait_cost_one_call_an_interval_and_little_memory(
    aos: ScriptedAos, start: StartGateway
) -> None:
    many, later = 1000, f"{_RUNNING}-later"
    gateway = await start(
        server__header_timeout_s=60, wait__interval_s=_INTERVAL_S, wait__max_interval_s=_INTERVAL_S
    )
    await _warm(gateway)
    await _served(gateway, 10)
    before = rss_bytes(gateway.pid)
    held: list[socket.socket] = []

    async def wait_for(target: str) -> None:
        await asyncio.to_thread(_ask, held, target)
        async with asyncio.timeout(20):
            while (await gauges(gateway.admin))["waiting_callers"] < many:
                await asyncio.sleep(0.1)

    try:
        where = addresses.split(gateway.address)
        assert not isinstance(where, str)
        await asyncio.to_thread(lambda: held.extend(_connect(*where) for _ in range(many)))
        await wait_for(_RUNNING)
        each_bytes = (rss_bytes(gateway.pid) - before) / many
        calls, began_s = aos.count("GET", _RUNNING), time.monotonic()
        await aos.wait_until(lambda: aos.count("GET", _RUNNING) > calls, "the poller's next call")
        aos.on("GET", _RUNNING, Answer(body=record(name="running")))
        assert await asyncio.to_thread(_answers, held, record(name="running")) == many
        assert aos.count("GET", _RUNNING) - calls <= (time.monotonic() - began_s) / _INTERVAL_S + 1
        print(f"{many} waiting callers: {each_bytes / 1024:.1f} KiB each")
        assert each_bytes < 25_000
        aos.on("GET", later, Answer(body=record("Running", name="running-later")))
        await wait_for(later)
        assert await gateway.stop() == 0
        assert await asyncio.to_thread(_answers, held, record("Running", name="running-later")) == many
    finally:
        for sock in held:
            sock.close()


_HEAD = b"POST /v2/stacks HTTP/1.1\r\nHost: h\r\n"
_FULL = _HEAD + b"a:\r\n" * 500
# With what 250 of them may make of a gateway, in MiB; it needs some 55 by itself.
_COSTLY = {
    "fields without end": (_HEAD + b"a:\r\n" * 15_000, 100),
    "long fields": (_HEAD + (b"a: " + b"x" * 115 + b"\r\n") * 500, 100),
    "heads behind one": (_FULL + b"Content-Length: 1\r\n\r\na" + (_FULL + b"\r\n") * 28, 150),
}


def _send(address: str, data: bytes, held: list[socket.socket]) -> None:
    where = addresses.split(address)
    assert not isinstance(where, str)
    for _ in range(250):
        held.append(_connect(*where))
        with contextlib.suppress(ConnectionError):  # it was refused
            held[-1].sendall(data)


@pytest.mark.parametrize(("data", "most_mib"), _COSTLY.values(), ids=_COSTLY.keys())
async def test_heads_cost_no_multiple_of_their_bytes_before_their_turn(
    aos: ScriptedAos, start: StartGateway, data: bytes, most_mib: int
) -> None:
    aos.on("POST", "/v2/stacks", never)
    gateway = await start(server__header_timeout_s=60)
    held: list[socket.socket] = []
    try:
        await asyncio.to_thread(_send, gateway.address, data, held)
        await _warm(gateway)
        assert rss_bytes(gateway.pid) >> 20 < most_mib
    finally:
        for sock in held:
            sock.close()


async def test_silent_admin_connections_leave_descriptors_to_callers_and_answers_to_probes(
    start: StartGateway,
) -> None:
    gateway = await start(server__max_connections=100)
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (300, 300))
    where = addresses.split(gateway.admin)
    assert not isinstance(where, str)
    held: list[socket.socket] = []
    try:
        for _ in range(290):
            held.append(socket.create_connection(where, 5))
        for _ in range(5):
            await _warm(gateway)
            assert "connections" in await gauges(gateway.admin)
    finally:
        for sock in held:
            sock.close()


async def test_idle_connections_are_closed_by_their_deadline(start: StartGateway) -> None:
    gateway = await start(server__keepalive_timeout_s=1, server__header_timeout_s=1)
    await _warm(gateway)
    base = await _rested(gateway, 5)
    held: list[socket.socket] = []
    try:
        await asyncio.to_thread(_idle, gateway.address, 1000, held)
        assert await _rested(gateway, 5, base) <= base
        assert await asyncio.to_thread(_are_closed, held)
    finally:
        for sock in held:
            sock.close()
