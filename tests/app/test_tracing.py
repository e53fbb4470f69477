"""Spans: one a request, with the upstream and Redis under it; nothing of it without a configured endpoint."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gateway.app.gateway import Gateway
from gateway.app.tracing import Tracing
from gateway.config import rules as config_rules
from gateway.config.errors import ConfigError
from gateway.config.load import load_config
from gateway.config.model import TracingConfig
from tests.store.kit import until
from tests.testbed.aos import TARGET, Answer, ScriptedAos, never, record
from tests.testbed.client import Headers, fetch
from tests.testbed.gateway import DEFAULTS, GatewayProcess, running
from tests.testbed.redis_server import RedisServer

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_SPAN = "00f067aa0ba902b7"
_PARENT = ("traceparent", f"00-{_TRACE}-{_SPAN}-01")
_REQUEST = "GET /v2/stacks/{stack_id}/actions/{action_id}"


class Traced:
    """A gateway whose spans stay here."""

    def __init__(self, address: str, exporter: InMemorySpanExporter) -> None:
        self.address = address
        self._exporter = exporter

    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends; each is given once."""
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    async def ask(self, headers: Headers = (), target: str = TARGET) -> list[ReadableSpan]:
        """Ask for a record and return the spans of that request."""
        await fetch(self.address, target, token="sesame", headers=headers)
        return self.spans()


@asynccontextmanager
async def traced(url: str, *, sample: float = 1.0, **settings: object) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(TracingConfig(sample=sample), SimpleSpanProcessor(exporter))
    flags = {**DEFAULTS, "upstream.url": url, "server.listen": "127.0.0.1:0"}
    flags |= {name.replace("__", "."): value for name, value in settings.items()}
    gateway = Gateway(load_config(None, {}, flags), tracing=tracing)
    address = str(await gateway.start())
    try:
        yield Traced(address, exporter)
    finally:
        await gateway.close(1.0)


def _naming(span: ReadableSpan) -> bytes:
    """The traceparent of what a span sends."""
    assert span.context is not None
    return b"00-%032x-%016x-%02x" % (span.context.trace_id, span.context.span_id, span.context.trace_flags)


def _reported(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_miss_and_a_hit_are_spans_under_the_callers(aos: ScriptedAos, lane: str) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with traced(aos.url) as gateway:
        upstream, miss = await gateway.ask([_PARENT])
        [hit] = await gateway.ask([_PARENT])
    assert (miss.name, miss.kind) == (_REQUEST, SpanKind.SERVER)
    assert (upstream.name, upstream.kind) == ("upstream", SpanKind.CLIENT)
    for span in (miss, hit):
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == f"{_TRACE}-{_SPAN}"
    assert upstream.parent is not None
    assert upstream.parent.span_id == miss.context.span_id
    assert miss.start_time <= upstream.start_time <= upstream.end_time <= miss.end_time  # type: ignore[operator]
    assert _reported(upstream) == {"http.response.status_code": 200}
    assert _reported(miss)["aos_gateway.cache"] == "miss"
    assert _reported(hit)["aos_gateway.cache"] == "hit"
    assert _reported(hit)["http.response.size"] > 1000  # type: ignore[operator]
    assert aos.received[0].get("traceparent") == _naming(upstream)
    assert "sesame" not in "".join(span.to_json() for span in (upstream, miss, hit))


async def test_a_request_that_waited_says_so_with_its_looks_under_it(aos: ScriptedAos) -> None:
    aos.queue(*(Answer(body=record("Running", status__progress=progress)) for progress in (1, 2)))
    aos.answer(Answer(body=record()))
    async with traced(aos.url, wait__interval_s=0.1) as gateway:
        *looks, waited = await gateway.ask([_PARENT, ("Prefer", "wait=20")])
    assert _reported(waited)["aos_gateway.reason"] == "waited"
    assert waited.context is not None
    assert [look.name for look in looks] == ["upstream"] * 3
    for look, received in zip(looks, aos.received, strict=True):
        assert look.parent is not None
        assert look.parent.span_id == waited.context.span_id
        assert received.get("traceparent") == _naming(look)


async def test_looks_stand_under_the_request_of_one_who_still_waits(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record("Running")))
    other_trace = _TRACE[::-1]
    async with traced(aos.url, wait__interval_s=0.1, wait__max_interval_s=0.1) as gateway:
        asking = [
            asyncio.create_task(gateway.ask([("traceparent", f"00-{trace}-{_SPAN}-01"), ("Prefer", wait)]))
            for trace, wait in ((_TRACE, "wait=1"), (other_trace, "wait=20"))
        ]
        await asking[0]
        # One more may be under way for the first of them.
        later = aos.count() + 1
        await aos.wait_received(later + 2)
        aos.answer(Answer(body=record()))
        await asking[1]
    named = {(received.get("traceparent") or b"")[3:35] for received in aos.received[later:]}
    assert named == {other_trace.encode()}


