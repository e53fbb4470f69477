"""Socket activation and notification, with this test in place of systemd."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.errors import ConfigError
from gateway.runtime.systemd import Activation, Notifier
from tests.store.kit import until
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import fetch
from tests.testbed.gateway import GatewayProcess
from tests.testbed.secrets import token

A = token("a")
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())
# Moves descriptors to where systemd puts them, and says so.
LAUNCH = """
import os, sys
names, descriptors, *command = sys.argv[1:]
moved = [os.dup(int(each)) for each in descriptors.split(",")]
for index, each in enumerate(moved):
    os.dup2(each, 100 + index)
for index in range(len(moved)):
    os.dup2(100 + index, 3 + index)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(moved)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


class Manager:
    """The notification socket."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    async def reported(self) -> list[str]:
        """The lines of the next message that is no sign of life."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(8):
            while True:
                lines = (await loop.sock_recv(self._socket, 4096)).decode().split("\n")
                if lines != ["WATCHDOG=1"]:
                    return lines

    async def sign_of_life(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(8):
            while await loop.sock_recv(self._socket, 4096) != b"WATCHDOG=1":
                pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(socket_folder: Path) -> Iterator[Manager]:
    reported = Manager(socket_folder / "notify")
    yield reported
    reported.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_service_says_how_it_is(aos: ScriptedAos, manager: Manager, workers: str) -> None:
    aos.on("GET", "/", OLD)
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    gateway = GatewayProcess("--upstream", aos.url, "--workers", workers, environ=environ)
    try:
        assert await manager.reported() == ["READY=1"]
        await manager.sign_of_life()
        os.kill(gateway.pid, signal.SIGHUP)
        reloading, since = await manager.reported()
        assert reloading == "RELOADING=1"
        assert since.startswith("MONOTONIC_USEC=")
        assert await manager.reported() == ["READY=1"]
        os.kill(gateway.pid, signal.SIGUSR2)
        ready, main_pid = await manager.reported()
        assert ready == "READY=1"
        pid = int(main_pid.removeprefix("MAINPID="))
        assert pid != gateway.pid
        # The one before has said nothing of its end: the service goes on.
        assert await gateway.ended() == 0
        await manager.sign_of_life()
        os.kill(pid, signal.SIGTERM)
        assert await manager.reported() == ["STOPPING=1"]
    finally:
        gateway.discard()


async def test_sockets_that_systemd_has_opened_are_served_and_taken_over(
    aos: ScriptedAos, socket_folder: Path
) -> None:
    aos.on("GET", "/", OLD)
    with socket.create_server(("127.0.0.1", 0)) as listen, socket.socket(socket.AF_UNIX) as admin:
        path = socket_folder / "admin.sock"
        admin.bind(str(path))
        admin.listen()
        address = f"127.0.0.1:{listen.getsockname()[1]}"
        descriptors = (listen.fileno(), admin.fileno())
        gateway = GatewayProcess(
            *("--upstream", aos.url),
            launcher=(sys.executable, "-c", LAUNCH, "http:admin", ",".join(map(str, descriptors))),
            pass_fds=descriptors,
        )
        pid = 0
        try:
            await gateway.ready()
            assert f"on {address}, admin on unix:{path}" in gateway.output()
            assert (await fetch(address, TARGET, token=A)).status == 200
            assert (await fetch(f"unix:{path}", "/readyz")).status == 200
            os.kill(gateway.pid, signal.SIGHUP)
            await until(lambda: "reloaded" in gateway.output(), "the reload")
            assert "need a restart" not in gateway.output()
            os.kill(gateway.pid, signal.SIGUSR2)
            assert await gateway.ended() == 0
            pid = int(gateway.output().partition(" has taken over")[0].rpartition(" ")[2])
            assert (await fetch(address, TARGET, token=A)).status == 200
            assert (await fetch(f"unix:{path}", "/readyz")).status == 200
            os.kill(pid, signal.SIGTERM)
            await until(lambda: gateway.output().count("stopped") == 2, "the end")
            # The file is systemd's.
            assert path.exists()
        finally:
            gateway.discard()


def test_what_is_meant_for_another_process_is_left_alone_and_taken_out() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "WATCHDOG_PID": "1", "A": "b"}
    activation = Activation(environ, 2)
    assert (activation.listen, activation.admin) == ([], [])
    assert Notifier(environ | {"WATCHDOG_USEC": "1"}, 2).watchdog_s == 0
    assert Notifier({"WATCHDOG_USEC": "2000000"}, 2).watchdog_s == 2
    assert "LISTEN_FDS" not in environ


def test_a_descriptor_that_does_not_listen_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        monkeypatch.setattr("gateway.runtime.systemd._FIRST_DESCRIPTOR", silent.fileno())
        with pytest.raises(ConfigError, match="is no listening stream socket"):
            Activation({"LISTEN_PID": "2", "LISTEN_FDS": "1"}, 2)


def test_the_socket_that_most_can_reach_stands_for_all(
    monkeypatch: pytest.MonkeyPatch, socket_folder: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as loopback:
        unix.bind(str(socket_folder / "g.sock"))
        unix.listen()
        with socket.create_server(("0.0.0.0", 0)) as network:
            # Where nothing else is.
            descriptors = [900, 901, 902]
            for descriptor, given in zip(descriptors, (unix, loopback, network), strict=True):
                os.dup2(given.fileno(), descriptor)
            monkeypatch.setattr("gateway.runtime.systemd._FIRST_DESCRIPTOR", 900)
            try:
                activation = Activation({"LISTEN_PID": "2", "LISTEN_FDS": "3"}, 2)
                assert activation.listen == descriptors[::-1]
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)


def test_a_notification_socket_without_a_reader_is_ignored(socket_folder: Path) -> None:
    Notifier({}, 1).ready()
    Notifier({"NOTIFY_SOCKET": str(socket_folder / "nobody")}, 1).stopping()


async def test_a_notification_that_systemd_does_not_accept_is_sent_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.runtime.systemd._RETRY_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"WATCHDOG=1", manager.address)
    notifier = Notifier({"NOTIFY_SOCKET": manager.address}, 1)
    notifier.reloading()
    notifier.ready()
    telling = asyncio.create_task(notifier.keep_alive())
    assert (await manager.reported())[0] == "RELOADING=1"
    assert await manager.reported() == ["READY=1"]
    telling.cancel()


async def test_an_abstract_address_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0aosgw-test-" + token("notify").hex()[:16])
        listening.settimeout(2)
        name = listening.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}, 1).ready(main_pid=7)
        assert listening.recv(100) == b"READY=1\nMAINPID=7"
