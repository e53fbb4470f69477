"""Spans for OpenTelemetry; imported only when ``tracing.endpoint`` is set.

Nothing on the way of a request knows of it: it wraps the handler, the fast path and the upstream, and
hooks into `Metrics`, which gets the durations of Redis. A call to the upstream names its own span as
``traceparent``, so that the upstream's spans stand under it; a caller's goes up unchanged where nothing is
recorded of its trace here.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from gateway import __version__
from gateway.config.model import TracingConfig
from gateway.core.aos.route import route_name
from gateway.core.caching.cache_status import HIT, CacheStatus, outcome
from gateway.core.http.messages import Fields, IndexedFields
from gateway.core.http.trace_context import Parent, continued, parent, state
from gateway.downstream.connection_origin import Origin
from gateway.downstream.fast_path import FastPath, PlainLookup
from gateway.downstream.response import PreparedResponse
from gateway.tasks import at_most
from gateway.telemetry.metrics import Metrics
from gateway.upstream.exchange import Exchange
from gateway.upstream.upstream import Upstream

_NOWHERE = Origin()
_NS = 1_000_000_000
# Of one export; a collector that hangs must not hold up a stop either.
_EXPORT_S = 2.0
_CLOSE_S = 2.5
_ROUTES = {"execution": "/v2/stacks/{stack_id}/actions/{action_id}"}

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Tracing:
    """Makes spans; a processor takes ended ones instead of sending them.

    Attributes:
        metrics: makes counters that also make spans.
        fast_path: makes a fast path that makes a span of each hit in memory.
        upstream: makes an upstream that makes a span of each call.
    """

    def __init__(self, settings: TracingConfig, processor: SpanProcessor | None = None) -> None:
        if processor is None:
            processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint, timeout=_EXPORT_S))
        drawn = TraceIdRatioBased(settings.sample)
        self._provider = TracerProvider(
            # What a caller claims to record is drawn by lot too: anybody can set that flag.
            sampler=ParentBased(drawn, remote_parent_sampled=drawn, remote_parent_not_sampled=ALWAYS_OFF),
            resource=Resource.create({"service.name": "aos-gateway", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("aos-gateway", __version__)
        # The span of the request on whose behalf this task works.
        self._current: ContextVar[otel.Span | None] = ContextVar("span", default=None)
        self.metrics = functools.partial(_TracedMetrics, self)
        self.fast_path = functools.partial(_TracedFastPath, self)
        self.upstream = functools.partial(_TracedUpstream, self)

    def handler(self, handle: Handle) -> Handle:
        """Put a span around each request that a handler answers."""
        return functools.partial(self._handle, handle)

    async def close(self) -> None:
        """Send what is left, for a short time."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            # The loop may have ended meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        # A daemon, not one of the loop's own threads: the end of the loop waits for those without limit.
        threading.Thread(target=shut_down, name="tracing-close", daemon=True).start()
        await at_most(_CLOSE_S, done.wait())

    def hit(self, head: bytes, began_ns: int, sent_bytes: int) -> None:
        """Make the span of a hit on the fast path."""
        span = self._start("GET", "execution", parent(head), state(head), began_ns)
        span.set_attribute("http.response.status_code", 200)
        span.set_attribute("http.response.size", sent_bytes)
        span.set_attribute("aos_gateway.cache", HIT)
        span.end()

    def answered(self, cache_status: CacheStatus | None, status: int) -> None:
        """Tell the present request's span what became of it."""
        span = self._current.get()
        if span is None or not span.is_recording():
            return
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("aos_gateway.cache", outcome(cache_status))
        if cache_status is not None and cache_status.reason is not None:
            span.set_attribute("aos_gateway.reason", cache_status.reason.value)
        if cache_status is not None and cache_status.collapsed:
            span.set_attribute("aos_gateway.collapsed", True)
        if status >= 500:
            span.set_status(otel.StatusCode.ERROR)

    def call(self, fields: Fields) -> tuple[otel.Span | None, Fields]:
        """Begin a call's span, ``None`` if it is not recorded, and return the fields that name it as parent.

        A trace that begins here is named also when it is not recorded: then the upstream knows that and
        records nothing either.
        """
        of = self._current.get()
        if of is None:
            return None, fields
        if not of.get_span_context().trace_flags.sampled:
            return None, fields if parent(fields) is not None else _naming(of, fields)
        span = self._tracer.start_span("upstream", otel.set_span_in_context(of), otel.SpanKind.CLIENT)
        return span, _naming(span, fields)

    def took(self, name: str, took_s: float, attributes: dict[str, str | int]) -> None:
        """Make the span of something that was done for the present request and has just ended."""
        of = self._current.get()
        if of is None or not of.get_span_context().trace_flags.sampled:
            return
        now_ns = time.time_ns()
        span = self._tracer.start_span(
            name,
            otel.set_span_in_context(of),
            otel.SpanKind.CLIENT,
            attributes,
            start_time=now_ns - int(took_s * _NS),
        )
        span.end(now_ns)

    async def _handle(self, handle: Handle, message: web.BaseRequest) -> web.StreamResponse:
        target = message.raw_path.encode("utf-8", "surrogateescape")
        fields = IndexedFields(message.raw_headers)
        route = route_name(target)
        span = self._start(message.method, route, parent(fields), state(fields), time.time_ns())
        token = self._current.set(span)
        try:
            answer = await handle(message)
        except BaseException:
            span.end()
            raise
        finally:
            # The task goes on with the connection's next request.
            self._current.reset(token)
        if isinstance(answer, PreparedResponse):
            answer.sent = functools.partial(_end, span, answer.sent)
        else:
            span.end()
        return answer

    def _start(
        self, method: str, route: str, given: Parent | None, members: list[tuple[str, str]], began_ns: int
    ) -> otel.Span:
        context = None
        if given is not None:
            trace_id, span_id = int(given.trace_id, 16), int(given.span_id, 16)
            flags, trace_state = otel.TraceFlags(given.flags), otel.TraceState(members)
            caller = otel.SpanContext(trace_id, span_id, True, flags, trace_state)
            context = otel.set_span_in_context(otel.NonRecordingSpan(caller))
        attributes = {"http.request.method": method, "aos_gateway.route": route}
        if route in _ROUTES:
            attributes["http.route"] = _ROUTES[route]
        name = f"{method} {_ROUTES.get(route, route)}"
        return self._tracer.start_span(name, context, otel.SpanKind.SERVER, attributes, start_time=began_ns)


