"""Log lines and output never block, and lost lines are counted."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gateway.telemetry.line_writer import LineWriter
from tests.store.kit import until
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch
from tests.testbed.gateway import GatewayProcess

_PAGE = 4_096
_WAIT_S = 10.0


class Pipe:
    """The smallest possible pipe; it is read only when the test does."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, _PAGE)
        os.set_blocking(self.reading, False)
        self.text = ""

    def read(self) -> str:
        """Take what is there; return everything that has come so far."""
        try:
            while data := os.read(self.reading, 1_048_576):
                self.text += data.decode()
        except BlockingIOError:
            pass
        return self.text

    def read_until(self, is_true: Callable[[str], bool]) -> str:
        """Read until what has come is as wanted."""
        ends_s = time.monotonic() + _WAIT_S
        while not is_true(self.read()):
            assert time.monotonic() < ends_s, self.text[-500:]
            time.sleep(0.001)
        return self.text

    def close(self) -> None:
        for end in (self.reading, self.writing):
            os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def _wait_for(is_true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + _WAIT_S
    while not is_true():
        assert time.monotonic() < ends_s
        time.sleep(0.001)


@pytest.mark.parametrize("is_blocking", [True, False], ids=["blocking", "made non-blocking by another"])
def test_a_reader_that_stalls_blocks_no_writer_and_gets_the_number_of_lost_lines(
    pipe: Pipe, *, is_blocking: bool
) -> None:
    os.set_blocking(pipe.writing, is_blocking)
    writer = LineWriter(pipe.writing, most_bytes=20_000)
    writer.lost_line = "lost {}".format
    lines = [f"{number} {'x' * 100}" for number in range(1_000)]
    began_s = time.monotonic()
    for line in lines:
        writer.write(line)
    writer.flush(0.05)
    assert time.monotonic() - began_s < _WAIT_S / 2
    assert writer.lost > 700
    kept = len(lines) - writer.lost
    pipe.read_until(lambda text: text.endswith("\n") and "lost" in text)
    writer.write("after")
    reported = pipe.read_until(lambda text: text.endswith("after\n")).splitlines()
    assert reported == [*lines[:kept], f"lost {writer.lost}", "after"]


def test_a_full_disk_costs_lines_and_the_first_one_that_fits_again_is_followed_by_their_number(
    pipe: Pipe,
) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = LineWriter(descriptor)
        writer.lost_line = "lost {}".format
        for count in (1, 2):
            writer.write("gone")
            _wait_for(lambda count=count: writer.lost == count)  # type: ignore[misc]
        os.dup2(pipe.writing, descriptor)
        writer.write("there")
        pipe.read_until(lambda text: text == "there\nlost 2\n")
        writer.flush()
    finally:
        os.close(descriptor)


def test_a_reader_that_has_left_costs_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.lost_line = "lost {}".format
    writer.write("gone")
    _wait_for(lambda: writer.lost == 1)
    writer.flush()
    assert writer.has_no_reader
    os.close(writing)


def _writing_to(pipe: Pipe) -> Sequence[str]:
    program = f"import os, sys; os.dup2({pipe.writing}, 2); os.execvp(sys.argv[1], sys.argv[1:])"
    return (sys.executable, "-c", program)


@pytest.mark.operation
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_unread_log_blocks_no_response_no_scrape_and_no_exit(
    aos: ScriptedAos, pipe: Pipe, workers: str
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    process = GatewayProcess(
        *("--upstream", aos.url, "--workers", workers),
        launcher=_writing_to(pipe),
        pass_fds=[pipe.writing],
    )

    async def is_ready() -> bool:
        try:
            return (await fetch(process.admin, "/readyz")).status == 200
        except OSError:
            return False

    async def dropped() -> int:
        text = (await fetch(process.admin, "/metrics")).body
        match = re.search(rb"log_lines_dropped_total (\d+)", text)
        assert match is not None
        return int(match[1])

    try:
        await until(is_ready, "it serves", timeout_s=_WAIT_S)
        async with await RawClient.connect(process.address) as client:
            while not await dropped():
                for _ in range(500):
                    headers = [("X-Auth-Token", "a"), ("X-Request-Id", "r" * 128)]
                    assert (await client.request("GET", TARGET, headers)).status == 200
        assert (await fetch(process.admin, "/healthz")).status == 200
        os.kill(process.pid, signal.SIGTERM)
        assert await process.ended() == 0
        reported = pipe.read().splitlines()
    finally:
        process.discard()
    assert any('"serving ' in line for line in reported)


@pytest.mark.operation
@pytest.mark.parametrize("kind", ["a full disk", "no reader", "closed"])
async def test_a_log_that_cannot_be_written_stops_nothing(aos: ScriptedAos, kind: str) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    reading, writing = os.pipe()
    os.close(reading)
    done = {
        "a full disk": "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
        "no reader": f"os.dup2({writing}, 2)",
        "closed": "os.close(2)",
    }[kind]
    program = f"import os, sys; {done}; os.execvp(sys.argv[1], sys.argv[1:])"
    process = GatewayProcess(
        "--upstream", aos.url, launcher=(sys.executable, "-c", program), pass_fds=[writing]
    )
    os.close(writing)

    async def is_answered() -> bool:
        try:
            return (await fetch(process.address, TARGET, token="a")).status == 200
        except OSError:
            return False

    try:
        await until(is_answered, "it serves", timeout_s=_WAIT_S)
        for _ in range(20):
            answer = await fetch(process.address, TARGET, token="a")
            assert (answer.status, answer.body) == (200, record())
    finally:
        process.discard()


@pytest.mark.operation
def test_what_a_command_prints_never_blocks_either(pipe: Pipe) -> None:
    """Tracebacks, warnings and prints go the same way, and so does what is said last."""
    program = """
import sys, warnings
from gateway.telemetry.line_writer import unblock_standard_streams
unblock_standard_streams()
for _ in range(100):
    print("p" * 1000)
    warnings.warn("w" * 1000, stacklevel=1)
    warnings.resetwarnings()
    sys.stderr.write("e" * 1000)
raise ValueError("the end")
"""
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[1]
    began_s = time.monotonic()
    done = subprocess.run(
        command, stdout=pipe.writing, stderr=pipe.writing, timeout=_WAIT_S, check=False, cwd=root
    )
    assert done.returncode == 1
    assert time.monotonic() - began_s < _WAIT_S / 2
    captured = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S, check=False, cwd=root)
    assert captured.stdout == ("p" * 1000 + "\n") * 100
    assert captured.stderr.rstrip().endswith("ValueError: the end")


@pytest.mark.operation
async def test_the_twin_serves_with_its_output_unread(pipe: Pipe, free_port: int) -> None:
    os.set_blocking(pipe.writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe.writing, b"x" * _PAGE)
    os.set_blocking(pipe.writing, True)
    address = f"127.0.0.1:{free_port}"
    command = [sys.executable, "-m", "gateway", "twin", "--listen", address]
    with subprocess.Popen(command, stdout=pipe.writing, stderr=pipe.writing) as process:

        async def is_answered() -> bool:
            try:
                return (await fetch(address, "/v2/stacks", token="demo:alice")).status == 200
            except OSError:
                return False

        try:
            await until(is_answered, "it serves", timeout_s=_WAIT_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(_WAIT_S) == 0
        finally:
            process.kill()


@pytest.mark.operation
async def test_lines_of_several_workers_stay_whole(aos: ScriptedAos, pipe: Pipe) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    process = GatewayProcess("--upstream", aos.url, "--workers", "2")
    try:
        await process.ready()
        for _ in range(20):
            async with await RawClient.connect(process.address) as client:
                for _ in range(20):
                    await client.request("GET", TARGET, [("X-Auth-Token", "a")])
        assert await process.stop() == 0
        lines = [json.loads(line) for line in process.output().splitlines()]
    finally:
        process.discard()
    assert sum(line["logger"] == "gateway.access" for line in lines) == 400
    assert lines[-1]["message"] == "stopped"
