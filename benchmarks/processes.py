"""The processes of a measurement: started on free ports, pinned to a core, watched, and ended with it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from tests.support.address import free_port
from tests.support.redis_binary import find_redis_server

from . import tree

ROOT: Final = Path(__file__).parent.parent
LOOPBACK: Final = "127.0.0.1"
SERVER_CPU: Final = 0
LOAD_CPU: Final = 1

_SHARED_MEMORY = "/dev/shm"
_START_S = 15.0
_STOP_S = 5.0
_LOG_TAIL = 800

Ready = Callable[[], bool]


class StartError(Exception):
    """A process ended before it was ready, or did not get ready in time; the text has the end of its log."""


class Child:
    """One process that the harness has started.

    Attributes:
        name: what it is called in reports.
        log: the file with everything it wrote.
        started_s: the seconds from its start until it was ready.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self.started_s = 0.0
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code; `None` while it lives, negative for a signal."""
        return self._process.poll()

    def output(self) -> str:
        """Return everything it wrote so far."""
        return self.log.read_text("utf-8", "replace")

    def cpu_s(self) -> float:
        """Return the CPU seconds, user and system, of its whole process tree so far."""
        return tree.cpu_s(self.pid)

    def rss_bytes(self) -> int:
        """Return the resident memory of its whole process tree."""
        return tree.rss_bytes(self.pid)

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends by itself, and return its exit code.

        Raises:
            TimeoutError: it has not.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} did not end within {timeout_s:g} s") from error

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL), and its descendants."""
        self._signal_all(tree.tree(self.pid), signal.SIGKILL)
        self._process.wait(_STOP_S)

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Ask it to end (SIGTERM), and end what is left of its tree by force after the deadline."""
        family = tree.tree(self.pid)
        if self.is_running:
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._signal_all(family, signal.SIGKILL)
        self._process.wait(_STOP_S)

    @staticmethod
    def _signal_all(family: Sequence[tree.Stat], number: signal.Signals) -> None:
        for one in family:
            now = tree.stat(one.pid)
            # The same id may be another process by now.
            if now is not None and now.began == one.began:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, number)


class Processes:
    """All processes of one run; leaving the ``with`` block ends them, the last one started first.

    Attributes:
        folder: for their logs and files; removed at the end.
    """

    def __init__(self) -> None:
        # A cache in files should not be measured against the disk, when there is a place in memory.
        shared = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else None
        self._temporary = tempfile.TemporaryDirectory(
            prefix="aosgw-bench-", dir=shared, ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        self._children: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def children(self) -> tuple[Child, ...]:
        """All that were started and not stopped yet, the oldest first."""
        return tuple(self._children)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cpu: int | None = None,
        ready: Ready | None = None,
        cwd: Path = ROOT,
        timeout_s: float = _START_S,
    ) -> Child:
        """Start one process and wait until it is ready.

        Args:
            name: what it is called.
            argv: program and arguments.
            env: variables beside those of this process; `AOS_GATEWAY_*` of this process are not passed on.
            cpu: the core that it and its children have to themselves; `None` or a core that this machine
                has not leaves it unpinned.
            ready: asked again and again; `None` takes it as ready at once.
            cwd: its working directory.
            timeout_s: seconds until it must be ready.

        Raises:
            StartError: it is not.
        """
        log = self.folder / f"{len(list(self.folder.glob('*.log'))):02d}-{name.replace('/', '_')}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AOS_GATEWAY_")}
        began_s = time.monotonic()
        with log.open("wb") as output, pinned(cpu):
            process = subprocess.Popen(
                [str(part) for part in argv],
                cwd=cwd,
                env={**kept, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the harness, which then ends them in order.
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        try:
            self._until_ready(child, ready, timeout_s)
        except BaseException:
            self.stop(child)
            raise
        child.started_s = time.monotonic() - began_s
        return child

    def stop(self, child: Child) -> None:
        """End one process before the others."""
        child.stop()
        self._children = [other for other in self._children if other is not child]

    def close(self) -> None:
        """End all of them and remove the folder; an interruption meanwhile does not leave one behind."""
        try:
            while self._children:
                self.stop(self._children[-1])
        finally:
            for child in self._children:
                child.kill()
            self._temporary.cleanup()

    @staticmethod
    def _until_ready(child: Child, ready: Ready | None, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while ready is not None and not ready():
            if not child.is_running:
                raise StartError(f"{child.name} ended at once: {child.output()[-_LOG_TAIL:].strip()}")
            if time.monotonic() > deadline_s:
                tail = child.output()[-_LOG_TAIL:].strip()
                raise StartError(f"{child.name} was not ready within {timeout_s:g} s: {tail}")
            time.sleep(0.005)


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Have what is started inside the block run on one core; without that core, change nothing."""
    # Linux alone has affinities; a child inherits that of the thread which starts it.
    if cpu is None or sys.platform != "linux" or cpu not in os.sched_getaffinity(0):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def accepts(address: str) -> Ready:
    """Return the check whether something accepts connections on an address.

    Args:
        address: ``host:port`` or ``unix:/path``.
    """

    def check() -> bool:
        with suppress(OSError):
            if address.startswith("unix:"):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(address.removeprefix("unix:"))
                return True
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=1.0):
                return True
        return False

    return check


