"""From aiohttp's parsed message to a request of ours, and from the answer to bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from aiohttp import web
from aiohttp.streams import StreamReader

from gateway.cache.cache import Cache
from gateway.cache.results import Response
from gateway.core.caching.cache_status import CacheStatus
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.identity import Identity
from gateway.core.caching.key import EntryKey
from gateway.core.http import request as incoming
from gateway.core.http.errors import GatewayError, MessageError
from gateway.core.http.framing import head_bytes
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Fields, IndexedFields, Request, first, names
from gateway.core.http.target import is_write
from gateway.core.http.trace_context import parent
from gateway.downstream.connection import DownstreamConnection
from gateway.downstream.request_id import RequestIds
from gateway.downstream.response import PreparedResponse
from gateway.errors import CallerGone, problem
from gateway.store.lookup import EarlyLookup
from gateway.telemetry.access_log import ABORTED, AccessLog, AccessRecord
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.throttled import ThrottledCallers
from gateway.upstream.upstream import RequestBody

_FOREIGN_HOST = (
    "Host is not a name of this gateway or of its upstream, and in scope shared nothing else is answered: "
    "server.admin_hosts and upstream.signed_hosts can name more."
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HandlerSettings(msgspec.Struct, frozen=True):
    """What bounds the reading of a request.

    Attributes:
        body_timeout_s: between two pieces of a body, and how long a caller may take nothing.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.
    """

    body_timeout_s: float
    own_hosts: OwnHosts | None


class RequestContext(msgspec.Struct, frozen=True):
    """What of a request its answer needs.

    Attributes:
        request_id: names it in errors and log.
        identity: who asks, where that was found out already; ``None`` elsewhere.
        method: the method token.
        path: its target as received.
        fields: its field lines.
        http_11: the caller speaks HTTP/1.1.
        persists: the caller lets its connection carry another request.
        content: its body as it comes; ``None`` when it was read without one.
    """

    request_id: bytes
    identity: Identity | None
    method: str
    path: bytes
    fields: Fields
    http_11: bool
    persists: bool
    content: StreamReader | None


class Handler:
    """Answers every request that aiohttp parsed.

    Args:
        cache: decides and fetches.
        settings: bounds.
        metrics: counts answers.
        throttled: notes who is told to wait.
        access_log: writes a line for each.
        request_ids: names requests that bring no id.
        is_draining: no connection is kept any more.
    """

    def __init__(
        self,
        cache: Cache,
        settings: HandlerSettings,
        *,
        metrics: Metrics,
        throttled: ThrottledCallers,
        access_log: AccessLog,
        request_ids: RequestIds,
        is_draining: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._metrics = metrics
        self._throttled = throttled
        self._access_log = access_log
        self._request_ids = request_ids
        self._is_draining = is_draining

    def change(self, settings: HandlerSettings) -> None:
        """Use other bounds for requests that come from now on."""
        self._settings = settings

    async def __call__(self, message: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        fields = IndexedFields(message.raw_headers)
        request_id = incoming.own_request_id(fields)
        if request_id is None:
            request_id = self._request_ids.fresh()
        path = message.raw_path.encode("utf-8", "surrogateescape")
        connection = message.protocol
        assert isinstance(connection, DownstreamConnection)
        writes = is_write(message.method, names(fields))
        connection.stop_with_caller(None if writes else asyncio.current_task())
        http_11 = message.version >= (1, 1)
        persists = message.keep_alive and incoming.persists(fields, http_11=http_11)
        asked = RequestContext(
            request_id=request_id,
            identity=None,
            method=message.method,
            path=path,
            fields=fields,
            http_11=http_11,
            # aiohttp's parser carries the last trailer of a chunked request into the next one's head.
            persists=persists and "Transfer-Encoding" not in message.headers,
            content=message.content,
        )
        return await self._respond(connection, asked, self._answer(message, asked, fields), time.monotonic())

    async def answer_plain(
        self,
        connection: DownstreamConnection,
        request: Request,
        eligible: Eligible,
        early_lookup: EarlyLookup | None,
        key: EntryKey,
        *,
        started_s: float,
    ) -> PreparedResponse:
        """Answer a GET that was read, checked and planned without the parser."""
        asked = RequestContext(
            request_id=request.request_id,
            identity=eligible.identity,
            method="GET",
            path=request.target,
            fields=request.fields,
            http_11=True,
            persists=True,
            content=None,
        )
        fetching = self._cache.fetch(request, eligible, early_lookup, key)
        return await self._respond(connection, asked, fetching, started_s)

    async def _answer(self, message: web.BaseRequest, asked: RequestContext, fields: Fields) -> Response:
        request, body = self._read(message, asked.path, fields, asked.request_id)
        connection = message.protocol
        assert isinstance(connection, DownstreamConnection)
        return await self._cache.answer(request, body, connection.take_looked_up())

    async def _respond(
        self,
        connection: DownstreamConnection,
        asked: RequestContext,
        answering: Awaitable[Response],
        started_s: float,
    ) -> PreparedResponse:
        """Wait for an answer, or make one of what went wrong; count it, log it, prepare its bytes."""
        keep_alive = asked.persists

        cache_status: CacheStatus | None = None
        failure: GatewayError | None = None
        upstream_s: float | None = None

        def write_line(status: int, sent_bytes: int) -> None:
            head = head_bytes(asked.method, asked.path, asked.fields)
            self._access_log.write(
                AccessRecord(
                    request_id=asked.request_id,
                    peer=connection.origin.caller_address(asked.fields),
                    caller=self._access_log.caller(asked.identity or asked.fields),
                    parent=parent(asked.fields),
                    method=asked.method,
                    path=asked.path,
                    status=status,
                    cache_status=cache_status,
                    error=failure,
                    upstream_s=upstream_s,
                    took_s=time.monotonic() - started_s,
                    received_bytes=head + (asked.content.total_bytes if asked.content is not None else 0),
                    sent_bytes=sent_bytes,
                    user_agent=first(asked.fields, b"user-agent") or b"",
                )
            )

        try:
            answer = await answering
        except asyncio.CancelledError:
            # Who reads the log looks for this request too.
            self._metrics.requests_aborted += 1
            if self._access_log.wants(ABORTED, None):
                write_line(ABORTED, 0)
            raise
        except GatewayError as error:
            head, text = problem(error, asked.request_id)
            answer = Response(head, text, CacheStatus())
            self._metrics.errors[error.code] += 1
            keep_alive = keep_alive and not error.closes
            failure = error
        else:
            cache_status, upstream_s = answer.cache_status, answer.upstream_s
        # What is still to come of the body must not be taken for the next request.
        keep_alive = keep_alive and (asked.content is None or asked.content.is_eof())
        status = answer.head.status
        took_s = time.monotonic() - started_s
        self._metrics.answered(cache_status, status, took_s)
        if status == 429:
            self._throttled.count(asked.fields, is_own=cache_status is None)
        sent: Callable[[int], None] | None = None
        if self._access_log.wants(status, cache_status):

            def sent(sent_bytes: int) -> None:
                write_line(status, sent_bytes)

        return PreparedResponse(
            answer.head,
            method=asked.method,
            body=answer.body,
            http_11=asked.http_11,
            keep_alive=keep_alive and (connection.has_begun_another or not self._is_draining()),
            write_timeout_s=self._settings.body_timeout_s,
            exchange=answer.exchange,
            prefix=answer.prefix,
            linger=connection.linger,
            sent=sent,
        )

    def _read(
        self, message: web.BaseRequest, path: bytes, fields: Fields, request_id: bytes
    ) -> tuple[Request, RequestBody | None]:
        http_11 = message.version >= (1, 1)
        incoming.check_version(message.version.major)
        target, authority = incoming.check_target(message.method, path)
        incoming.check_host(fields, authority, http_11=http_11)
        length = incoming.body_bytes(fields, http_11=http_11)
        expects = incoming.expects_continue(fields)
        host = first(fields, b"host")
        own_hosts = self._settings.own_hosts
        if own_hosts is not None and host is not None and not own_hosts.has(host):
            raise MessageError(421, _FOREIGN_HOST, closes=False)
        connection = message.protocol
        assert isinstance(connection, DownstreamConnection)
        request = Request(
            method=message.method,
            target=target,
            fields=fields,
            peer=connection.peer,
            scheme=connection.scheme,
            body_bytes=length,
            request_id=request_id,
        )
        if message.content.exception() is not None:
            # Its body broke off before the upstream has heard of it, and it need not.
            raise MessageError(400, "The request body is malformed.")
        if length == 0:
            return request, None
        return request, RequestBody(self._chunks(message, expects=expects and http_11), length)

    async def _chunks(self, message: web.BaseRequest, *, expects: bool) -> AsyncIterator[bytes]:
        """Yield a request body as it comes; ask for it first if the caller waits for that."""
        content = message.content
        if expects and not content.is_eof() and message.transport is not None:
            message.transport.write(_CONTINUE)
        while True:
            try:
                async with asyncio.timeout(self._settings.body_timeout_s):
                    data = await content.readany()
                if (broken := content.exception()) is not None:
                    raise broken
            except (TimeoutError, ConnectionError) as error:
                raise CallerGone from error
            except Exception as error:
                # Whatever aiohttp calls a body that broke off or has bad chunks, it is the caller's.
                raise MessageError(400, "The request body is malformed.") from error
            if not data:
                return
            yield data
