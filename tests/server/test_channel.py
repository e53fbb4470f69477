"""The socket pair between the parent and a worker."""

import asyncio
import signal
import socket
import subprocess
import sys

import pytest

from gateway.config.sources import RawSetting
from gateway.server.channel import Channel
from gateway.server.messages import (
    FinalState,
    Invalidate,
    Message,
    Ping,
    Purge,
    Ready,
    Reload,
    Response,
    Start,
    State,
    StateRequest,
    Stop,
    pack,
    read,
)
from gateway.server.worker_process import WorkerProcess
from gateway.store.peers import Invalidation
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.snapshot import unlabelled

MESSAGES: tuple[Message, ...] = (
    Start(1, {"server.workers": RawSetting(value=2, is_text=False, source="file")}),
    Reload(2, {}),
    Stop(is_handover=True),
    Stop(at_once=True),
    StateRequest(3),
    Purge(4, "stack"),
    Ping(),
    Ready(is_serving=True),
    Invalidate(1, 5, [Invalidation(stack=b"s", settles=True), Invalidation(entry=b"e")]),
    Response(6, "x" * 1_000_000),
    Response(7, True),
    FinalState(State(is_ready=True)),
)


async def test_messages_arrive_whole_and_in_order_and_then_the_end() -> None:
    one, other = socket.socketpair()
    here, there = await Channel.over(one), await Channel.over(other)
    for message in MESSAGES:
        here.send(message)
    for message in MESSAGES:
        assert await there.receive() == message
    here.close()
    assert await there.receive() is None
    there.send(Ping())
    there.close()
    there.send(Ping())


async def test_a_peer_that_reads_nothing_bounds_the_buffer_and_blocks_nobody() -> None:
    one, other = socket.socketpair()
    with other:
        channel = await Channel.over(one)
        async with asyncio.timeout(5):
            sent = 0
            while channel.send(Response(1, "x" * 1_000_000)):
                sent += 1
                assert sent < 20
            await channel.flush()
        assert not channel.send(Ping())
        channel.close()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\7abc", b"\0"])
async def test_malformed_data_ends_the_channel(data: bytes) -> None:
    one, other = socket.socketpair()
    channel = await Channel.over(other)
    with one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        assert await channel.receive() is None
    channel.close()


async def test_a_response_reaches_its_request_alone() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    one, other = socket.socketpair()
    its = await Channel.over(other)
    worker = WorkerProcess(1, process, await Channel.over(one), lambda *_: None, lambda _: None)
    running = asyncio.create_task(worker.run())

    async def requested(kind: type[Purge | Reload]) -> int:
        while not isinstance(message := await its.receive(), kind):
            pass
        return message.request_id

    assert await worker.reload({}, 0.01) is None
    late = await requested(Reload)
    purging = [asyncio.create_task(worker.purge(stack, 10.0)) for stack in ("first", "second", "third")]
    first, second, _ = [await requested(Purge) for _ in purging]
    for request_id, body in ((late, "late"), (second, True), (second, False), (first, False)):
        its.send(Response(request_id, body))
    assert await asyncio.gather(*purging[:2]) == [False, True]
    # Of a worker that ends none comes any more.
    process.kill()
    its.close()
    assert await running == -signal.SIGKILL
    assert await purging[2] is None


def test_a_state_survives_encoding() -> None:
    counted = Metrics().snapshot() | unlabelled({"connections": 3, "redis_up": True})
    state = State(is_ready=True, health={"redis": "up", "pending_invalidations": 0}, metrics=counted)
    assert read(pack(FinalState(state))) == FinalState(state)


async def test_a_worker_that_reads_no_messages_is_killed_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = socket.socketpair()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    with other:
        channel = await Channel.over(one)
        worker = WorkerProcess(1, process, channel, lambda *_: None, lambda _: None)
        for _ in range(12):
            worker.send(Response(1, "x" * 1_000_000))
        async with asyncio.timeout(5):
            assert await process.wait() == -signal.SIGKILL
        channel.close()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"worker 1, process {process.pid}, takes no messages any more: it is killed"]
