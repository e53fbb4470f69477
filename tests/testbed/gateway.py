"""The gateway under test: in this process on a free port, or as a process of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.app.gateway import Gateway
from gateway.clock import Clock
from gateway.config.load import load_config
from gateway.config.model import Config

from .address import free_port

DEFAULTS: dict[str, object] = {"server.fast_lane": os.environ.get("FAST_PATH") != "off"}
"""Settings of every gateway under test, by their dotted key, where a test says nothing else."""

_START_S = 10.0
_STOP_S = 10.0


def loaded(upstream_url: str, **settings: object) -> Config:
    """Return the configuration of a gateway under test.

    Args:
        upstream_url: of the scripted AOS.
            settings: by ``section__key``; it listens on a free loopback port by default.
    """
    flags = {**DEFAULTS, "upstream.url": upstream_url, "server.listen": "127.0.0.1:0"}
    flags |= {name.replace("__", ".", 1): value for name, value in settings.items()}
    return load_config(None, {}, flags)


class RunningGateway:
    """A gateway in this process.

    Attributes:
        app: the object graph, for looking at its state.
        address: where it listens.
    """

    def __init__(self, app: Gateway, address: str) -> None:
        self.app = app
        self.address = address


@asynccontextmanager
async def running(
    upstream_url: str, *, clock: Clock | None = None, **settings: object
) -> AsyncIterator[RunningGateway]:
    """Start a gateway in this process.

    Args:
        upstream_url: of the scripted AOS.
        clock: both clocks, to move time.
            settings: configuration by ``section__key``; listens on a free loopback port by default.
    """
    gateway = Gateway(loaded(upstream_url, **settings), clock)
    address = await gateway.start()
    try:
        yield RunningGateway(gateway, str(address))
    finally:
        await gateway.close(1.0)


class GatewayProcess:
    """A gateway started as a person would, with ``aos-gateway serve``.

    Attributes:
        address: where it listens.
        admin: its admin address.
    """

    def __init__(
        self,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            arguments: of ``aos-gateway serve``; addresses are chosen.
            environ: on top of this process's environment.
            launcher: a command that executes the one behind it.
            pass_fds: descriptors that it inherits.
        """
        self.address = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self._output = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115  # closed in stop
        self._process = subprocess.Popen(
            [
                *launcher,
                *(sys.executable, "-m", "gateway", "serve"),
                *("--listen", self.address, "--admin", self.admin),
                *arguments,
            ],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_environ(DEFAULTS), **(environ or {})},
            pass_fds=pass_fds,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def output(self) -> str:
        """Return everything it wrote so far."""
        return Path(self._output.name).read_text("utf-8", "replace")

    async def ready(self) -> "GatewayProcess":
        """Wait until it serves."""
        await self._until(lambda: re.search(r"serving .* on ", self.output()) is not None)
        return self

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait(_STOP_S)

    async def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            await self._until(lambda: self._process.poll() is not None)
        return self._process.returncode

    async def ended(self) -> int:
        """Wait until it has ended by itself, and return the exit code."""
        await self._until(lambda: self._process.poll() is not None)
        return self._process.returncode

    def discard(self) -> None:
        """Let go of it, ending it if it still runs."""
        if self._process.poll() is None:
            self.kill()
        self._output.close()

    async def _until(self, is_true: Callable[[], bool]) -> None:
        async with asyncio.timeout(_START_S):
            while not is_true():
                if self._process.poll() is not None and not is_true():
                    raise AssertionError(f"the gateway ended early: {self.output()}")
                await asyncio.sleep(0.02)


def _environ(settings: Mapping[str, object]) -> dict[str, str]:
    return {
        f"AOS_GATEWAY_{key.upper().replace('.', '__')}": str(value).lower() for key, value in settings.items()
    }


StartGateway = Callable[..., Awaitable[GatewayProcess]]
"""Starts one with arguments and settings by `section__key`."""
