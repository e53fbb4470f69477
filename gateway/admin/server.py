"""The admin address: a listener of its own, with bounded connections.

Malformed requests are neither echoed nor logged.
"""

import asyncio
import contextlib
import functools
import logging
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from gateway.admin.app import build_admin
from gateway.admin.errors import SECURITY_FIELDS, AdminProblem, answer, of_status
from gateway.operations import Operations
from gateway.runtime.listeners import ListeningSockets
from gateway.runtime.progress import cut_later, drained
from gateway.tasks import at_most

_LOG = logging.getLogger("gateway.admin")
# An unread request body is drained for a moment before the connection is closed.
_OPTIONS: Final[dict[str, Any]] = {"access_log": None, "keepalive_timeout": 75.0, "lingering_time": 0.5}
_DRAIN_S: Final = 1.0
# How long a peer may read nothing of a response.
_WRITE_S: Final = 15.0
MOST_CONNECTIONS: Final = 64
"""The limit; one more replaces the connection that has been idle longest."""


class AdminConnection(RequestHandler):
    """One connection; ``others`` has the open ones, the longest idle first."""

    def __init__(self, server: web.Server, others: "dict[AdminConnection, None]") -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **_OPTIONS)
        self._others = others
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Add a connection; the limit leaves descriptors to callers, and probes are always accepted."""
        super().connection_made(transport)
        self._wire = self.transport
        self._others[self] = None
        if len(self._others) > MOST_CONNECTIONS:
            next(iter(self._others)).cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._others.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Mark the connection as active."""
        if self._others.pop(self, 0) is None:
            self._others[self] = None
        super().data_received(data)

    def force_close(self) -> None:
        """Close the connection once the peer has read the response, or a time has passed."""
        cut_later(self.transport, _WRITE_S)
        super().force_close()

    def cut(self) -> None:
        self._others.pop(self, None)
        if self._wire is not None:
            self._wire.abort()

    async def _drain_helper(self) -> None:
        try:
            await drained(self, _WRITE_S, super()._drain_helper)
        except TimeoutError as error:
            self.cut()
            raise ConnectionResetError("the peer reads nothing") from error

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to what the parser rejected or what failed outside the application."""
        # Both texts may quote the request, and so a token.
        del request, message
        why = of_status(status)
        response = answer(why)
        if why is AdminProblem.FAILED:
            _LOG.error("admin request %s failed", response.headers["X-Request-Id"], exc_info=exc)
        response.headers.update(SECURITY_FIELDS)
        # Otherwise aiohttp adds its own with its version.
        response.headers[hdrs.SERVER] = "aos-gateway"
        response.force_close()
        return response


class AdminServer:
    """Serves the admin application of a service."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._runner = self._make_runner()
        self._sockets: ListeningSockets | None = None
        self._acceptor: contextlib.ExitStack | None = None

    async def start(self, sockets: ListeningSockets) -> None:
        """Accept connections on these sockets, its own from now on."""
        self._sockets = sockets
        await self._serve()

    @property
    def sockets(self) -> ListeningSockets:
        """What it accepts on, once it has started."""
        assert self._sockets is not None
        return self._sockets

    async def reload(self) -> None:
        """Serve by the present configuration from now on; requests under way get a moment to end."""
        former, acceptor = self._runner, self._acceptor
        self._runner = self._make_runner()
        await self._serve()
        if acceptor is not None:
            acceptor.close()
        await at_most(_DRAIN_S, former.cleanup())

    async def close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        if self._sockets is not None:
            self._sockets.leave()
        await at_most(_DRAIN_S, self._runner.cleanup())

    def _make_runner(self) -> web.AppRunner:
        return web.AppRunner(build_admin(self._operations), access_log=None, handle_signals=False)

    async def _serve(self) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        connections = functools.partial(AdminConnection, self._runner.server, {})
        self._acceptor = await self.sockets.accept(connections)
