"""The twin's listeners: start, stop, and the command `aos-gateway twin`."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.config.address import Address, TcpAddress, UnixAddress, is_loopback
from gateway.runtime.listeners import Acceptor, ListeningSockets, open_sockets, why_not
from gateway.twin.api import Api
from gateway.twin.control import Control
from gateway.twin.profiles import Profile, UnknownProfileError, profile_named
from gateway.twin.world import World

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# IAM tokens are several KB long, some more than 8 KB.
_MAX_FIELD_BYTES: Final = 131_072
_KEEPALIVE_S: Final = 75.0
# Slow responses are cut off when the twin stops.
_SHUTDOWN_S: Final = 0.05
_BACKLOG: Final = 1_024


class TwinError(Exception):
    """The twin cannot start; the text is one line with the reason and the remedy."""


class Twin:
    """A running simulated AOS.

    Attributes:
        world: its state, for those who run it in their own process.
        url: where its API is, "http://host:port" or "unix:/path"; "" before `start`.
        control_url: where its control address is, alike; None without one.
    """

    def __init__(self, profile: Profile, seed: int = 1) -> None:
        """Make a twin that does not listen yet.

        Args:
            profile: how it behaves, such as `profile_named("demo")`.
            seed: all chance comes from it; the same seed and calls give the same answers.
        """
        self.world = World(profile, seed)
        self.url = ""
        self.control_url: str | None = None
        self._runners: list[web.ServerRunner] = []
        self._unix: list[tuple[Acceptor, ListeningSockets]] = []

    async def start(self, listen: Address, control: Address | None = None) -> None:
        """Begin to listen.

        Args:
            listen: where the API is; port 0 lets the system choose.
            control: where the control address is; loopback or a Unix socket; None for none.

        Raises:
            TwinError: when an address cannot be used; nothing listens then.
        """
        if control is not None and not is_loopback(control):
            reached = "can be reached from other machines; use 127.0.0.1, [::1] or unix:/path"
            raise TwinError(f"control address {control} {reached}")
        try:
            self.url = await self._listen(Api(self.world).handle, listen)
            if control is not None:
                self.control_url = await self._listen(Control(self.world).handle, control)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and end all connections; harmless when repeated."""
        for acceptor, sockets in self._unix:
            acceptor.close()
            sockets.leave()
        self._unix.clear()
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()

    async def _listen(self, handler: _Handler, address: Address) -> str:
        # aiohttp logs what it cannot parse, tokens included: it gets a silent logger.
        silent = logging.Logger("gateway.twin.http", level=logging.CRITICAL + 1)
        server = web.Server(
            handler,
            access_log=None,
            logger=silent,
            keepalive_timeout=_KEEPALIVE_S,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        try:
            if isinstance(address, UnixAddress):
                sockets = await open_sockets(address)
                self._unix.append((await sockets.accept(server), sockets))
                return str(address)
            await web.TCPSite(runner, address.host, address.port, backlog=_BACKLOG).start()
        except OSError as exc:
            raise TwinError(f"cannot listen on {address}: {why_not(exc)}; choose another address") from exc
        host, port = runner.addresses[0][:2]
        return f"http://{TcpAddress(host=host, port=port)}"


def run(listen: Address, control: Address | None, profile: str, seed: int) -> int:
    """Serve the twin until SIGINT or SIGTERM, with one line for each address that is ready.

    Args:
        listen: where the API is.
        control: where the control address is; None for none.
        profile: name of a profile.
        seed: all chance comes from it.

    Returns:
        0 after a signal, 2 when the profile is unknown or an address cannot be used.
    """
    try:
        twin_profile = profile_named(profile)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(listen, control, twin_profile, seed))
    except (UnknownProfileError, TwinError) as exc:
        print(f"aos-gateway twin: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Where signal handlers cannot be set, and before they are.
        return 0
    return 0


async def _serve(listen: Address, control: Address | None, profile: Profile, seed: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Windows has no signal handlers in its loops; Ctrl-C cancels the task there.
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    twin = Twin(profile, seed)
    await twin.start(listen, control)
    try:
        print(f"twin ready on {twin.url} (profile {profile.name}, seed {seed})", flush=True)
        if twin.control_url is not None:
            print(f"twin control ready on {twin.control_url}", flush=True)
        await stop.wait()
    finally:
        await twin.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's if installed: the twin must not be the slowest part of a measurement."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
