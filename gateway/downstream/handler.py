"""From aiohttp's parsed message to a request of ours, and from the answer to bytes."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.streams import StreamReader

from gateway.cache.cache import Cache
from gateway.cache.results import Response
from gateway.core.caching.cache_status import ERROR, CacheStatus, outcome
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.identity import Identity
from gateway.core.http import request as incoming
from gateway.core.http.errors import GatewayError, MessageError
from gateway.core.http.framing import head_bytes, whole_response
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Fields, IndexedFields, Request, first, names
from gateway.core.http.target import is_write
from gateway.core.http.trace_context import parent
from gateway.credentials.credentials import GatewayCredentials
from gateway.downstream.connection import DownstreamConnection
from gateway.downstream.request_id import RequestIds
from gateway.downstream.response import LARGE_BYTES, PreparedResponse
from gateway.errors import CallerGone, problem
from gateway.store.lookup import EarlyLookup
from gateway.tasks import raising
from gateway.telemetry.access_log import ABORTED, AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.throttled import ThrottledCallers
from gateway.upstream.upstream import RequestBody

_FOREIGN_HOST = (
    "Host is not a name of this gateway or of its upstream, and in scope shared nothing else is answered: "
    "server.admin_hosts and upstream.signed_hosts can name more."
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class RequestContext(msgspec.Struct):
    """What of a request its response needs.

    Attributes:
        connection: it came over.
        request_id: names it in errors and log.
        identity: of the caller, where it is known already; ``None`` elsewhere.
        method: the method token.
        path: its target as received.
        fields: its field lines.
        http_11: the caller speaks HTTP/1.1.
        persists: the caller lets its connection carry another request.
        content: its body as it comes; ``None`` when it was read without one.
        started_s: monotonic time at which it had been read.
        waited_s: how long it has waited because its caller asked to; ``None`` when it has not.
        is_decided: its response is known, or what has to be awaited for it.
    """

    connection: DownstreamConnection
    request_id: bytes
    identity: Identity | None
    method: str
    path: bytes
    fields: Fields
    http_11: bool
    persists: bool
    content: StreamReader | None
    started_s: float
    waited_s: float | None = None
    is_decided: bool = False

    def waited(self, waited_s: float) -> None:
        """Take note of a wait that is over; another one may have gone before."""
        self.waited_s = (self.waited_s or 0.0) + waited_s


Prepared = bytes | PreparedResponse | Coroutine[Any, Any, PreparedResponse]
OnPrepared = Callable[[Prepared], None]
"""Called once, with a response ready to be written, whole if it is bytes, or what is to be awaited for it."""


class _PlainContext(RequestContext, kw_only=True):
    """A request that is answered without the parser and without a task.

    Attributes:
        handler: answers it.
        on_prepared: called once.
        leave: to be called when nobody waits for the response any more; ``None`` while that changes nothing.
    """

    handler: "Handler"
    on_prepared: OnPrepared
    leave: Callable[[], None] | None = None

    def take(self, response: Response | GatewayError | Coroutine[Any, Any, Response]) -> None:
        """Take what the cache gives."""
        self.is_decided = True
        # It would be a cycle.
        self.leave = None
        prepared: Prepared
        if not isinstance(response, (Response, GatewayError)):
            prepared = self.handler.prepared(self, response)
        else:
            try:
                prepared = self.handler.prepare_plain(self, response)
            except Exception as error:
                prepared = raising(error)
        self.on_prepared(prepared)

    def caller_left(self) -> None:
        """Nobody waits for the response any more."""
        leave, self.leave = self.leave, None
        if leave is not None:
            leave()
        self.handler.aborted(self)


class Handler:
    """Answers every request that aiohttp parsed.

    Args:
        cache: decides and fetches.
        body_timeout_s: between two pieces of a body, and how long a caller may take nothing.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.
        metrics: counts answers.
        throttled: counts callers that get a 429.
        access_log: writes a line for each.
        request_ids: names requests that bring no id.
        is_draining: no connection is kept any more.
        credentials: for requests that have none; ``None`` sends them on as they are.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        body_timeout_s: float,
        own_hosts: OwnHosts | None,
        metrics: Metrics,
        throttled: ThrottledCallers,
        access_log: AccessLog,
        request_ids: RequestIds,
        is_draining: Callable[[], bool],
        credentials: GatewayCredentials | None,
    ) -> None:
        self._cache = cache
        self._credentials = credentials
        self.body_timeout_s = body_timeout_s
        self._own_hosts = own_hosts
        self._metrics = metrics
        self._throttled = throttled
        self._access_log = access_log
        self._request_ids = request_ids
        self._is_draining = is_draining

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
        task = asyncio.current_task()
        connection.stop_with_caller(None if writes or task is None else task.cancel)
        http_11 = message.version >= (1, 1)
        persists = message.keep_alive and incoming.persists(fields, http_11=http_11)
        context = RequestContext(
            connection=connection,
            request_id=request_id,
            identity=None,
            method=message.method,
            path=path,
            fields=fields,
            http_11=http_11,
            # aiohttp's parser carries the last trailer of a chunked request into the next one's head.
            persists=persists and "Transfer-Encoding" not in message.headers,
            content=message.content,
            started_s=time.monotonic(),
        )
        return await self.prepared(context, self._answer(message, context))

    def answer_plain(
        self,
        connection: DownstreamConnection,
        request: Request,
        eligible: Eligible,
        found: EarlyLookup | None,
        *,
        started_s: float,
        on_prepared: OnPrepared,
    ) -> None:
        """Answer a GET that was read, checked and looked up without the parser.

        Args:
            connection: it came over; what it stops when the caller leaves is set here.
            request: the request.
            eligible: what `eligibility` makes of it.
            found: what the look-up gave; ``None`` when it is still to be made.
            started_s: monotonic time at which the request had been read.
            on_prepared: called once, perhaps before this returns.
        """
        context = _PlainContext(
            connection,
            request.request_id,
            eligible.identity,
            "GET",
            request.target,
            request.fields,
            http_11=True,
            persists=True,
            content=None,
            started_s=started_s,
            handler=self,
            on_prepared=on_prepared,
        )
        if found is None or found.lookup.entry is not None:
            fetching = self._cache.fetch(request, eligible, found, on_waited=context.waited)
            on_prepared(self.prepared(context, fetching))
            return
        try:
            leave = self._cache.fetch_plain(request, eligible, found, context.take)
        except Exception as error:
            on_prepared(raising(error))
            return
        if not context.is_decided:
            context.leave = leave
            connection.stop_with_caller(context.caller_left)

    async def _answer(self, message: web.BaseRequest, context: RequestContext) -> Response:
        request, body = self._read(message, context.path, context.fields, context.request_id)
        if self._credentials is not None:
            request, context.identity = self._credentials.admit(request)
        return await self._cache.answer(request, body, context.identity, on_waited=context.waited)

    async def prepared(self, context: RequestContext, answering: Awaitable[Response]) -> PreparedResponse:
        """Wait for a response, or make one of what went wrong."""
        try:
            response: Response | GatewayError = await answering
        except asyncio.CancelledError:
            self.aborted(context)
            raise
        except GatewayError as error:
            response = error
        return self.prepare(context, response)

    def prepare(self, context: RequestContext, response: Response | GatewayError) -> PreparedResponse:
        """Count a response, or one made of an error, and make its bytes ready."""
        return self._prepared_response(context, *self._counted(context, response))

    def prepare_plain(
        self, context: RequestContext, response: Response | GatewayError
    ) -> bytes | PreparedResponse:
        """Do the same for a request that came without the parser: whole, if it can be written at once."""
        response, keep_alive, sent = self._counted(context, response)
        body = response.body
        if body is None or len(body) > LARGE_BYTES or not (keep_alive and context.connection.takes_more()):
            return self._prepared_response(context, response, keep_alive, sent)
        data = whole_response(response.head, body)
        if sent is not None:
            sent(len(data))
        return data

    def _counted(
        self, context: RequestContext, response: Response | GatewayError
    ) -> tuple[Response, bool, Callable[[int], None] | None]:
        """Count a response, or one made of an error.

        Returns:
            The response, whether its connection goes on, and what is called with the bytes sent; ``None``:
            nothing.
        """
        keep_alive = context.persists
        cache_status: CacheStatus | None = None
        failure: GatewayError | None = None
        if isinstance(response, GatewayError):
            failure = response
            keep_alive = keep_alive and not failure.closes
            self._metrics.errors[failure.code] += 1
            head, text = problem(failure, context.request_id)
            response = Response(head, text, CacheStatus())
        else:
            cache_status = response.cache_status
        # What is still to come of the body must not be taken for the next request.
        if context.content is not None:
            keep_alive = keep_alive and context.content.is_eof()
        status = response.head.status
        took_s = time.monotonic() - context.started_s - (context.waited_s or 0.0)
        self._metrics.answered(cache_status, status, took_s)
        if status == 429:
            self._throttled.count(context.identity or context.fields, is_own=outcome(cache_status) == ERROR)
        sent: Callable[[int], None] | None = None
        if self._access_log.wants(status, cache_status):
            sent = functools.partial(
                self._write_line,
                context,
                status,
                cache_status=cache_status,
                error=failure,
                upstream_s=response.upstream_s,
            )
        keep_alive = keep_alive and (not self._is_draining() or context.connection.has_begun_another)
        return response, keep_alive, sent

    def _prepared_response(
        self,
        context: RequestContext,
        response: Response,
        keep_alive: bool,
        sent: Callable[[int], None] | None,
    ) -> PreparedResponse:
        return PreparedResponse(
            response.head,
            method=context.method,
            body=response.body,
            http_11=context.http_11,
            keep_alive=keep_alive,
            write_timeout_s=self.body_timeout_s,
            exchange=response.exchange,
            prefix=response.prefix,
            linger=context.connection.linger,
            sent=sent,
        )

    def aborted(self, context: RequestContext) -> None:
        """Count a request whose caller left before it was answered."""
        self._metrics.requests_aborted += 1
        if self._access_log.wants(ABORTED, None):
            self._write_line(context, ABORTED, 0)

    def _write_line(
        self,
        context: RequestContext,
        status: int,
        sent_bytes: int,
        *,
        cache_status: CacheStatus | None = None,
        error: GatewayError | None = None,
        upstream_s: float | None = None,
    ) -> None:
        fields, content = context.fields, context.content
        head = head_bytes(context.method, context.path, fields)
        self._access_log.write(
            request_id=context.request_id,
            peer=context.connection.origin.caller_address(fields),
            caller=context.identity or fields,
            parent=parent(fields),
            method=context.method,
            path=context.path,
            status=status,
            cache_status=cache_status,
            error=error,
            upstream_s=upstream_s,
            waited_s=context.waited_s,
            took_s=time.monotonic() - context.started_s,
            received_bytes=head + (content.total_bytes if content is not None else 0),
            sent_bytes=sent_bytes,
            user_agent=first(fields, b"user-agent") or b"",
        )

    def _read(
        self, message: web.BaseRequest, path: bytes, fields: Fields, request_id: bytes
    ) -> tuple[Request, RequestBody | None]:
        http_11 = message.version >= (1, 1)
        target, authority = incoming.check_target(message.method, path)
        incoming.check_host(fields, authority, http_11=http_11)
        length = incoming.body_bytes(fields, http_11=http_11)
        expects = incoming.expects_continue(fields)
        host = first(fields, b"host")
        if self._own_hosts is not None and host is not None and not self._own_hosts.has(host):
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
                async with asyncio.timeout(self.body_timeout_s):
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
