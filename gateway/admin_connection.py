"""A connection to the admin address: aiohttp's, without its habit to echo and log what it can't parse."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from gateway.admin_errors import SECURITY_FIELDS, No, answer, of_status

_LOG = logging.getLogger("gateway.admin")
_KEEPALIVE_S: Final = 75.0
# How long the rest of a body that nobody wants is read away before the connection is closed.
_LINGER_S: Final = 0.5


def admin_connections(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """Return what makes the connections of an admin listener.

    Args:
        server: the server of the runner that runs the admin application.
    """
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "keepalive_timeout": _KEEPALIVE_S,
        "lingering_time": _LINGER_S,
    }
    return lambda: AdminConnection(server, **options)


class AdminConnection(RequestHandler):
    """One connection."""

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
        if why is No.FAILED:
            _LOG.error("admin request %s failed", response.headers["X-Request-Id"], exc_info=exc)
        response.headers.update(SECURITY_FIELDS)
        # Where there is none, aiohttp puts its own with its version.
        response.headers[hdrs.SERVER] = "aos-gateway"
        response.force_close()
        return response
