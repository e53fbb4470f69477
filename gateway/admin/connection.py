"""Connections to the admin address: aiohttp's, but bounded; what can't be parsed is not echoed or logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from gateway.admin.errors import SECURITY_FIELDS, AdminProblem, answer, of_status
from gateway.runtime.progress import cut_later, drained

_LOG = logging.getLogger("gateway.admin")
_KEEPALIVE_S: Final = 75.0
# How long the rest of a body that nobody wants is read away before the connection is closed.
_LINGER_S: Final = 0.5
# How long a peer may take nothing of an answer.
_WRITE_S: Final = 15.0
MOST_CONNECTIONS: Final = 64
"""How many there may be; one more takes the place of the one on which nothing has come for longest."""


def admin_connections(
    server: web.Server, connection: type[AdminConnection] | None = None
) -> Callable[[], asyncio.Protocol]:
    """Return what makes the connections of an admin listener.

    Args:
        server: the server of the runner that runs the admin application.
        connection: the class of the connections.
    """
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "keepalive_timeout": _KEEPALIVE_S,
        "lingering_time": _LINGER_S,
    }
    others: dict[AdminConnection, None] = {}
    make = connection or AdminConnection
    return lambda: make(server, others, **options)


class AdminConnection(RequestHandler):
    """One connection.

    Args:
        server: see `admin_connections`.
        others: the open ones, that on which nothing has come for longest first.
        options: of aiohttp's.
    """

    def __init__(self, server: web.Server, others: dict[AdminConnection, None], **options: Any) -> None:
        super().__init__(server, **options)
        self._others = others
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection; callers need descriptors too, and probes must always come in."""
        super().connection_made(transport)
        self._wire = self.transport
        self._others[self] = None
        if len(self._others) > MOST_CONNECTIONS:
            next(iter(self._others)).cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of a connection."""
        self._others.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._others.pop(self, 0) is None:
            self._others[self] = None
        super().data_received(data)

    def force_close(self) -> None:
        """Close the connection once the peer has taken what was written, for which it has a time."""
        cut_later(self.transport, _WRITE_S)
        super().force_close()

    def cut(self) -> None:
        """End the connection at once, whatever is still to be sent."""
        self._others.pop(self, None)
        if self._wire is not None:
            self._wire.abort()

    async def _drain_helper(self) -> None:
        try:
            await drained(self, _WRITE_S, super()._drain_helper)
        except TimeoutError as error:
            self.cut()
            raise ConnectionResetError("the peer takes nothing") from error

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser refused, or what failed outside the application."""
        # Both texts may hold what the sender sent, a token for example.
        del request, message
        why = of_status(status)
        response = answer(why)
        if why is AdminProblem.FAILED:
            _LOG.error("admin request %s failed", response.headers["X-Request-Id"], exc_info=exc)
        response.headers.update(SECURITY_FIELDS)
        # Where there is none, aiohttp puts its own with its version.
        response.headers[hdrs.SERVER] = "aos-gateway"
        response.force_close()
        return response
