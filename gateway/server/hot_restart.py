"""Hot restart: a new process inherits the listening sockets while the former one drains.

On SIGUSR2 the running process executes its own command line again, with the code and configuration of that
moment. The new process inherits the sockets and reports over a pipe that it serves; only then does the former
one stop accepting. The sockets are never closed, so no connection in their backlog is lost. If the new
process fails to start, the former one goes on as before.
"""

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import Iterable, MutableMapping

import msgspec

from gateway.config.address import Address
from gateway.runtime.listeners import ListeningSockets, SocketFile

# This name and the fields of the structs below are read by other versions.
_VARIABLE = "_AOSGW_TAKEOVER"
_START_S = 60.0


class InheritedSockets(msgspec.Struct, frozen=True):
    """The listening sockets of one address as configured, "" if by systemd, for the next process."""

    descriptors: list[int] = []
    address: str = ""
    file: SocketFile | None = None

    def is_at(self, address: Address) -> bool:
        return bool(self.descriptors) and self.address in {"", str(address)}

    def hand_over_file(self, sockets: ListeningSockets) -> None:
        """Give the file to the sockets that use it; remove it if they are at another address."""
        if self.file is None:
            return
        if self.is_at(sockets.address):
            sockets.file = self.file
        else:
            self.file.remove()


class FormerProcess(msgspec.Struct, frozen=True, rename={"invalidation_scope": "tells"}):
    """An earlier process, which may still drain, and the Redis that carries its invalidations, or nothing.

    At the end of ``alive``, a pipe without writers, the process and its workers have ended.
    """

    alive: int
    invalidation_scope: str


class Inheritance(msgspec.Struct, frozen=True):
    """What a process hands to the next one; empty for a fresh start.

    Attributes:
        parent: process id of the former process.
        formers: the former process, and earlier ones that still drain.
        ready: descriptor for one byte when the next process serves.
    """

    parent: int = 0
    listen: InheritedSockets = InheritedSockets()
    admin: InheritedSockets = InheritedSockets()
    formers: list[FormerProcess] = []
    ready: int = -1

    def report_ready(self) -> None:
        """Report to the former process that this one serves."""
        # Fails if that one has ended, and on a fresh start.
        with contextlib.suppress(OSError):
            os.write(self.ready, b"1")
            os.close(self.ready)

    @property
    def descriptors(self) -> list[int]:
        alive = [former.alive for former in self.formers]
        return [*self.listen.descriptors, *self.admin.descriptors, *alive, self.ready]


class Lineage:
    """This process, with its `FormerProcess.invalidation_scope`, and the former ones that still run.

    ``liveness`` is the write end of its pipe, which workers keep open; see `FormerProcess.alive`.
    """

    def __init__(self, formers: Iterable[FormerProcess], invalidation_scope: str) -> None:
        self._formers = list(formers)
        alive, self.liveness = os.pipe()
        self._own = FormerProcess(alive, invalidation_scope)

    def unconnected(self) -> list[FormerProcess]:
        """Return the former processes whose invalidations do not reach this one."""
        own = self._own.invalidation_scope
        return [former for former in self._formers if not own or former.invalidation_scope != own]

    def living(self) -> list[FormerProcess]:
        """Return this process and the former ones that have not ended."""
        living = []
        for former in self._formers:
            if _has_ended(former.alive):
                os.close(former.alive)
            else:
                living.append(former)
        self._formers = living
        return [*living, self._own]


async def ended(formers: Iterable[FormerProcess]) -> None:
    """Wait until these processes and their workers have ended."""
    await asyncio.gather(*(_one_byte(os.dup(former.alive)) for former in formers))


def _has_ended(alive: int) -> bool:
    poll = select.poll()
    poll.register(alive, 0)
    return bool(poll.poll(0))


def inheritance(environ: MutableMapping[str, str]) -> Inheritance:
    """Take what the former process handed over out of the environment."""
    try:
        inherited = msgspec.json.decode(environ.pop(_VARIABLE, ""), type=Inheritance)
    except msgspec.MsgspecError:
        return Inheritance()
    if inherited.parent != os.getppid():
        return Inheritance()
    for descriptor in inherited.descriptors:
        os.set_inheritable(descriptor, False)
    return inherited


class HotRestartFailed(Exception):
    """The new process does not serve; the text is one line."""


async def start_next(listen: InheritedSockets, admin: InheritedSockets, formers: list[FormerProcess]) -> int:
    """Start the next process with this `Inheritance`, wait until it serves, and return its process id."""
    ours, its = os.pipe()
    try:
        inherited = Inheritance(os.getpid(), listen, admin, formers, its)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:]),
            pass_fds=inherited.descriptors,
            env={**os.environ, _VARIABLE: msgspec.json.encode(inherited).decode()},
        )
    except OSError as error:
        os.close(ours)
        raise HotRestartFailed(f"it cannot be started: {error.strerror}") from error
    finally:
        os.close(its)
    try:
        async with asyncio.timeout(_START_S):
            is_ready = await _one_byte(ours)
    except BaseException as error:
        # Also on cancellation: this process was stopped meanwhile, so nobody is to serve.
        process.kill()
        if not isinstance(error, TimeoutError):
            raise
        await process.wait()
        raise HotRestartFailed(f"it did not serve within {_START_S:g} s") from None
    if not is_ready:
        raise HotRestartFailed(f"it ended with exit code {await process.wait()}")
    return process.pid


async def _one_byte(descriptor: int) -> bool:
    """Read one byte from a pipe and close it; false at its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return bool(await reader.read(1))
    finally:
        transport.close()
