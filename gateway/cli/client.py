"""The HTTP client of the commands: whole, bounded responses over connections that are kept."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import aiohttp
import msgspec
from yarl import URL

from gateway.config.address import Address, TcpAddress, UnixAddress, UpstreamUrl
from gateway.core.http.messages import Fields

_CONNECT_S: Final = 10.0
_MAX_FIELD_BYTES: Final = 65_536
_MAX_BODY_BYTES: Final = 16 * 1_048_576
_PIECE_BYTES: Final = 65_536


class NoResponseError(Exception):
    """There was no whole response; the text says why in a few words."""


class TooLargeError(NoResponseError):
    """A response is longer than any that is expected."""

    def __init__(self) -> None:
        super().__init__(f"the answer is larger than {_MAX_BODY_BYTES} bytes")


class Response(msgspec.Struct, frozen=True):
    """A response.

    Attributes:
        body: without content coding.
    """

    status: int
    fields: Fields
    body: bytes


class Client:
    """An HTTP client of one server; use it as a context."""

    def __init__(self, server: UpstreamUrl | Address) -> None:
        """Make a client that has not connected yet.

        Args:
            server: a URL, a TCP address ("" as host is this machine) or a Unix socket.
        """
        self._socket: str | None = None
        match server:
            case UnixAddress(path=path):
                self._base, self._socket = "http://localhost", path
            case TcpAddress(host="", port=port):
                self._base = f"http://localhost:{port}"
            case TcpAddress():
                self._base = f"http://{server}"
            case UpstreamUrl():
                self._base = str(server)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector() if self._socket is None else aiohttp.UnixConnector(self._socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(
        self, method: str, path: str, fields: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> Response:
        """Send a request; a redirect is a response like any other.

        Args:
            method: the method token.
            path: percent-encoded, behind the path of the server's URL.
            fields: field lines; a body's Content-Type is JSON.
            timeout_s: for the whole response.
            body: JSON; ``None`` sends none.

        Raises:
            NoResponseError: no whole response came in time.
            TooLargeError: its body is longer than 16 MiB.
        """
        if body is not None:
            fields = {**fields, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(_CONNECT_S, timeout_s))
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                headers=fields,
                data=body,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                read = bytearray()
                while piece := await response.content.read(_PIECE_BYTES):
                    read += piece
                    if len(read) > _MAX_BODY_BYTES:
                        response.close()
                        raise TooLargeError
                return Response(response.status, response.raw_headers, bytes(read))
        except (aiohttp.ClientError, OSError) as exc:
            raise NoResponseError(_reason(exc)) from exc


def _reason(exc: Exception) -> str:
    match exc:
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorDNSError():
            return "its name is not known"
        case OSError() if exc.errno and exc.errno > 0:
            return os.strerror(exc.errno)
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return "the connection ended too early"
        case _:
            return type(exc).__name__
