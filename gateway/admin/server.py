"""Serves the admin application on a listener of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools

from aiohttp import web

from gateway.admin.connection import AdminConnection
from gateway.config.address import Address
from gateway.runtime.listeners import Acceptor, ListeningSockets, open_sockets

_DRAIN_S = 1.0


class AdminServer:
    def __init__(self, app: web.Application, address: Address) -> None:
        self._address = address
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self._sockets: ListeningSockets | None = None
        self._acceptor: Acceptor | None = None

    async def start(self, sockets: ListeningSockets | None = None) -> Address:
        """Accept connections on these sockets, its own from now on, or else on the address; return where."""
        self._sockets = sockets or await open_sockets(self._address)
        await self._serve()
        return self._sockets.address

    @property
    def sockets(self) -> ListeningSockets:
        """What it accepts on, once it has started."""
        assert self._sockets is not None
        return self._sockets

    async def replace(self, app: web.Application) -> None:
        """Serve another application from now on; requests under way get a moment to end."""
        former, acceptor = self._runner, self._acceptor
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._serve()
        if acceptor is not None:
            acceptor.close()
        await _let_go(former)

    async def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        if self._sockets is not None:
            self._sockets.leave()
        await _let_go(self._runner)

    async def _serve(self) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        connections = functools.partial(AdminConnection, self._runner.server, {})
        self._acceptor = await self.sockets.accept(connections)


async def _let_go(runner: web.AppRunner) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            await runner.cleanup()
