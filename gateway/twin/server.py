"""The twin's listeners: start, stop, and the command `aos-gateway twin`."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway.config.address import Address, UnixAddress, is_loopback
from gateway.runtime.event_loop import loop_factory
from gateway.runtime.listeners import ListeningSockets, address_of, open_sockets, why_not
from gateway.runtime.signals import Signals
from gateway.twin.api import Api
from gateway.twin.control import Control
from gateway.twin.profiles import Profile, TwinError, profile_named
from gateway.twin.world import World

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# IAM tokens are several KB long, some more than 8 KB.
_MAX_FIELD_BYTES: Final = 131_072
_KEEPALIVE_S: Final = 75.0
# Slow responses are cut off when the twin stops.
_SHUTDOWN_S: Final = 0.05


class Twin:
    """A running simulated AOS.

    Attributes:
        world: its state, for those who run it in their own process.
        url: where its API is, "http://host:port" or "unix:/path"; "" before `start`.
        control_url: where its control address is, alike; None without one.
    """

    def __init__(self, profile: Profile, seed: int = 1) -> None:
        """Make a twin that does not listen yet; the same profile, seed and calls give the same answers."""
        self.world = World(profile, seed)
        self.url = ""
        self.control_url: str | None = None
        self._listening: list[tuple[ListeningSockets, contextlib.ExitStack, web.Server]] = []

    async def start(self, listen: Address, control: Address | None = None) -> None:
        """Begin to listen; port 0 lets the system choose. Control is on loopback or a Unix socket, or off.

        Raises `TwinError` when an address cannot be used; nothing listens then.
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
        listening, self._listening = self._listening, []
        for sockets, acceptor, server in listening:
            acceptor.close()
            sockets.leave()
            # What has arrived begins to be handled before idle connections are closed.
            await asyncio.sleep(0)
            server.pre_shutdown()
            await server.shutdown(_SHUTDOWN_S)

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
        try:
            sockets = await open_sockets(address)
        except OSError as exc:
            raise TwinError(f"cannot listen on {address}: {why_not(exc)}; choose another address") from exc
        self._listening.append((sockets, await sockets.accept(server), server))
        bound = address_of(sockets.descriptors[0])
        return str(bound) if isinstance(bound, UnixAddress) else f"http://{bound}"


def run(listen: Address, control: Address | None, profile: str, seed: int) -> int:
    """Serve the twin until SIGINT or SIGTERM, with one line for each address that is ready.

    Returns 0 after a signal, 2 when the profile is unknown or an address cannot be used.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(listen, control, profile_named(profile), seed))
    except TwinError as exc:
        print(f"aos-gateway twin: {exc}", file=sys.stderr)
        return 2
    return 0


async def _serve(listen: Address, control: Address | None, profile: Profile, seed: int) -> None:
    twin = Twin(profile, seed)
    async with Signals() as signals:
        try:
            await twin.start(listen, control)
            print(f"twin ready on {twin.url} (profile {profile.name}, seed {seed})", flush=True)
            if twin.control_url is not None:
                print(f"twin control ready on {twin.control_url}", flush=True)
            await signals.wait()
        finally:
            await twin.close()
