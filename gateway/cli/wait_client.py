"""One look at an execution, as `aos-gateway wait` takes it."""

from __future__ import annotations

import os
import ssl
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from gateway.config.address import UnixAddress, UpstreamUrl
from gateway.config.secret import Secret
from gateway.core.http.messages import Fields

_CONNECT_S: Final = 10.0
_MAX_FIELD_BYTES: Final = 65_536
_MAX_BODY_BYTES: Final = 16 * 1_048_576
_PIECE_BYTES: Final = 65_536


class NoAnswerError(Exception):
    """There was no whole answer; the text says why in a few words."""


class TooLargeError(Exception):
    """An answer is longer than any record."""

    def __init__(self) -> None:
        super().__init__(f"the answer is larger than {_MAX_BODY_BYTES} bytes")


class Look(msgspec.Struct, frozen=True):
    """What came back.

    Attributes:
        body: without content coding.
    """

    status: int
    fields: Fields
    body: bytes


class Client:
    """Asks for one execution, again and again, over connections that are kept; use it as a context."""

    def __init__(
        self, gateway: UpstreamUrl | UnixAddress, stack_id: str, action_id: str, token: Secret
    ) -> None:
        """Make a client that has not connected yet.

        Args:
            gateway: whom to ask.
            stack_id: free text.
            action_id: free text.
            token: goes up as ``X-Auth-Token``.
        """
        base = "http://localhost" if isinstance(gateway, UnixAddress) else str(gateway)
        path = f"/v2/stacks/{quote(stack_id, safe='')}/actions/{quote(action_id, safe='')}"
        self._url = URL(base + path, encoded=True)
        self._token = token
        self._socket = gateway.path if isinstance(gateway, UnixAddress) else None

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

    async def look(self, timeout_s: float, wait_s: int = 0, etag: str = "") -> Look:
        """Ask once; a redirect is an answer like any other.

        Args:
            timeout_s: for the whole answer.
            wait_s: how long the answer may wait for a change (RFC 7240); 0 for an ordinary request.
            etag: of the record that is known; "" for none.

        Raises:
            NoAnswerError: no whole answer came in time.
            TooLargeError: the body is longer than 16 MiB.
        """
        fields = {"X-Auth-Token": self._token.reveal(), "Accept": "application/json"}
        if wait_s:
            fields["Prefer"] = f"wait={wait_s}"
        if etag:
            fields["If-None-Match"] = etag
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(_CONNECT_S, timeout_s))
        try:
            async with self._session.get(
                self._url, headers=fields, allow_redirects=False, timeout=timeout
            ) as response:
                body = bytearray()
                while piece := await response.content.read(_PIECE_BYTES):
                    body += piece
                    if len(body) > _MAX_BODY_BYTES:
                        response.close()
                        raise TooLargeError
                return Look(response.status, response.raw_headers, bytes(body))
        except (aiohttp.ClientError, OSError) as exc:
            raise NoAnswerError(_reason(exc)) from exc


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