def _end(span: otel.Span, before: Callable[[int], None] | None, sent_bytes: int) -> None:
    if before is not None:
        before(sent_bytes)
    span.set_attribute("http.response.size", sent_bytes)
    span.end()


def _naming(span: otel.Span, fields: Fields) -> Fields:
    context = span.get_span_context()
    return continued(fields, context.trace_id, context.span_id, context.trace_flags)


class _TracedUpstream(Upstream):
    def __init__(self, tracing: Tracing, *parts: Any) -> None:
        super().__init__(*parts)
        self._tracing = tracing
        self._spans: dict[Exchange, otel.Span] = {}

    def begin(self, method: str, target: bytes, fields: Fields, *parts: Any, **more: Any) -> Exchange:
        # There are no ready lines among the parts: the fast path fetches nothing while spans are made.
        span, fields = self._tracing.call(fields)
        exchange = super().begin(method, target, fields, *parts, **more)
        if span is not None:
            self._spans[exchange] = span
        return exchange

    def has_head(self, exchange: Exchange) -> None:
        super().has_head(exchange)
        if (span := self._spans.pop(exchange, None)) is not None:
            span.set_attribute("http.response.status_code", exchange.head.status)
            span.end()

    def is_over(self, exchange: Exchange) -> None:
        super().is_over(exchange)
        if (span := self._spans.pop(exchange, None)) is not None:
            if exchange.error is not None:
                span.set_attribute("error.type", exchange.error.proxy_error)
                span.set_status(otel.StatusCode.ERROR)
            span.end()


class _TracedMetrics(Metrics):
    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing

    def answered(self, cache_status: CacheStatus | None, status: int, took_s: float) -> None:
        super().answered(cache_status, status, took_s)
        self._tracing.answered(cache_status, status)

    def redis_took(self, operation: str, took_s: float) -> None:
        super().redis_took(operation, took_s)
        self._tracing.took(
            f"redis {operation}", took_s, {"db.system.name": "redis", "db.operation.name": operation}
        )


class _TracedFastPath(FastPath):
    def __init__(self, tracing: Tracing, **parts: Any) -> None:
        super().__init__(**parts)
        self._tracing = tracing

    def answer(self, data: bytes, origin: Origin = _NOWHERE) -> bytes | PlainLookup | None:
        """Answer a hit in memory; the parser's way, where spans are made, is for the rest."""
        began_ns = time.time_ns()
        answer = super().answer(data, origin)
        if not isinstance(answer, bytes):
            return None
        self._tracing.hit(data, began_ns, len(answer))
        return answer
