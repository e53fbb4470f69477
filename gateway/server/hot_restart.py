"""A new process takes the listening sockets over while the one before drains.

On SIGUSR2 the running process starts its own command line again, which finds the code and the configuration
as they are by then. The new process inherits the sockets, and says over a pipe that it serves; only then the
old one stops accepting. Nothing that waits to be accepted is lost, because the sockets are never closed; and
a new process that does not get that far leaves the old one as it was.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Iterable, MutableMapping

import msgspec

from gateway.config.address import Address
from gateway.runtime.listeners import ListeningSockets, SocketFile

_VARIABLE = "_AOSGW_TAKEOVER"
_START_S = 60.0


class LeftSockets(msgspec.Struct, frozen=True):
    """The sockets of one address that a process leaves to the next one.

    Attributes:
        descriptors: of the sockets.
        address: where they were configured to be; empty when systemd has opened them.
        file: of a Unix socket that goes with them.
    """

    descriptors: list[int]
    address: str
    file: SocketFile | None = None

    def is_at(self, address: Address) -> bool:
        """Tell whether they are those of an address."""
        return bool(self.descriptors) and self.address in {"", str(address)}

    def file_to(self, sockets: ListeningSockets) -> None:
        """Give the file to those who have taken the sockets; when they were not taken, it is removed."""
        if self.file is None:
            return
        if self.is_at(sockets.address):
            sockets.take_over(self.file)
        else:
            self.file.remove()


class Former(msgspec.Struct, frozen=True):
    """A process before, which may still drain.

    Attributes:
        alive: the end of a pipe that nobody writes to; it breaks when the process and its workers have ended.
        tells: the Redis through which it tells what it forgets; empty for none.
    """

    alive: int
    tells: str


class Inheritance(msgspec.Struct, frozen=True):
    """What a process leaves to the next one.

    Attributes:
        parent: the process that leaves it.
        listen: the callers' sockets.
        admin: the operators' sockets.
        formers: itself, and those before it that still drain.
        ready: descriptor to write one byte to when the next one serves.
    """

    parent: int
    listen: LeftSockets
    admin: LeftSockets
    formers: list[Former]
    ready: int

    def tell_ready(self) -> None:
        """Say that this process serves."""
        try:
            os.write(self.ready, b"1")
            os.close(self.ready)
        except OSError:
            # The one before is gone already.
            return

    @property
    def descriptors(self) -> list[int]:
        """All that has to be inherited."""
        alive = [former.alive for former in self.formers]
        return [*self.listen.descriptors, *self.admin.descriptors, *alive, self.ready]


class Lineage:
    """This process and those before it, whose ends matter to those after them.

    Args:
        formers: what the one before has left.
        tells: see `Former`; of this process.

    Attributes:
        held: a descriptor that workers inherit, so that they count as this process.
    """

    def __init__(self, formers: Iterable[Former], tells: str) -> None:
        self._formers = list(formers)
        alive, self.held = os.pipe()
        self._own = Former(alive, tells)

    def unheard(self) -> list[Former]:
        """Return those before that do not tell this process what they forget."""
        own = self._own.tells
        return [former for former in self._formers if not own or former.tells != own]

    def living(self) -> list[Former]:
        """Return this process and those before it that have not ended."""
        living = []
        for former in self._formers:
            if _has_ended(former.alive):
                os.close(former.alive)
            else:
                living.append(former)
        self._formers = living
        return [*living, self._own]


async def ended(formers: Iterable[Former]) -> None:
    """Wait until these processes and their workers have ended."""
    await asyncio.gather(*(_one_byte(os.dup(former.alive)) for former in formers))


def _has_ended(alive: int) -> bool:
    looking = select.poll()
    looking.register(alive, 0)
    return bool(looking.poll(0))


def inheritance(environ: MutableMapping[str, str]) -> Inheritance | None:
    """Return what the process before has left, and take it out of the environment.

    Args:
        environ: like `os.environ`.
    """
    told = environ.pop(_VARIABLE, "")
    if not told:
        return None
    try:
        left = msgspec.json.decode(told, type=Inheritance)
    except msgspec.MsgspecError:
        return None
    if left.parent != os.getppid():
        return None
    for descriptor in left.descriptors:
        os.set_inheritable(descriptor, False)
    return left


class NotTakenOver(Exception):
    """The new process does not serve; the text is one line."""


async def hand_over(listen: LeftSockets, admin: LeftSockets, formers: list[Former]) -> int:
    """Start the next process on these sockets, wait until it serves, and return its process id.

    Args:
        listen: the callers' sockets.
        admin: the operators' sockets.
        formers: see `Inheritance`.

    Raises:
        NotTakenOver: it does not serve in time, or ended before.
    """
    ours, its = os.pipe()
    try:
        left = Inheritance(os.getpid(), listen, admin, formers, its)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:]),
            pass_fds=left.descriptors,
            env={**os.environ, _VARIABLE: msgspec.json.encode(left).decode()},
        )
    except OSError as error:
        os.close(ours)
        raise NotTakenOver(f"it cannot be started: {error.strerror}") from error
    finally:
        os.close(its)
    try:
        async with asyncio.timeout(_START_S):
            is_ready = await _one_byte(ours)
    except BaseException as error:
        # Also when this one is told to stop meanwhile: then nobody is to serve.
        process.kill()
        if not isinstance(error, TimeoutError):
            raise
        await process.wait()
        raise NotTakenOver(f"it did not serve within {_START_S:g} s") from None
    if not is_ready:
        raise NotTakenOver(f"it ended with exit code {await process.wait()}")
    return process.pid


async def _one_byte(descriptor: int) -> bool:
    """Read one byte from a pipe, which it closes; false at its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return bool(await reader.read(1))
    finally:
        transport.close()
