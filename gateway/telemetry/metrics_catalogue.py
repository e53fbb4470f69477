"""Every metric of the gateway: name, type, help, labels and how the values of several processes are merged.

Scraping, ``deploy/monitoring/metrics.md`` and the tests use this list. Label values come from fixed lists, so
that neither callers nor the upstream can create series.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable

import msgspec

from gateway.core.caching.cache_status import HIT, OUTCOMES, Reason
from gateway.core.http.proxy_header import Unfit

PREFIX = "aos_gateway_"
OPERATIONS = ("lookup", "mint", "write", "invalidate", "probe", "ping")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
NO_STATUS = "none"
UPSTREAM, GATEWAY = "upstream", "gateway"
ERROR = "error"
"""The outcome of a request that the gateway answered itself."""

# From a fast AOS in the same region to the default read timeout.
UPSTREAM_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Around the default redis.timeout_s of 0.1 s.
REDIS_BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LOOP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Kind(enum.Enum):
    """Metric type, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(enum.Enum):
    """How the values of several processes are merged."""

    SUM = "sum"
    LEAST = "least"
    GREATEST = "greatest"


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: without prefix; a counter's without ``_total``.
        kind: its type.
        about: its help text.
        labels: names of its labels.
        known: label values present from the start, so that a rate shows the first event.
        bounds_s: a histogram's upper bounds.
        merge: how processes are merged; counters and histograms always add up.
        is_standard: has no prefix, because all client libraries use this name.
    """

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ((),)
    bounds_s: tuple[float, ...] = ()
    merge: Merge = Merge.SUM
    is_standard: bool = False

    @property
    def full_name(self) -> str:
        """Its name with prefix; a counter's without ``_total``."""
        return self.name if self.is_standard else PREFIX + self.name