async def test_a_trace_that_begins_here_goes_up_with_its_span_whatever_is_asked(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    state = ("tracestate", "of=nothing")
    async with traced(aos.url) as gateway:
        for headers, target in (
            ([], TARGET),
            ([state], "/v2/templates"),
            ([("traceparent", "00-1-2-01")], "/"),
        ):
            upstream, request = await gateway.ask(headers, target)
            assert request.parent is None
            assert [aos.received[-1].all("traceparent"), aos.received[-1].all("tracestate")] == [
                [_naming(upstream)],
                [],
            ]
    async with traced(aos.url, sample=0.0) as gateway:
        assert await gateway.ask(target="/v2/templates") == []
    given = aos.received[-1].get("traceparent")
    assert given is not None
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[02]", given)


async def test_a_callers_state_goes_up_and_into_the_spans(aos: ScriptedAos, lane: str) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    states = [("tracestate", "rojo=1,congo=2 3"), ("Tracestate", "last=4")]
    async with traced(aos.url) as gateway:
        upstream, miss = await gateway.ask([_PARENT, *states])
        [hit] = await gateway.ask([_PARENT, *states])
        [plain] = await gateway.ask([states[0]])
    for span in (upstream, miss, hit):
        assert span.context is not None
        assert dict(span.context.trace_state) == {"rojo": "1", "congo": "2 3", "last": "4"}
    assert plain.context is not None
    assert not plain.context.trace_state
    assert aos.received[0].all("tracestate") == [value.encode() for _, value in states]


@pytest.mark.parametrize("signed", ["traceparent", "tracestate"])
async def test_what_is_signed_goes_up_as_it_was_signed(aos: ScriptedAos, signed: str) -> None:
    aos.answer(Answer(body=record()))
    signature = f"SDK-HMAC-SHA256 Access=k, SignedHeaders=x-sdk-date;{signed}, Signature=s"
    given = [("Authorization", signature), _PARENT, ("tracestate", "a=1"), ("Host", aos.url[7:])]
    async with traced(aos.url) as gateway:
        upstream, _ = await gateway.ask(given)
    is_parent_signed = signed == "traceparent"
    assert aos.received[0].get("traceparent") == (
        _PARENT[1].encode() if is_parent_signed else _naming(upstream)
    )
    assert aos.received[0].get("tracestate") == b"a=1"


@pytest.mark.parametrize(("sample", "flags"), [(1.0, "00"), (1.0, "02"), (0.0, "01")])
async def test_a_trace_of_which_nothing_is_recorded_goes_up_as_it_came(
    aos: ScriptedAos, sample: float, flags: str
) -> None:
    aos.answer(Answer(body=record()))
    given = f"00-{_TRACE}-{_SPAN}-{flags}"
    async with traced(aos.url, sample=sample) as gateway:
        assert await gateway.ask([("traceparent", given), ("tracestate", "a=1")]) == []
    assert aos.received[0].get("traceparent") == given.encode()
    assert aos.received[0].get("tracestate") == b"a=1"


async def test_spans_record_refusals_and_failures(aos: ScriptedAos, free_port: int) -> None:
    aos.answer(Answer(body=record("Running")))
    async with traced(aos.url) as gateway:
        _, running_one = await gateway.ask()
        _, other = await gateway.ask(target="/v2/templates?x=sesame")
    async with traced(f"http://127.0.0.1:{free_port}") as gateway:
        upstream, failed = await gateway.ask()
    assert _reported(running_one)["aos_gateway.reason"] == "phase"
    assert running_one.parent is None
    assert (other.name, _reported(other)["aos_gateway.reason"]) == ("GET other", "route")
    assert _reported(upstream) == {"error.type": "connection_refused"}
    assert _reported(failed)["aos_gateway.cache"] == "error"
    assert failed.status.status_code is upstream.status.status_code is StatusCode.ERROR


async def test_look_ups_in_redis_are_spans_of_the_request_that_waits(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    async with traced(aos.url, redis__url=redis.url, redis__prefix=redis.prefix) as gateway:
        lookup, mint, upstream, request = await gateway.ask()
    assert [span.name for span in (lookup, mint, upstream)] == ["redis lookup", "redis mint", "upstream"]
    for span in (lookup, mint, upstream):
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
    assert _reported(lookup) == {"db.system.name": "redis", "db.operation.name": "lookup"}


@pytest.mark.parametrize(
    ("sample", "flags", "recorded"),
    [(1.0, "00", False), (0.0, "01", False), (0.0, None, False), (1.0, None, True)],
)
async def test_a_trace_is_recorded_when_drawn_and_never_against_the_callers_word(
    aos: ScriptedAos, lane: str, sample: float, flags: str | None, recorded: bool
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    headers = [] if flags is None else [("traceparent", f"00-{_TRACE}-{_SPAN}-{flags}")]
    async with traced(aos.url, sample=sample) as gateway:
        miss = await gateway.ask(headers)
        hit = await gateway.ask(headers)
    assert (bool(miss), bool(hit)) == (recorded, recorded)


async def test_spans_go_to_the_configured_endpoint_at_the_latest_at_the_end(aos: ScriptedAos) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("POST", "/v1/traces", Answer())
    endpoint = f"{aos.url}/v1/traces"
    async with running(aos.url, tracing__endpoint=endpoint, tracing__sample=1.0) as gateway:
        await fetch(gateway.address, TARGET, token="sesame")
    await until(lambda: aos.count("POST", "/v1/traces") > 0, "the spans")
    [sent] = [one for one in aos.received if one.target == "/v1/traces"]
    assert sent.get("Content-Type") == b"application/x-protobuf"
    assert b"aos-gateway" in sent.body
    assert _REQUEST.encode() in sent.body
    assert b"sesame" not in sent.body


async def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(aos: ScriptedAos) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("POST", "/v1/traces", never)
    endpoint = f"{aos.url}/v1/traces"
    async with running(aos.url, tracing__endpoint=endpoint, tracing__sample=1.0) as gateway:
        async with asyncio.timeout(2):
            await fetch(gateway.address, TARGET, token="a")
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 5


@pytest.mark.operation
async def test_a_collector_that_answers_byte_by_byte_does_not_hold_up_the_end_of_the_process(
    aos: ScriptedAos,
) -> None:
    asked, is_over = asyncio.Event(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            pass
        finally:
            writer.close()
            is_over.set()

    aos.on("GET", TARGET, Answer(body=record()))
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as collector:
        port = collector.sockets[0].getsockname()[1]
        environ = {
            "AOS_GATEWAY_TRACING__ENDPOINT": f"http://127.0.0.1:{port}/v1/traces",
            "AOS_GATEWAY_TRACING__SAMPLE": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "10",
        }
        process = GatewayProcess("--upstream", aos.url, environ=environ)
        try:
            await process.ready()
            await fetch(process.address, TARGET, token="a")
            await asked.wait()
            assert await process.stop() == 0
            async with asyncio.timeout(5):
                await is_over.wait()
        finally:
            process.discard()


def test_an_endpoint_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_rules, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, {"upstream.url": "http://h", "tracing.endpoint": "http://c:4318/v1/traces"})
    assert "install aos-gateway[otel]" in str(caught.value)


def test_nothing_of_it_is_loaded_without_an_endpoint() -> None:
    # redis-py loads the metrics part of OpenTelemetry where that is installed, whatever we do.
    ours = ("gateway.app.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter.otlp")
    code = f"import sys, gateway.server, gateway.app; print([name for name in {ours} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
