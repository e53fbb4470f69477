"""What systemd hands to a service and hears of it: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

from gateway.config.address import UnixAddress, is_loopback
from gateway.config.errors import ConfigError
from gateway.runtime.listeners import address_of

_FIRST_DESCRIPTOR = 3
_ADMIN = "admin"
# How often it is tried again to tell what systemd did not take.
_RETRY_S = 1.0
_MOST_UNTOLD = 8


class Activation:
    """Listening sockets that systemd has opened.

    Attributes:
        listen: descriptors for callers: all but those named "admin".
        admin: descriptors for operators: those named "admin" (`FileDescriptorName=admin`).
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        """Take what the environment tells, and take it out: it is not meant for other processes.

        Args:
            environ: like `os.environ`.
            pid: of this process.

        Raises:
            ConfigError: a descriptor is no listening stream socket.
        """
        told_pid = environ.pop("LISTEN_PID", "")
        count = environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        self.listen: list[int] = []
        self.admin: list[int] = []
        if told_pid != str(pid) or not count.isdecimal():
            return
        for index in range(int(count)):
            descriptor = _FIRST_DESCRIPTOR + index
            _check(descriptor)
            is_admin = index < len(names) and names[index] == _ADMIN
            (self.admin if is_admin else self.listen).append(descriptor)
        # The first one stands for all where it matters who can reach them.
        self.listen.sort(key=_seclusion)
        self.admin.sort(key=_seclusion)


def _seclusion(descriptor: int) -> int:
    """Return 0 for a socket that the network reaches, more the fewer can."""
    address = address_of(descriptor)
    if isinstance(address, UnixAddress):
        return 2
    return int(is_loopback(address))


def _check(descriptor: int) -> None:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as given:
            is_stream = given.type == socket.SOCK_STREAM
            is_listening = is_stream and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        is_listening = False
    if not is_listening:
        raise ConfigError(
            f"descriptor {descriptor} from LISTEN_FDS is no listening stream socket; write ListenStream= "
            "in the socket unit, without Accept=yes"
        )
    os.set_inheritable(descriptor, False)


class Notifier:
    """Tells systemd how the service is; silent where nobody listens.

    Args:
        environ: like `os.environ`; what is meant for this process alone is taken out.
        pid: of this process.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        # A process that takes over is watched as well; systemd does not know its id beforehand.
        watchdog_us = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)
        self._watchdog_s = int(watchdog_us) / 1e6 if is_meant and watchdog_us.isdecimal() else 0.0
        self._untold: deque[bytes] = deque(maxlen=_MOST_UNTOLD)

    @property
    def watchdog_s(self) -> float:
        """How often it has to be told at least that the service lives; 0 for never."""
        return self._watchdog_s

    def ready(self, *, main_pid: int | None = None) -> None:
        """It serves.

        Args:
            main_pid: it is another process than the one that systemd has started.
        """
        self._tell("READY=1", *([f"MAINPID={main_pid}"] if main_pid is not None else []))

    def reloading(self) -> None:
        """It reads its configuration; `ready` says that this is done."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It drains."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Tell that it lives, as long as the event loop does, and what is untold; runs until cancelled."""
        while self._address:
            self._tell_rest()
            if self._watchdog_s:
                self._send(b"WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2 or _RETRY_S)

    def _tell(self, *lines: str) -> None:
        if self._address:
            self._untold.append("\n".join(lines).encode())
            self._tell_rest()

    def _tell_rest(self) -> None:
        while self._untold and self._send(self._untold[0]):
            self._untold.popleft()

    def _send(self, message: bytes) -> bool:
        """Send a message without waiting; ``False`` when systemd takes none now."""
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            try:
                sending.sendto(message, address)
            except OSError:
                # A service does not end because nobody listens to how it is.
                return False
        return True
