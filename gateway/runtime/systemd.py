"""systemd: socket activation, notification, watchdog (sd_listen_fds, sd_notify, sd_watchdog_enabled(3))."""

import asyncio
import contextlib
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
# Interval between attempts to send what systemd did not accept.
_RETRY_S = 1.0
_MOST_UNSENT = 8


class Activation:
    """Listening sockets opened by systemd: for operators those named "admin" (`FileDescriptorName=admin`)."""

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        """Take the descriptors from the environment, and out of it: child processes must not see them."""
        listen_pid = environ.pop("LISTEN_PID", "")
        count = environ.pop("LISTEN_FDS", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        self.listen: list[int] = []
        self.admin: list[int] = []
        if listen_pid != str(pid) or not count.isdecimal():
            return
        for index in range(int(count)):
            descriptor = _FIRST_DESCRIPTOR + index
            _check(descriptor)
            is_admin = index < len(names) and names[index] == _ADMIN
            (self.admin if is_admin else self.listen).append(descriptor)
        # The most reachable first: it stands for all when the configuration is checked.
        self.listen.sort(key=_seclusion)
        self.admin.sort(key=_seclusion)


def _seclusion(descriptor: int) -> int:
    """Return 0 for a socket reachable over the network, 1 on loopback, 2 for a Unix socket."""
    address = address_of(descriptor)
    return is_loopback(address) + isinstance(address, UnixAddress)


def _check(descriptor: int) -> None:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            is_stream = sock.type == socket.SOCK_STREAM
            is_listening = is_stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        is_listening = False
    if not is_listening:
        raise ConfigError(
            f"descriptor {descriptor} from LISTEN_FDS is no listening stream socket; write ListenStream= "
            "in the socket unit, without Accept=yes"
        )
    os.set_inheritable(descriptor, False)


class Notifier:
    """Reports the state of the service to systemd; does nothing without `NOTIFY_SOCKET`.

    Takes variables for this process alone out of the environment. ``watchdog_s`` is 0 without a watchdog.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        # The watchdog covers a successor too, whose id systemd does not know beforehand.
        watchdog_us = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_s = int(watchdog_us) / 1e6 if is_ours and watchdog_us.isdecimal() else 0.0
        self._unsent: deque[bytes] = deque(maxlen=_MOST_UNSENT)

    def ready(self, *, main_pid: int | None = None) -> None:
        """Report that the service is ready; ``main_pid``: this process's id if systemd has not started it."""
        self._report("READY=1", *([f"MAINPID={main_pid}"] if main_pid is not None else []))

    def reloading(self) -> None:
        """Report a reload, which `ready` ends."""
        self._report("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._report("STOPPING=1")

    async def keep_alive(self) -> None:
        """Send keep-alives, and unsent reports again, until cancelled."""
        while self._address:
            self._send_rest()
            if self.watchdog_s:
                self._send(b"WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 2 or _RETRY_S)

    def _report(self, *lines: str) -> None:
        if self._address:
            self._unsent.append("\n".join(lines).encode())
            self._send_rest()

    def _send_rest(self) -> None:
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()

    def _send(self, message: bytes) -> bool:
        """Send a message without waiting; ``False`` if systemd does not accept it now."""
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.setblocking(False)
            # A failure is no reason to end the service.
            with contextlib.suppress(OSError):
                return sending.sendto(message, address) == len(message)
        return False
