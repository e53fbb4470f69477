"""A real Redis server for tests: one process, one temporary folder, no persistence."""

import asyncio
import atexit
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from . import address as addresses
from .redis_binary import find_redis_server, find_valkey_server
from .resp import Argument, RedisReplyError, Reply, ask, ask_now, encode

__all__ = ["RedisReplyError", "RedisServer", "Reply", "find_redis_server", "find_valkey_server"]

_START_S = 10.0
_STOP_S = 5.0
_ATTEMPTS = 5


class RedisServer:
    """One redis-server process; start and stop are plain calls, so that any event loop can share it.

    Attributes:
        prefix: a key prefix that no other test has; `flush` makes a new one.
        password: of clients; None for none.
    """

    def __init__(
        self,
        *,
        unix: bool = False,
        password: str | None = None,
        maxmemory: str | None = None,
        maxmemory_policy: str = "noeviction",
        settings: Mapping[str, str] | None = None,
        binary: Path | None = None,
    ) -> None:
        """Prepare a server; `start` or `with` runs it.

        Args:
            unix: listen on a Unix socket in its folder instead of loopback TCP.
            password: requirepass.
            maxmemory: as Redis writes it, such as "3mb"; None has no limit.
            maxmemory_policy: what happens at the limit.
            settings: further settings by their name in redis.conf.
            binary: the program; None looks for one.
        """
        self.password = password
        self.prefix = ""
        self._unix = unix
        self._settings = {
            "maxmemory": maxmemory or "0",
            "maxmemory-policy": maxmemory_policy,
            **(settings or {}),
        }
        self._binary = binary
        self._port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:port` or `unix:/path`; the same after a restart."""
        return f"unix:{self._home() / 'redis.sock'}" if self._unix else f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The address as a redis:// or unix:// URL, with the password if there is one."""
        secret = f":{self.password}@" if self.password else ""
        if self._unix:
            return f"unix://{secret}{self._home() / 'redis.sock'}"
        return f"redis://{secret}{self.address}/0"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives (also while paused)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it responds to PING (10 s at most).

        Raises:
            RuntimeError: it ended at once; the text has the end of its log.
            TimeoutError: no response.
        """
        if self.is_running:
            raise RuntimeError("this Redis runs already")
        fixed = self._folder is not None
        for attempt in range(_ATTEMPTS):
            if not self._unix and not fixed:
                self._port = addresses.free_port()
            try:
                self._launch()
            except RuntimeError as error:
                # Another process may have taken the port meanwhile.
                if fixed or "in use" not in str(error) or attempt + 1 == _ATTEMPTS:
                    raise
            else:
                break
        self._renew_prefix()

    def stop(self) -> None:
        """End the process cleanly, by force after 5 s, and remove its folder."""
        if self._process is not None:
            if self.is_running:
                self.resume()
                self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_S)
            self._process = None
        atexit.unregister(self.stop)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the process at once (SIGKILL); address and folder stay for a restart."""
        process = self._running()
        process.kill()
        process.wait(_STOP_S)
        self._process = None

    def pause(self) -> None:
        """Stop the process without ending it (SIGSTOP): connections stay, without responses."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # The signal works a moment after it is sent; only when the kernel says so is it really silent.
        deadline = time.monotonic() + _STOP_S
        while os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                raise TimeoutError("Redis did not stop on SIGSTOP")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Kill it if it runs, and start it empty at the same address."""
        if self.is_running:
            self.kill()
        await asyncio.to_thread(self.start)

    def flush(self) -> None:
        """Make it as new for the next test: no keys, no clients left over, another prefix."""
        self.command_now("FLUSHALL")
        for kind in ("normal", "pubsub"):
            self.command_now("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        self._renew_prefix()

    async def command(self, *arguments: Argument, timeout_s: float = 5.0) -> Reply:
        """Run one command over a connection of its own.

        Args:
            arguments: the command and its arguments.
            timeout_s: deadline in seconds.

        Returns:
            Simple strings as str, bulk strings as bytes, nil as None, numbers and lists as they are.

        Raises:
            RedisReplyError: the server replied with an error.
        """
        return await ask(self.address, self._commands(arguments), timeout_s)

    def command_now(self, *arguments: Argument, timeout_s: float = 5.0) -> Reply:
        """The same as `command`, blocking; for fixtures and threads."""
        return ask_now(self.address, self._commands(arguments), timeout_s)

    async def keys(self, pattern: str = "*") -> list[bytes]:
        """The names of all keys that fit the pattern, sorted."""
        return sorted(_texts(await self.command("KEYS", pattern)))

    async def contents(self) -> dict[bytes, bytes]:
        """All keys with their values as bytes, whatever their type; for looking at everything."""
        return {key: await self._value(key) for key in await self.keys()}

    async def commands_run(self) -> dict[str, int]:
        """How often each command was called since start or CONFIG RESETSTAT, by lower-case name."""
        info = await self.command("INFO", "commandstats")
        lines = info.decode().splitlines() if isinstance(info, bytes) else []
        stats = [line.removeprefix("cmdstat_").split(":calls=") for line in lines if ":calls=" in line]
        return {name: int(rest.split(",")[0]) for name, rest in stats}

    async def _value(self, key: bytes) -> bytes:
        kind = await self.command("TYPE", key)
        # DUMP compresses long strings: only types that GET can't read go that way.
        value = await self.command("GET" if kind == "string" else "DUMP", key)
        return value if isinstance(value, bytes) else b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("this Redis does not run")
        return self._process

    def _home(self) -> Path:
        if self._folder is None:
            raise RuntimeError("this Redis has not been started")
        return self._folder

    def _renew_prefix(self) -> None:
        self.prefix = f"t{secrets.token_hex(6)}"

    def _launch(self) -> None:
        if self._folder is None:
            # Not the test's own folder: a Unix socket's path must stay below 104 bytes.
            self._folder = Path(tempfile.mkdtemp(prefix="aosgw-redis-"))
        atexit.register(self.stop)
        log = self._folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command_line(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                if self.command_now("PING", timeout_s=1.0) == "PONG" and self.is_running:
                    return
            except OSError:
                pass
            if not self.is_running:
                self._process = None
                raise RuntimeError(f"redis-server ended at once: {log.read_text()[-600:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"redis-server did not respond within {_START_S:g} s: {log.read_text()[-600:]}"
                )
            time.sleep(0.005)

    def _command_line(self) -> Sequence[str]:
        binary = self._binary or find_redis_server()
        settings = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "dir": str(self._home()),
            "save": "",
            "appendonly": "no",
            "requirepass": self.password or "",
            **({"unixsocket": str(self._home() / "redis.sock")} if self._unix else {}),
            **self._settings,
        }
        return [str(binary), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def _commands(self, arguments: Sequence[Argument]) -> list[bytes]:
        return [*([encode("AUTH", self.password)] if self.password else []), encode(*arguments)]


def _texts(reply: Reply) -> list[bytes]:
    return [item for item in reply if isinstance(item, bytes)] if isinstance(reply, list) else []
