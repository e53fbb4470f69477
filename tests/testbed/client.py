"""A raw HTTP/1.1 client: sends exact bytes, shows exact bytes, repeats nothing."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import Self

from . import address as addresses
from .answers import Text, as_bytes
from .response import RawResponse, TruncatedResponse
from .sockets import finish, reset
from .wire import (
    Body,
    BodyReader,
    ConnectionCut,
    MalformedMessage,
    Wire,
    split_head,
    values,
)

__all__ = ["Headers", "RawClient", "RawResponse", "TruncatedResponse", "fetch", "request_bytes"]

Headers = Sequence[tuple[Text, Text]]

_MAX_HEAD_BYTES = 1 << 20
_MAX_BODY_BYTES = 256 << 20
_SWITCHING = 101
_BODILESS = {_SWITCHING, 204, 304}


class RawClient:
    """One connection; requests can follow each other or be pipelined.

    Attributes:
        was_reset: whether the peer has ended the connection by a reset.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.was_reset = False
        self.writer = writer
        self._wire = Wire(reader)
        self._pending: tuple[RawResponse, BodyReader] | None = None

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        source: str | None = None,
        timeout_s: float = 5.0,
    ) -> Self:
        """Connect to `host:port`, `[v6]:port` or `unix:/path` (deadline in seconds).

        Args:
            source: the own address to connect from; `None` lets the system choose.
        """
        opened = await addresses.connect(
            address, tls=tls, server_hostname=server_hostname, source=source, timeout_s=timeout_s
        )
        return cls(*opened)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, data: bytes, timeout_s: float = 5.0) -> None:
        """Write exactly these bytes and wait until the socket has taken them (deadline in seconds)."""
        self.writer.write(data)
        async with asyncio.timeout(timeout_s):
            await self.writer.drain()

    async def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        timeout_s: float = 5.0,
    ) -> RawResponse:
        """Send one request as `request_bytes` builds it and read its response."""
        await self.send(request_bytes(method, target, headers, body), timeout_s)
        return await self.read_response(method, timeout_s)

    async def read_response(self, method: str = "GET", timeout_s: float = 5.0) -> RawResponse:
        """Read the next response whole.

        Args:
            method: the request's, because a response to HEAD has no body.
            timeout_s: deadline in seconds for all of it.

        Raises:
            ConnectionCut: the end came before or in the head.
            TruncatedResponse: the end came in the body.
            TimeoutError: the deadline passed.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._pending is None:
            await self.read_head(method, timeout_s)
        return await self.read_body(deadline - loop.time())

    async def read_head(self, method: str = "GET", timeout_s: float = 5.0) -> RawResponse:
        """Read the next response's head alone; its body stays empty until `read_body` or `read_some`."""
        if self._pending is not None:
            raise RuntimeError("the last response's body has not been read yet")
        async with asyncio.timeout(timeout_s):
            interim: list[RawResponse] = []
            while (response := await self._head(interim)).status < 200 and response.status != _SWITCHING:
                interim.append(response)
        bodiless = method == "HEAD" or response.status in _BODILESS
        fields = [] if bodiless else response.headers
        reader = BodyReader(self._wire, fields, unframed_to_end=not bodiless, max_bytes=_MAX_BODY_BYTES)
        whole = RawResponse(
            response.raw_head,
            response.version,
            response.status,
            response.reason,
            response.headers,
            reader.body,
            tuple(interim),
        )
        self._pending = whole, reader
        return whole

    async def read_some(self, timeout_s: float = 5.0) -> bytes:
        """Read the next piece of the body whose head `read_head` has read; b"" once it is complete."""
        response, reader = self._expected()
        seen = len(response.framing.data)
        async with asyncio.timeout(timeout_s):
            while not response.framing.complete and len(response.framing.data) == seen:
                await self._more(response, reader)
        if response.framing.complete and len(response.framing.data) == seen:
            self._pending = None
        return bytes(response.framing.data[seen:])

    async def read_body(self, timeout_s: float = 5.0) -> RawResponse:
        """Read the rest of the response whose head `read_head` has read (deadline in seconds)."""
        response, reader = self._expected()
        async with asyncio.timeout(timeout_s):
            while not response.framing.complete:
                await self._more(response, reader)
        self._pending = None
        return response

    async def at_eof(self, timeout_s: float = 1.0) -> bool:
        """Whether the peer has ended the connection with nothing left to read.

        Returns:
            True: ended, cleanly or by reset. False: there is a byte, or it is still open at the deadline.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._wire.at_end()
        except TimeoutError:
            return False
        except ConnectionError:
            self.was_reset = True
            return True

    def half_close(self) -> None:
        """End our side and keep reading."""
        self.writer.write_eof()

    def abort(self) -> None:
        """Leave with a reset."""
        reset(self.writer)

    async def close(self) -> None:
        """Leave cleanly."""
        await finish(self.writer)

    async def _head(self, interim: list[RawResponse]) -> RawResponse:
        try:
            raw_head = await self._wire.until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        except ConnectionError as error:
            self.was_reset = True
            raise ConnectionCut(b"".join(one.raw_head for one in interim)) from error
        start, fields = split_head(raw_head)
        version, _, rest = start.partition(b" ")
        status, _, reason = rest.partition(b" ")
        if not version.startswith(b"HTTP/1.") or len(status) != 3 or not status.isdigit():
            raise MalformedMessage(f"bad status line {start[:80]!r}")
        return RawResponse(raw_head, version, int(status), reason, fields, Body(complete=True))

    async def _more(self, response: RawResponse, reader: BodyReader) -> None:
        try:
            await reader.more()
        except (ConnectionCut, ConnectionError) as error:
            self.was_reset = isinstance(error, ConnectionError)
            raise TruncatedResponse(response) from error

    def _expected(self) -> tuple[RawResponse, BodyReader]:
        if self._pending is None:
            raise RuntimeError("read_head comes first")
        return self._pending


def request_bytes(
    method: str, target: str, headers: Headers = (), body: bytes | None = None, *, host: str = "127.0.0.1"
) -> bytes:
    """Build the exact bytes of a request.

    Args:
        method: the method.
        target: the request target, one byte per character.
        headers: fields in order. Host comes first unless it is among them; Content-Length comes last when
            there is a body and no framing field among them.
        body: the body; with a Transfer-Encoding of your own it must be framed already.
        host: value of the added Host.
    """
    fields = [(as_bytes(name), as_bytes(value)) for name, value in headers]
    if not values(fields, "host"):
        fields.insert(0, (b"Host", host.encode()))
    framed = values(fields, "content-length") or values(fields, "transfer-encoding")
    if body is not None and not framed:
        fields.append((b"Content-Length", b"%d" % len(body)))
    lines = [b"%s %s HTTP/1.1" % (method.encode(), as_bytes(target))]
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join([*lines, b"", body or b""])


async def fetch(
    address: str,
    target: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | None = None,
    token: Text | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 10.0,
) -> RawResponse:
    """Make one request on a connection of its own.

    Args:
        address: `host:port`, `[v6]:port` or `unix:/path`.
        target: the request target.
        method: the method.
        headers: fields in order, after Host and before X-Auth-Token.
        body: the body, framed by Content-Length.
        token: value of an added X-Auth-Token; None adds none.
        tls: context of a TLS client; None speaks plainly.
        timeout_s: deadline in seconds for all of it.
    """
    fields: list[tuple[Text, Text]] = [*headers, *([("X-Auth-Token", token)] if token is not None else [])]
    host = "localhost" if address.startswith("unix:") else address
    async with asyncio.timeout(timeout_s):
        async with await RawClient.connect(address, tls=tls, timeout_s=timeout_s) as client:
            await client.send(request_bytes(method, target, fields, body, host=host), timeout_s)
            return await client.read_response(method, timeout_s)
