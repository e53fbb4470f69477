"""A new process takes the listening sockets over while the one before drains.

On SIGUSR2 the running process starts its own command line again, which finds the code and the configuration
as they are by then. The new process inherits the sockets, and says over a pipe that it serves; only then the
old one stops accepting. Nothing that waits to be accepted is lost, because the sockets are never closed; and
a new process that does not get that far leaves the old one as it was.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import MutableMapping

import msgspec

from gateway.listeners import ListeningSockets

_VARIABLE = "_AOSGW_TAKEOVER"
_START_S = 60.0
_LOOK_S = 0.1


class Inheritance(msgspec.Struct, frozen=True):
    """What a process leaves to the next one.

    Attributes:
        parent: the process that leaves it.
        listen: descriptors of the callers' sockets.
        listen_address: where they were configured to be; empty when systemd has opened them.
        admin: descriptors of the operators' sockets.
        admin_address: where they were configured to be; empty when systemd has opened them.
        ready: descriptor to write one byte to when the next one serves.
    """

    parent: int
    listen: list[int]
    listen_address: str
    admin: list[int]
    admin_address: str
    ready: int

    def tell_ready(self) -> None:
        """Say that this process serves."""
        try:
            os.write(self.ready, b"1")
            os.close(self.ready)
        except OSError:
            # The one before is gone already.
            return

    async def ended(self) -> None:
        """Wait until the process that has left it is gone."""
        # The system tells nobody that its parent has ended.
        while os.getppid() == self.parent:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)


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
    for descriptor in (*left.listen, *left.admin, left.ready):
        os.set_inheritable(descriptor, False)
    return left


class NotTakenOver(Exception):
    """The new process does not serve; the text is one line."""


async def hand_over(
    sockets: ListeningSockets, listen_address: str, admin: ListeningSockets, admin_address: str
) -> int:
    """Start the next process on these sockets, wait until it serves, and return its process id.

    Raises:
        NotTakenOver: it does not serve in time, or ended before.
    """
    ours, its = os.pipe()
    try:
        left = Inheritance(
            os.getpid(), sockets.descriptors, listen_address, admin.descriptors, admin_address, its
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:]),
            pass_fds=(*left.listen, *left.admin, its),
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
