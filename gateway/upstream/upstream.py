"""Requests to AOS, byte for byte, over pooled connections; the only user of aiohttp's client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import AsyncIterator
from typing import cast

import aiohttp
import msgspec
from aiohttp.client_exceptions import ClientConnectionError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from gateway.clock import Clock
from gateway.core.http.errors import GatewayError
from gateway.core.http.fields import response_defect
from gateway.core.http.framing import BodyFraming, request_bytes, response_framing
from gateway.core.http.messages import Fields, Head, IndexedFields, names
from gateway.core.http.target import SERVER_WIDE, is_write
from gateway.errors import GaveWay, Overloaded, UpstreamError
from gateway.runtime.progress import drained, taken
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.exchange import Exchange
from gateway.upstream.failure import FAILURES, connect_failure, exchange_failure
from gateway.upstream.idle import IdleConnections, protocol_of
from gateway.upstream.limiter import PATIENCE_S, Slot, Slots

_log = logging.getLogger("gateway.upstream.upstream")
_RETRIED_METHODS = frozenset({"GET", "HEAD"})
_READ_BYTES = 65_536
_MAX_HEAD_BYTES = 65_536
_MAX_FIELDS = 256
_DNS_S = 10
# aiohttp's own read timer fires first; this one is for the cases in which it was seen to hang.
_OUTER_S = 1.0


class UpstreamSettings(msgspec.Struct, frozen=True):
    """How to reach the upstream; times in seconds.

    Attributes:
        url: scheme, host and port.
        base_path: goes before every target; no trailing slash.
        max_connections: bound of exchanges at a time; as many again may wait for slow callers.
        max_waiting: bound of requests waiting for one.
        server_name: what its certificate has to be for; empty for the host of the URL.
        tls: for an https URL; ``None`` for plain connections.
    """

    url: str
    base_path: bytes
    connect_timeout_s: float
    read_timeout_s: float
    max_connections: int
    max_waiting: int
    connection_max_age_s: float
    server_name: str
    tls: ssl.SSLContext | None


class RequestBody(msgspec.Struct, frozen=True):
    """A request body to stream.

    Attributes:
        chunks: its pieces; raises `GatewayError` when the caller leaves or stalls.
        length: declared bytes; ``None`` for chunks.
    """

    chunks: AsyncIterator[bytes]
    length: int | None


class Upstream:
    """The pool of connections to one AOS.

    Args:
        settings: how to reach it.
        clock: tells how old a connection is.
        metrics: counts calls and failures.
    """

    def __init__(self, settings: UpstreamSettings, clock: Clock, metrics: Metrics) -> None:
        self.slots = Slots(settings.max_connections, settings.max_waiting, settings.read_timeout_s)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._state = StateLog("upstream", clock)
        self._tasks = TaskSet()
        self._idle = IdleConnections(settings.max_connections, settings.connection_max_age_s, clock)
        loop = asyncio.get_running_loop()
        # It opens connections; idle ones are kept here, so that none is used again without a look at it.
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=_DNS_S)
        # The connector has no public way to make connections of our own class.
        if not hasattr(self._connector, "_factory"):
            raise RuntimeError("aiohttp is not the locked version: it makes connections in another way")
        make = functools.partial(UpstreamConnection, loop, clock)
        self._connector._factory = cast("functools.partial[ResponseHandler]", make)
        self.change(settings)

    async def send(self, method: str, target: bytes, fields: Fields, body: RequestBody | None) -> Exchange:
        """Send a request and wait for the response head.

        A GET or HEAD that is no write in disguise is sent once more when a reused connection broke
        before a byte of the answer: then the upstream had closed it while idle. Nothing else is ever
        repeated.

        Args:
            method: the method token.
            target: origin-form target as received, which the base path goes before, or ``*``.
            fields: field lines without framing.
            body: the request body; ``None`` for none.

        Raises:
            GatewayError: there is no usable response; see `UpstreamError.was_sent`.
        """
        length = body.length if body is not None else 0
        if target != SERVER_WIDE:
            target = self._settings.base_path + target
        head = request_bytes(method, target, fields, length)
        asked_s = self._clock.monotonic_s()
        try:
            slot = await self.slots.take()
            slot.began_s = self._clock.monotonic_s()
            self._metrics.called(method, slot.began_s - asked_s)
            try:
                connection = await self._connect(fresh=False)
                try:
                    return await self._exchange(connection, method, head, body, slot)
                except _Stale:
                    is_reading = method in _RETRIED_METHODS and not is_write(method, names(fields))
                    if body is not None or not is_reading:
                        raise
                connection = await self._connect(fresh=True)
                return await self._exchange(connection, method, head, body, slot)
            except BaseException as error:
                slot.free()
                if isinstance(error, UpstreamError):
                    took_s = self._clock.monotonic_s() - slot.began_s
                    self._metrics.responded(None, took_s, error.proxy_error)
                raise
        except UpstreamError as error:
            self._metrics.upstream_failures[error.proxy_error] += 1
            # Neither a full queue here nor the end of an idle connection says how the upstream is.
            if not isinstance(error, Overloaded | _Stale):
                self._state.down(error.proxy_error + (f": {error.said}" if error.said else ""))
            raise

    def change(self, settings: UpstreamSettings) -> None:
        """Use other times and another TLS context, whose connections are not those of the one before."""
        self._settings = settings
        self.slots.wait_s = settings.read_timeout_s
        self._timeout = aiohttp.ClientTimeout(sock_connect=settings.connect_timeout_s)
        # Says where to connect to, and which pooled connections lead there; it is never sent.
        self._destination = ClientRequest(
            "GET",
            URL(self._settings.url),
            loop=asyncio.get_running_loop(),
            ssl=settings.tls or True,
            server_hostname=self._settings.server_name or None,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._tasks.cancel()
        self._idle.close()
        await self._connector.close()

    async def _connect(self, *, fresh: bool) -> Connection:
        """Take an idle connection, or open one; ``fresh`` takes no used one."""
        connection = None if fresh else self._idle.take()
        if connection is not None:
            return connection
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await self._connector.connect(self._destination, [], self._timeout)
                _log.debug("opened a connection to the upstream, %d are in use", self.slots.in_use)
                return connection
        except (ClientConnectionError, OSError) as error:
            raise connect_failure(error) from error

    async def _exchange(
        self, connection: Connection, method: str, head: bytes, body: RequestBody | None, slot: Slot
    ) -> Exchange:
        protocol = protocol_of(connection)
        is_reused = protocol.exchanges > 0
        protocol.begin(self._settings.read_timeout_s)
        protocol.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=self._settings.read_timeout_s,
            read_bufsize=_READ_BYTES,
            max_line_size=_MAX_HEAD_BYTES,
            max_field_size=_MAX_HEAD_BYTES,
            max_headers=_MAX_FIELDS,
        )
        upload: asyncio.Task[None] | None = None
        try:
            if protocol.transport is None:
                raise ConnectionResetError
            protocol.transport.write(head)
            if body is None:
                protocol.start_timeout()
            else:
                slot.give_way = functools.partial(protocol.set_exception, GaveWay())
                upload = self._tasks.start(self._upload(protocol, body, slot), "upload", awaited=True)
            return await self._read_head(connection, method, upload, slot)
        except BaseException as error:
            if upload is not None:
                upload.cancel()
                with contextlib.suppress(BaseException):
                    await upload
            connection.close()
            cause = upload.exception() if upload is not None and not upload.cancelled() else None
            if isinstance(cause, GatewayError):
                raise cause from error
            if not isinstance(error, FAILURES):
                raise
            is_cut = isinstance(error, (ClientConnectionError, OSError))
            if is_cut and not isinstance(error, TimeoutError) and is_reused and protocol.received == 0:
                raise _Stale("connection_terminated", was_sent=True) from error
            raise exchange_failure(error, was_headless=True) from error

    async def _read_head(
        self, connection: Connection, method: str, upload: asyncio.Task[None] | None, slot: Slot
    ) -> Exchange:
        protocol = protocol_of(connection)
        message, payload = await protocol.read()
        if payload.is_eof():
            protocol.stop_timeout()
        fields = IndexedFields(message.raw_headers)
        head = Head(message.code, message.reason.encode("utf-8", "surrogateescape"), fields)
        defect = response_defect(head, http_10=message.version < aiohttp.HttpVersion11)
        framing = response_framing(head, method)
        has_body = framing is BodyFraming.NONE and method != "HEAD" and protocol.has_more_than_head()
        if has_body or not protocol.has_sound_head():
            defect = defect or "http_protocol_error"
        if defect is not None:
            raise UpstreamError(defect, was_sent=True)
        head_s = self._clock.monotonic_s() - slot.began_s
        self._metrics.responded(head.status, head_s)
        self._state.up()
        return Exchange(
            head,
            framing,
            payload,
            connection,
            upload=upload,
            read_timeout_s=self._settings.read_timeout_s + _OUTER_S,
            slot=slot,
            idle=self._idle,
            head_s=head_s,
        )

    async def _upload(self, protocol: UpstreamConnection, body: RequestBody, slot: Slot) -> None:
        """Stream a request body; a body that breaks off cuts the connection, so it never looks whole."""
        slot.moves()
        patience = asyncio.get_running_loop().call_later(PATIENCE_S, slot.wait_for_caller)
        is_slow = False
        try:
            async for chunk in body.chunks:
                if not chunk:
                    continue
                slot.moves()
                framed = chunk if body.length is not None else b"%x\r\n%s\r\n" % (len(chunk), chunk)
                is_slow |= await self._write(protocol, framed)
            if body.length is None:
                await self._write(protocol, b"0\r\n\r\n")
            if is_slow:
                # The kernel may keep megabytes that are still to be sent; no answer can be due before.
                await taken(protocol, self._settings.read_timeout_s)
        except GatewayError as error:
            protocol.set_exception(ClientConnectionError(str(error)))
            raise
        except (ClientConnectionError, OSError, TimeoutError):
            # The upstream took no more; its answer, or its silence, tells the rest.
            if protocol.transport is not None:
                protocol.start_timeout()
            return
        finally:
            patience.cancel()
            slot.go_on()
        protocol.start_timeout()

    async def _write(self, protocol: UpstreamConnection, data: bytes) -> bool:
        if protocol.transport is None:
            raise ConnectionResetError
        protocol.transport.write(data)
        return await drained(protocol, self._settings.read_timeout_s)


class _Stale(UpstreamError):
    """A reused connection broke before a byte of the answer."""
