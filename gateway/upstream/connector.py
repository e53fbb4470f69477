"""Opens connections to one upstream: its name resolved, its addresses tried in turn, TLS."""

import asyncio
import socket
import ssl
from typing import Any

import aiohappyeyeballs

from gateway.clock import Clock
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.failure import connect_failure

_DNS_S = 10.0
# RFC 8305 section 5: how long one address is tried alone before the next one.
_STAGGER_S = 0.25

_AddressInfo = tuple[Any, Any, int, str, Any]


class Connector:
    """Opens connections.

    Args:
        host: name or IP literal.
        port: its port.
        tls: context of an https upstream; ``None`` for plain connections.
        server_name: what its certificate has to be for.
        timeout_s: of one connection, with name and TLS.
        clock: monotonic time.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        server_name: str,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._server_name = server_name or host
        self._timeout_s = timeout_s
        self._clock = clock
        self._resolving: asyncio.Future[list[_AddressInfo]] | None = None
        self._resolved_s = 0.0

    async def open(self) -> UpstreamConnection:
        """Return a new connection.

        Raises:
            UpstreamError: there is none, within the timeout.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._open()
        except OSError as error:
            # The name may lead elsewhere by now.
            self._resolving = None
            raise connect_failure(error) from error

    async def _open(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        connected = await aiohappyeyeballs.start_connection(
            await self._addresses(), happy_eyeballs_delay=_STAGGER_S, interleave=1, loop=loop
        )
        try:
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self._clock.monotonic_s()),
                sock=connected,
                ssl=self._tls,
                server_hostname=self._server_name if self._tls is not None else None,
            )
        except BaseException:
            connected.close()
            raise
        return connection

    async def _addresses(self) -> list[_AddressInfo]:
        """Resolve the name, at most every ten seconds and once for all who wait."""
        now_s = self._clock.monotonic_s()
        if self._resolving is None or (self._resolving.done() and now_s - self._resolved_s > _DNS_S):
            self._resolved_s = now_s
            self._resolving = asyncio.ensure_future(
                asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            )
        return await asyncio.shield(self._resolving)
