"""Metrics of several processes as one scrape."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics_sum import Summed, gauges_text


def scrape(count: int, up: int, took_s: float) -> bytes:
    registry = CollectorRegistry()
    Counter("aos_gateway_requests", "R.", ["outcome"], registry=registry).labels('a "b"\\').inc(count)
    Gauge("aos_gateway_redis_up", "U.", registry=registry).set(up)
    Gauge("aos_gateway_breaker_open", "O.", registry=registry).set(1 - up)
    Gauge("aos_gateway_connections", "C.", registry=registry).set(count)
    Histogram("aos_gateway_took_seconds", "T.", buckets=(1, 2), registry=registry).observe(took_s)
    return generate_latest(registry)


def values(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counts_add_up_and_states_speak_for_all() -> None:
    summed = Summed()
    summed.add(scrape(1, 1, 0.5))
    summed.add(scrape(2, 0, 1.5))
    text, content_type = summed.text()
    assert content_type.startswith("text/plain")
    found = values(text)
    assert found["aos_gateway_requests_total", 'a "b"\\'] == 3
    assert found["aos_gateway_redis_up",] == 0
    assert found["aos_gateway_breaker_open",] == 1
    assert found["aos_gateway_connections",] == 3
    assert found["aos_gateway_took_seconds_bucket", "1.0"] == 1
    assert found["aos_gateway_took_seconds_bucket", "+Inf"] == 2
    assert found["aos_gateway_took_seconds_sum",] == 2


def test_of_a_process_that_has_ended_only_the_counts_stay() -> None:
    summed = Summed()
    summed.add(scrape(1, 1, 0.5), only_counts=True)
    found = values(summed.text()[0])
    assert found["aos_gateway_requests_total", 'a "b"\\'] == 1
    assert ("aos_gateway_connections",) not in found


def test_a_copy_goes_its_own_way() -> None:
    summed = Summed()
    summed.add(scrape(1, 1, 0.5))
    copied = summed.copy()
    copied.add(scrape(1, 1, 0.5))
    assert values(summed.text()[0])["aos_gateway_connections",] == 1
    assert values(copied.text()[0])["aos_gateway_connections",] == 2


def test_own_values_have_help_and_type() -> None:
    text = gauges_text({"workers": ("W.", 2), "worker_restarts_total": ("R.", 1)}).decode()
    assert "# HELP aos_gateway_workers W.\n# TYPE aos_gateway_workers gauge\naos_gateway_workers 2\n" in text
    assert "# TYPE aos_gateway_worker_restarts_total counter\n" in text
