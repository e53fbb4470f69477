"""Counters, the merge of several processes, and that callers can't create series."""

import asyncio
import operator
import time

import msgspec
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.caching.cache_status import CacheStatus, Forward, Reason
from gateway.telemetry.event_loop_lag import EventLoopLag
from gateway.telemetry.metrics import Histogram, Metrics
from gateway.telemetry.metrics_catalogue import FAMILIES, METHODS
from gateway.telemetry.metrics_text import render
from gateway.telemetry.snapshot import Snapshot, merged, only_counts, unlabelled
from tests.store.kit import until
from tests.testbed.aos import STACK_ID, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, fetch
from tests.testbed.gateway import RunningGateway, loaded, running
from tests.testbed.redis_server import RedisServer

# Counted by the service, not by a gateway.
OF_THE_SERVICE = {
    *("workers", "worker_restarts"),
    *("config_reloads", "config_reload_failures", "config_last_reload_success"),
}

Samples = dict[tuple[str, ...], float]


def samples(*snapshots: Snapshot) -> Samples:
    """What a scrape says: the value by the name and the label values, in the order of their names."""
    text = render(merged(snapshots))[0].decode()
    return {
        (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def sent(snapshot: Snapshot) -> Snapshot:
    """The same, as another process gets it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot)


def of(gateway: RunningGateway) -> Samples:
    return samples(gateway.app.metrics_snapshot())


def test_a_duration_is_counted_under_the_least_bound_that_holds_it() -> None:
    histogram = Histogram((0.1, 1.0))
    for duration_s in (0.0, 0.1, 0.11, 1.0, 5.0):
        histogram.observe(duration_s)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total_s == pytest.approx(6.21)


def test_every_reason_is_there_from_the_start_under_its_stage() -> None:
    found = samples(Metrics().snapshot())
    reasons = {name[1]: name[2] for name in found if name[0] == "aos_gateway_uncached_total"}
    assert set(reasons) == {reason.value for reason in Reason if reason.stage}
    assert set(reasons.values()) == {"lookup", "serve", "store"}
    assert reasons["identity"] == "lookup"
    assert reasons["store-failed"] == "serve"
    assert reasons["phase"] == "store"


def test_an_uncached_request_counts_under_its_reason_and_a_saved_one_under_how() -> None:
    metrics = Metrics()
    metrics.fast_hits = 3
    metrics.answered(CacheStatus(ttl_s=1), 304, 0.0)
    metrics.answered(CacheStatus(Forward.URI_MISS, 200, stored=True), 200, 0.2)
    metrics.answered(CacheStatus(Forward.URI_MISS, 200, stored=True, collapsed=True), 200, 0.2)
    metrics.answered(CacheStatus(Forward.URI_MISS, 200, reason=Reason.PHASE), 200, 0.2)
    metrics.answered(None, 502, 3.0)
    found = samples(metrics.snapshot())
    assert found["aos_gateway_uncached_total", "phase", "store"] == 1
    assert found["aos_gateway_upstream_requests_saved_total", "hit"] == 4
    assert found["aos_gateway_upstream_requests_saved_total", "collapsed"] == 1
    assert found["aos_gateway_records_stored_total",] == 1
    assert found["aos_gateway_requests_total", "hit", "", "2xx"] == 3
    assert found["aos_gateway_requests_total", "error", "", "5xx"] == 1
    assert found["aos_gateway_request_duration_seconds_bucket", "0.25", "miss"] == 3
    assert found["aos_gateway_request_duration_seconds_count", "error"] == 1


def test_values_of_processes_add_up_except_where_the_worst_counts() -> None:
    one, other = Metrics(), Metrics()
    one.fast_hits, other.fast_hits = 2, 5
    one.redis_s["lookup",].observe(0.0001)
    other.redis_s["lookup",].observe(0.02)
    first = one.snapshot() | unlabelled(
        {"connections": 3, "redis_up": 1, "redis_breaker_open": 0, "process_start_time_seconds": 9}
    )
    second = other.snapshot() | unlabelled(
        {"connections": 4, "redis_up": 0, "redis_breaker_open": 1, "process_start_time_seconds": 5}
    )
    found = samples(first, sent(second))
    assert found["aos_gateway_requests_total", "hit", "", "2xx"] == 7
    assert found["aos_gateway_connections",] == 7
    assert found["aos_gateway_redis_up",] == 0
    assert found["aos_gateway_redis_breaker_open",] == 1
    assert found["process_start_time_seconds",] == 5
    first["redis_node_up"] = {("a:1",): (1.0,), ("b:2",): (1.0,)}
    second["redis_node_up"] = {("b:2",): (0.0,), ("c:3",): (1.0,)}
    found = samples(first, sent(second))
    assert [found["aos_gateway_redis_node_up", node] for node in ("a:1", "b:2", "c:3")] == [1, 0, 1]
    assert found["aos_gateway_redis_duration_seconds_bucket", "0.00025", "lookup"] == 1
    assert found["aos_gateway_redis_duration_seconds_bucket", "+Inf", "lookup"] == 2
    assert found["aos_gateway_redis_duration_seconds_sum", "lookup"] == pytest.approx(0.0201)


def test_of_a_process_that_has_ended_its_counts_stay_and_no_gauge() -> None:
    metrics = Metrics()
    metrics.fast_hits = 2
    metrics.event_loop_lag_s.observe(0.1)
    gauges = unlabelled({"connections": 3, "process_cpu_seconds": 7}) | {
        "build_info": {("1", "2", "3"): (1,)}
    }
    ended = only_counts(metrics.snapshot() | gauges)
    found = samples(merged([{}, ended]), metrics.snapshot() | unlabelled({"connections": 4}))
    assert found["aos_gateway_requests_total", "hit", "", "2xx"] == 4
    assert found["aos_gateway_event_loop_lag_seconds_count",] == 2
    assert found["process_cpu_seconds_total",] == 7
    assert found["aos_gateway_connections",] == 4
    assert not any(name[0] == "aos_gateway_build_info" for name in found)


def test_what_the_service_counts_is_in_the_catalogue() -> None:
    found = samples(unlabelled(dict.fromkeys(OF_THE_SERVICE, 1)))
    assert {name[0].removeprefix("aos_gateway_").removesuffix("_total") for name in found} == OF_THE_SERVICE


def test_names_and_labels_are_as_prometheus_has_them() -> None:
    names = [family.full_name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert family.about.endswith("."), family.name
        assert not family.name.endswith("_total"), family.name
        assert (family.kind == "histogram") == bool(family.bounds_s), family.name
        assert list(family.bounds_s) == sorted(set(family.bounds_s)), family.name
        assert all(len(known) == len(family.labels) for known in family.known), family.name
        if family.kind != "gauge":
            assert family.merge is operator.add, family.name


_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", _TEXT),
        ("*/*", _TEXT),
        ("text/*;q=0.1", _TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", _TEXT),
        ("image/png", _TEXT),
        ("nonsense;;=,;", _TEXT),
        (_PROMETHEUS_3, _OPENMETRICS),
        ("application/openmetrics-text", _OPENMETRICS),
        ('Application/OpenMetrics-Text; Version="1.0.0"', _OPENMETRICS),
        ("application/openmetrics-text; version=9.9.9", _TEXT),
        ("application/openmetrics-text; version=x", _TEXT),
        ("application/openmetrics-text;q=0, text/plain", _TEXT),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.9", _TEXT),
        ("text/plain;q=0.3, application/openmetrics-text;q=0.9", _OPENMETRICS),
        ("text/plain;version=0.0.4, application/openmetrics-text", _TEXT),
        ("application/openmetrics-text;q=nan, text/plain;q=0.1", _TEXT),
    ],
)
def test_a_scrape_has_the_format_that_its_reader_prefers(accept: str, content_type: str) -> None:
    body, served_type = render(unlabelled({"ready": 1.0}), accept)
    assert served_type == content_type
    assert body.endswith(b"# EOF\n") == (content_type == _OPENMETRICS)


async def test_both_formats_of_a_running_gateway_have_the_same_values(aos: ScriptedAos) -> None:
    async with running(aos.url) as gateway:
        snapshot = gateway.app.metrics_snapshot()
    text = render(snapshot, _PROMETHEUS_3)[0].decode()
    found = {
        (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
        for family in openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for one in family.samples
    }
    assert found == samples(snapshot)


async def test_limits_are_those_of_the_configuration_in_use(aos: ScriptedAos) -> None:
    async with running(aos.url) as gateway:
        await gateway.app.apply(loaded(aos.url, server__max_connections=7, wait__max_waiting=8))
        found = of(gateway)
        assert found["aos_gateway_connections_limit",] == 7
        assert found["aos_gateway_waiting_callers_limit",] == 8
        await gateway.app.apply(loaded(aos.url, wait__max_s=0))
        assert of(gateway)["aos_gateway_waiting_callers_limit",] == 0


async def test_a_running_gateway_has_every_family_and_its_build(aos: ScriptedAos, redis: RedisServer) -> None:
    async with running(aos.url, redis__url=redis.url) as gateway:
        snapshot = gateway.app.metrics_snapshot()
    body, content_type = render(snapshot)
    found = samples(snapshot)
    assert samples(sent(snapshot)) == found
    assert content_type == _TEXT
    named = {line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE")}
    assert named == {
        family.full_name + ("_total" if family.kind == "counter" else "")
        for family in FAMILIES
        if family.name not in OF_THE_SERVICE
    }
    assert found["aos_gateway_processes",] == 1
    assert found["aos_gateway_ready",] == 1
    assert found["aos_gateway_connections_limit",] == 20_000
    assert found["process_resident_memory_bytes",] > 10_000_000
    assert 0 < time.time() - found["process_start_time_seconds",] < 86_400
    assert found["process_open_fds",] >= 3
    [build] = [name for name in found if name[0] == "aos_gateway_build_info"]
    assert "0.1.0" in build


async def test_nothing_that_callers_send_makes_a_series(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=b"{}"))
    async with running(aos.url) as gateway:
        before = set(of(gateway))
        for method in ("MKCOL", "REPORT", "SEARCH", "MADEUP"):
            await fetch(gateway.address, f"/v2/{method}", method=method, headers=[("X-Made-Up", method)])
        found = of(gateway)
    assert found["aos_gateway_upstream_requests_total", "other"] == 3
    assert {name[1] for name in found if name[0] == "aos_gateway_upstream_requests_total"} == set(METHODS)
    new = set(found) - before
    # A status class and an outcome are from short lists; no text of a caller is among them.
    assert {name[1:] for name in new} <= {("bypass", "route", "2xx"), ("GATEWAY.4000001",)}
    assert found["aos_gateway_bad_requests_total", "400"] == 1
    assert found["aos_gateway_errors_total", "GATEWAY.4000001"] == 1


async def test_upstream_responses_and_failures_are_timed(aos: ScriptedAos, free_port: int) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("GET", "/v2/templates", Answer(503, body=b"{}"))
    async with running(aos.url) as gateway:
        await fetch(gateway.address, TARGET, token="a")
        await fetch(gateway.address, "/v2/templates", token="a")
        found = of(gateway)
    assert found["aos_gateway_upstream_duration_seconds_count", "2xx"] == 1
    assert found["aos_gateway_upstream_duration_seconds_count", "5xx"] == 1
    assert found["aos_gateway_upstream_wait_seconds_count",] == 2
    async with running(f"http://127.0.0.1:{free_port}") as gateway:
        await fetch(gateway.address, TARGET, token="a")
        found = of(gateway)
    assert found["aos_gateway_upstream_duration_seconds_count", "none"] == 1
    assert found["aos_gateway_upstream_failures_total", "connection_refused"] == 1
    assert found["aos_gateway_errors_total", "GATEWAY.5020001"] == 1


async def test_a_throttled_caller_and_a_connection_beyond_the_limit_are_counted(aos: ScriptedAos) -> None:
    fields = [("Retry-After", "30"), ("Vary", "Accept-Encoding")]
    aos.on("GET", TARGET, Answer(429, headers=fields, body=b"{}"))
    async with running(aos.url, server__max_connections=1) as gateway:
        client = await RawClient.connect(gateway.address)
        for _ in range(2):
            await client.request("GET", TARGET, [("X-Auth-Token", "a")])
        # The gateway's own 429: the one at hand is in another coding.
        await client.request("GET", TARGET, [("X-Auth-Token", "a"), ("Accept-Encoding", "gzip")])
        turned_away = await fetch(gateway.address, TARGET)
        found = of(gateway)
        await client.close()
    assert turned_away.status == 503
    assert found["aos_gateway_throttled_callers",] == 1
    assert found["aos_gateway_throttled_total", "upstream"] == 1
    assert found["aos_gateway_throttled_total", "gateway"] == 2
    assert found["aos_gateway_uncached_total", "held-back", "serve"] == 1
    assert found["aos_gateway_errors_total", "GATEWAY.4290001"] == 1
    assert found["aos_gateway_connections_refused_total",] == 1
    assert found["aos_gateway_connections",] == 1


async def test_redis_operations_are_timed_and_its_state_is_shown(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("DELETE", f"/v2/stacks/{STACK_ID}", Answer(202, body=b"{}"))
    async with running(aos.url, redis__url=redis.url, redis__prefix="metrics") as gateway:
        await fetch(gateway.address, TARGET, token="a")
        await fetch(gateway.address, f"/v2/stacks/{STACK_ID}", method="DELETE", token="a")
        found = of(gateway)
    for operation in ("lookup", "mint", "invalidate"):
        assert found["aos_gateway_redis_duration_seconds_count", operation] == 1
    assert found["aos_gateway_redis_up",] == found["aos_gateway_redis_node_up", redis.address] == 1
    assert found["aos_gateway_redis_configured",] == 1
    assert found["aos_gateway_redis_connections",] <= found["aos_gateway_redis_connections_limit",] == 32
    assert found["aos_gateway_redis_subscription_up",] == 1
    assert found["aos_gateway_redis_subscriptions_total",] == 1
    assert found["aos_gateway_redis_breaker_openings_total",] == 0
    assert found["aos_gateway_invalidations_total", "write"] == 1


async def test_a_loop_that_is_held_up_shows_as_lag() -> None:
    lag_s = Histogram((0.02, 60.0))
    lag = EventLoopLag(lag_s, every_s=0.005)
    lag.start()
    time.sleep(0.05)  # noqa: ASYNC251  # holding up the loop is what is measured
    await until(lambda: sum(lag_s.counts) > 0, "a measurement")
    lag.stop()
    lag.stop()
    assert lag_s.counts[1] >= 1
    measured = sum(lag_s.counts)
    await asyncio.sleep(0)
    assert sum(lag_s.counts) == measured
