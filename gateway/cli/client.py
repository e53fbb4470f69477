"""The HTTP client of the commands: whole, bounded responses over connections that are kept."""

import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

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


class Response(msgspec.Struct, frozen=True):
    """A response; its body has no content coding."""

    status: int
    fields: Fields
    body: bytes


@dataclass(frozen=True, repr=False)
class Client:
    """An HTTP client of one server; see `connect`."""

    session: aiohttp.ClientSession
    base: str

    async def send(
        self, method: str, path: str, fields: Mapping[str, str], timeout_s: float, body: bytes | None = None
    ) -> Response:
        """Send a request, with a body that is JSON; a redirect is a response like any other.

        ``path`` is percent-encoded and goes behind that of the server's URL. Raises `NoResponseError` unless
        a whole response comes in time, `TooLargeError` when its body is longer than 16 MiB.
        """
        if body is not None:
            fields = {**fields, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(_CONNECT_S, timeout_s))
        try:
            async with self.session.request(
                method,
                URL(self.base + path, encoded=True),
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
                        raise TooLargeError(f"the answer is larger than {_MAX_BODY_BYTES} bytes")
                return Response(response.status, response.raw_headers, bytes(read))
        except (aiohttp.ClientError, OSError) as exc:
            raise NoResponseError(_reason(exc)) from exc


@contextlib.asynccontextmanager
async def connect(server: UpstreamUrl | Address) -> AsyncIterator[Client]:
    """Make a client of one server; of a TCP address, "" as host is this machine."""
    connector = None
    match server:
        case UnixAddress(path=path):
            connector, base = aiohttp.UnixConnector(path), "http://localhost"
        case TcpAddress(host="", port=port):
            base = f"http://localhost:{port}"
        case TcpAddress():
            base = f"http://{server}"
        case UpstreamUrl():
            base = str(server)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=_MAX_FIELD_BYTES,
        max_field_size=_MAX_FIELD_BYTES,
    ) as session:
        yield Client(session, base)


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
