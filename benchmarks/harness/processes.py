"""The processes of a measurement: upstream, Redis, gateway and twin, each on free ports of its own."""

import http.client
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from tests.testbed.address import free_port
from tests.testbed.redis_binary import find_redis_server
from tests.testbed.resp import ask_now, encode

from .children import ROOT, Child, Processes, Ready, StartError, pinned, uninterrupted

__all__ = [
    "LOAD_CPU",
    "LOOPBACK",
    "ROOT",
    "SERVER_CPU",
    "Child",
    "GatewayServer",
    "Origin",
    "Processes",
    "Ready",
    "Redis",
    "StartError",
    "Twin",
    "accepts",
    "answers_200",
    "gateway_environment",
    "get",
    "pinned",
    "uninterrupted",
]

LOOPBACK: Final = "127.0.0.1"
# The server under test has a core to itself; load and upstream share the other.
SERVER_CPU: Final = 0
LOAD_CPU: Final = 1


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
    """An upstream of constant cost in a process of its own: `python -m benchmarks.harness.origin`.

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
        argv = [sys.executable, "-m", "benchmarks.harness.origin", "--listen", self.address]
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

    def commands(self) -> int:
        """Return how many commands it has executed, without those of this kind."""
        info = ask_now(self.address, [encode("INFO", "commandstats")])
        assert isinstance(info, bytes), "INFO is answered with a text"
        calls = re.findall(rb"^cmdstat_(\S+?):calls=(\d+)", info, re.MULTILINE)
        return sum(int(count) for command, count in calls if command != b"info")


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
    """Return settings (``section.key``) as the gateway's environment variables."""
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
        # Opened after the address for callers.
        self.child = processes.start(name, argv, cpu=cpu, ready=accepts(control))