def get(url: str, timeout_s: float = 5.0, **headers: str) -> tuple[int, bytes]:
    """GET an http:// URL once and return status and body; no proxy of the environment has a say.

    Args:
        url: what to fetch.
        timeout_s: deadline in seconds between two bytes.
        headers: fields, `_` for `-`.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port, timeout=timeout_s)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answers_200(url: str) -> Ready:
    """Return the check whether a URL answers 200."""

    def check() -> bool:
        try:
            return get(url, 1.0)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    return check


class Origin:
    """An upstream of constant cost in a process of its own: `python -m benchmarks.origin`.

    Attributes:
        address: ``host:port``.
        url: the same as a URL.
        child: its process.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        delay_ms: float = 0.0,
        body_bytes: int | None = None,
        cpu: int | None = LOAD_CPU,
        name: str = "origin",
    ) -> None:
        self.address = f"{LOOPBACK}:{free_port()}"
        self.url = f"http://{self.address}"
        argv = [sys.executable, "-m", "benchmarks.origin", "--listen", self.address]
        argv += ["--delay-ms", str(delay_ms)]
        argv += ["--body-bytes", str(body_bytes)] if body_bytes else []
        self.child = processes.start(name, argv, cpu=cpu, ready=accepts(self.address))

    def requests(self) -> int:
        """Return how many requests it has received, without those of this kind."""
        return int(get(f"{self.url}/-/requests")[1])

    def delay(self, delay_ms: float) -> None:
        """Answer every request so much later from now on."""
        get(f"{self.url}/-/delay/{delay_ms:g}")


class Redis:
    """An empty real Redis in a process of its own, without persistence.

    Attributes:
        address: ``host:port``.
        url: for `redis.url`.
        child: its process.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        cpu: int | None = LOAD_CPU,
        address: str | None = None,
        name: str = "redis",
        **settings: str,
    ) -> None:
        """Start it.

        Args:
            processes: what it belongs to.
            cpu: as for `Processes.start`.
            address: where it listens, to start it again where one has been; `None` takes a free port.
            name: what it is called.
            settings: Redis's own, `_` for `-`.
        """
        self.address = address or f"{LOOPBACK}:{free_port()}"
        self.url = f"redis://{self.address}/0"
        fixed = {
            "bind": LOOPBACK,
            "port": self.address.rpartition(":")[2],
            "dir": str(processes.folder),
            "save": "",
            "appendonly": "no",
        }
        settings = {key.replace("_", "-"): value for key, value in settings.items()}
        options = [part for key, value in (fixed | settings).items() for part in (f"--{key}", value)]
        argv = [str(find_redis_server()), *options]
        self.child = processes.start(name, argv, cpu=cpu, ready=accepts(self.address))


class GatewayServer:
    """The gateway, started as a person would start it: `python -m gateway serve`.

    Attributes:
        address: where callers connect.
        url: the same as a URL.
        admin: the URL of the admin address.
        child: its process.
    """

    def __init__(
        self,
        processes: Processes,
        upstream_url: str,
        *,
        settings: Mapping[str, str] | None = None,
        cpu: int | None = SERVER_CPU,
        name: str = "gateway",
        python: str = sys.executable,
        under: Sequence[str] = (),
    ) -> None:
        """Start it and wait for its /readyz.

        Args:
            processes: what it belongs to.
            upstream_url: of the AOS behind it.
            settings: configuration by ``section.key``, beside the access log being off.
            cpu: as for `Processes.start`.
            name: what it is called.
            python: the interpreter.
            under: its options before ``-m gateway``, such as a profiler.
        """
        self.address = f"{LOOPBACK}:{free_port()}"
        self.url = f"http://{self.address}"
        admin = f"{LOOPBACK}:{free_port()}"
        self.admin = f"http://{admin}"
        wanted = {
            "log.access": "off",
            "log.level": "warning",
            **(settings or {}),
            "upstream.url": upstream_url,
            "server.listen": self.address,
            "server.admin_listen": admin,
        }
        argv = [python, *under, "-m", "gateway", "serve"]
        env = gateway_environment(wanted)
        ready = answers_200(f"{self.admin}/readyz")
        self.child = processes.start(name, argv, env=env, cpu=cpu, ready=ready)

    def metrics(self) -> str:
        """Return what its /metrics says."""
        return get(f"{self.admin}/metrics")[1].decode()


def gateway_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings, given as ``section.key``, as the gateway's environment variables."""
    return {f"AOS_GATEWAY_{name.upper().replace('.', '__')}": value for name, value in settings.items()}


class Twin:
    """The simulated AOS in a process of its own: `python -m gateway twin`.

    Attributes:
        address: ``host:port``.
        url: the same as a URL.
        control: the URL of its fault control.
        child: its process.
    """

    def __init__(
        self,
        processes: Processes,
        *,
        profile: str = "load",
        seed: int = 1,
        cpu: int | None = LOAD_CPU,
        name: str = "twin",
    ) -> None:
        self.address = f"{LOOPBACK}:{free_port()}"
        self.url = f"http://{self.address}"
        control = f"{LOOPBACK}:{free_port()}"
        self.control = f"http://{control}"
        argv = [sys.executable, "-m", "gateway", "twin", "--listen", self.address, "--control", control]
        argv += ["--profile", profile, "--seed", str(seed)]
        self.child = processes.start(name, argv, cpu=cpu, ready=accepts(self.address))