def _each(values: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


def _counter(
    name: str, about: str, labels: tuple[str, ...] = (), known: tuple[tuple[str, ...], ...] = ((),)
) -> Family:
    return Family(name, Kind.COUNTER, about, labels, known)


def _gauge(name: str, about: str, merge: Merge = Merge.SUM) -> Family:
    return Family(name, Kind.GAUGE, about, merge=merge)


def _standard(name: str, kind: Kind, about: str, merge: Merge = Merge.SUM) -> Family:
    return Family(name, kind, about, merge=merge, is_standard=True)


_PROXY_ERRORS = _each(
    (
        "connection_limit_reached",
        "connection_read_timeout",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "destination_ip_unroutable",
        "destination_unavailable",
        "dns_error",
        "http_protocol_error",
        "http_response_incomplete",
        "proxy_internal_error",
        "tls_certificate_error",
        "tls_protocol_error",
    )
)

FAMILIES: tuple[Family, ...] = (
    # Requests.
    _counter(
        "requests",
        "Requests by outcome; reason is why the cache was not used, empty if it was.",
        ("outcome", "reason", "status"),
        ((HIT, "", "2xx"), ("miss", "", "2xx"), ("bypass", Reason.ROUTE.value, "2xx"), (ERROR, "", "5xx")),
    ),
    _counter(
        "uncached",
        "Requests for which the cache was not used, by stage: lookup (not looked up), serve (no stored entry "
        "served), store (response not stored).",
        ("stage", "reason"),
        tuple((reason.stage, reason.value) for reason in Reason),
    ),
    _counter(
        "errors",
        "Error responses of the gateway itself, by the code in their body.",
        ("code",),
        _each(
            ("GATEWAY.4290001", "GATEWAY.5020001", "GATEWAY.5030001", "GATEWAY.5040001", "GATEWAY.5040002")
        ),
    ),
    _counter(
        "throttled",
        "Responses with status 429: the upstream's, and the gateway's while a caller is throttled.",
        ("by",),
        _each((UPSTREAM, GATEWAY)),
    ),
    _counter(
        "requests_aborted",
        "Requests that ended without a response: the caller left, or the drain deadline passed.",
    ),
    _counter(
        "bad_requests",
        "Requests rejected as malformed or too large, by status.",
        ("status",),
        _each(("400", "408", "414", "431", "505")),
    ),
    Family(
        "request_duration_seconds",
        Kind.HISTOGRAM,
        "From the parsed request to the response head; memory hits on the fast path are not measured.",
        ("outcome",),
        _each((*OUTCOMES, ERROR)),
        UPSTREAM_BOUNDS_S,
    ),
    # The cache.
    _counter(
        "upstream_requests_saved",
        "Requests answered without one of their own upstream: hits, and those that joined a fetch.",
        ("how",),
        _each((HIT, "collapsed")),
    ),
    _counter("records_stored", "Records stored in at least one tier."),
    _counter(
        "not_stored",
        "Records that could not be stored in a tier, by cause.",
        ("cause",),
        _each(("overtaken", "queue-full", "redis-failed")),
    ),
    _counter(
        "invalidations",
        "Stacks invalidated, by cause; message: by another replica or worker.",
        ("cause",),
        _each(("write", "purge", "message")),
    ),
    _counter(
        "entries_invalid",
        "Stored entries that failed verification: damaged, forged or made with another secret.",
    ),
    # Downstream connections.
    _gauge("connections", "Open downstream connections."),
    _gauge("connections_limit", "Limit of open downstream connections."),
    _counter("connections_refused", "Connections closed at once because the limit was reached."),
    _counter(
        "connections_unfit",
        "Connections closed because they did not begin with a valid PROXY protocol header in time.",
        ("why",),
        _each(why.value for why in Unfit),
    ),
    # The upstream.
    _counter("upstream_requests", "Requests sent upstream.", ("method",), _each(METHODS)),
    _counter(
        "upstream_failures",
        "Upstream requests without a usable response, by RFC 9209 error type.",
        ("error",),
        _PROXY_ERRORS,
    ),
    Family(
        "upstream_duration_seconds",
        Kind.HISTOGRAM,
        "From a slot in the pool to the upstream's response head; status none: no usable response.",
        ("status",),
        _each((*STATUS_CLASSES, NO_STATUS)),
        UPSTREAM_BOUNDS_S,
    ),
    Family(
        "upstream_wait_seconds",
        Kind.HISTOGRAM,
        "Time that requests waited for a slot in the upstream pool.",
        bounds_s=UPSTREAM_BOUNDS_S,
    ),
    _gauge("upstream_connections", "Upstream connections in use."),
    _gauge("upstream_connections_limit", "Limit of upstream connections in use, parked ones not counted."),
    _gauge("upstream_parked", "Upstream connections in use that wait for a slow caller."),
    _gauge("upstream_waiting", "Requests waiting for an upstream connection."),
    _gauge("upstream_waiting_limit", "Limit of requests waiting for an upstream connection."),
    _gauge("fetches_in_flight", "Shared fetches in flight."),
    _gauge("throttled_callers", "Callers throttled at present because the upstream answered 429."),
    # Memory.
    _gauge("memory_cache_bytes", "Bytes in the memory tier."),
    _gauge("memory_cache_limit_bytes", "Limit of the memory tier; 0 if it is off."),
    _gauge("memory_cache_entries", "Entries in the memory tier."),
    _counter("memory_cache_evictions", "Entries evicted from the memory tier to make room."),
    # Redis.
    _gauge("redis_configured", "1 if Redis is configured.", Merge.GREATEST),
    _gauge("redis_up", "1 if the last Redis operation succeeded.", Merge.LEAST),
    _gauge(
        "redis_breaker_open",
        "1 while the circuit breaker keeps requests from Redis.",
        Merge.GREATEST,
    ),
    _counter("redis_breaker_openings", "How often the circuit breaker opened."),
    _gauge("redis_subscription_up", "1 while invalidations of other replicas are received.", Merge.LEAST),
    _counter("redis_subscriptions", "How often the subscription was confirmed; memory is cleared each time."),
    _gauge("redis_connections", "Connections to Redis in use for a command."),
    _gauge("redis_connections_limit", "Limit of connections to Redis for commands."),
    _gauge("redis_pending_invalidations", "Stacks whose invalidation Redis has not confirmed yet."),
    _gauge("redis_write_queue", "Records waiting to be written to Redis."),
    _counter(
        "redis_failures",
        "Failed Redis operations.",
        ("operation", "kind"),
        tuple(itertools.product(OPERATIONS, ("timeout", "connection", "answer"))),
    ),
    Family(
        "redis_duration_seconds",
        Kind.HISTOGRAM,
        "Duration of Redis operations, failed ones too.",
        ("operation",),
        _each(OPERATIONS),
        REDIS_BOUNDS_S,
    ),
    # The process.
    Family(
        "event_loop_lag_seconds",
        Kind.HISTOGRAM,
        "Delay of a timer of the event loop, measured once a second.",
        bounds_s=LOOP_BOUNDS_S,
    ),
    Family(
        "build_info",
        Kind.GAUGE,
        "1; the labels name the version, Python and the event loop.",
        ("version", "python", "loop"),
        (),
        merge=Merge.GREATEST,
    ),
    _counter(
        "log_lines_dropped",
        "Log lines dropped: over the rate limit, or nobody read them in time.",
    ),
    _gauge("ready", "1 while requests are accepted, 0 while draining.", Merge.LEAST),
    _gauge("processes", "Processes in this scrape."),
    # The service, counted once by the main process.
    _gauge("workers", "Workers that accept requests."),
    _counter("worker_restarts", "Workers replaced after they ended."),
    _counter("config_reloads", "Successful reloads of the configuration."),
    _counter("config_reload_failures", "Failed reloads; the old configuration stayed in use."),
    _gauge("config_last_reload_success", "1 if the last reload succeeded or there was none.", Merge.LEAST),
    _standard("process_cpu_seconds", Kind.COUNTER, "User and system CPU time."),
    _standard("process_resident_memory_bytes", Kind.GAUGE, "Resident memory."),
    _standard("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory."),
    _standard("process_open_fds", Kind.GAUGE, "Open file descriptors."),
    _standard("process_max_fds", Kind.GAUGE, "Limit of open file descriptors."),
    _standard(
        "process_start_time_seconds",
        Kind.GAUGE,
        "Start of the oldest process in seconds since the epoch.",
        Merge.LEAST,
    ),
)
