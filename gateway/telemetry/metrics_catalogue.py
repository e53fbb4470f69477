"""Every metric of the gateway: name, kind, meaning, labels and how several processes make one value.

The one list that scraping, ``deploy/monitoring/metrics.md`` and the tests go by. Label values come from fixed
lists alone: nothing that a caller or the upstream sends can make a new series.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable

import msgspec

from gateway.core.caching.cache_status import HIT, OUTCOMES, Reason, stage
from gateway.core.http.proxy_header import Unfit

PREFIX = "aos_gateway_"
OPERATIONS = ("lookup", "mint", "write", "forget", "probe", "ping")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other")
STATUS_CLASSES = ("2xx", "3xx", "4xx", "5xx")
NO_STATUS = "none"
UPSTREAM, GATEWAY = "upstream", "gateway"
ERROR = "error"
"""What takes the outcome's place when the gateway answered for itself."""

# From a quick AOS in the same region to its read timeout.
UPSTREAM_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Around redis.timeout_s, which is 0.1 s unless told otherwise.
REDIS_BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LOOP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Kind(enum.Enum):
    """The type of a family, by its Prometheus name."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(enum.Enum):
    """How the values of several processes become one."""

    SUM = "sum"
    # The worst or the best of them tells what matters.
    LEAST = "least"
    GREATEST = "greatest"


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: without prefix; a counter's without ``_total``.
        kind: its type.
        about: its help text.
        labels: names of its labels.
        known: label values that are there from the start, so that the first event shows in a rate.
        bounds_s: a histogram's upper bounds.
        merge: how processes are put together; counters and histograms add up always.
        is_standard: has no prefix, because every client library calls it so.
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
        """Its name with prefix, as the exposition's ``TYPE`` line has it but for a counter's suffix."""
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
    # What callers got.
    _counter(
        "requests",
        "Answered requests; reason says why the cache said no, empty: it did not.",
        ("outcome", "reason", "status"),
        ((HIT, "", "2xx"), ("miss", "", "2xx"), ("bypass", Reason.ROUTE.value, "2xx"), (ERROR, "", "5xx")),
    ),
    _counter(
        "refusals",
        "Answered requests that the cache said no to: lookup (not asked), serve (an entry was of no use), "
        "store (the record was not kept).",
        ("what", "reason"),
        tuple((stage(reason), reason.value) for reason in Reason),
    ),
    _counter(
        "errors",
        "Answers that the gateway made itself, by the code in their body.",
        ("code",),
        _each(
            ("GATEWAY.4290001", "GATEWAY.5020001", "GATEWAY.5030001", "GATEWAY.5040001", "GATEWAY.5040002")
        ),
    ),
    _counter(
        "throttled",
        "Answers with status 429: the upstream's own, and those that the gateway gave in its place while a "
        "caller had to wait.",
        ("by",),
        _each((UPSTREAM, GATEWAY)),
    ),
    _counter(
        "unanswered", "Requests that got no answer: their caller left before it, or a drain's time was over."
    ),
    _counter(
        "bad_requests",
        "Requests refused before they were understood.",
        ("status",),
        _each(("400", "408", "414", "431", "505")),
    ),
    Family(
        "request_duration_seconds",
        Kind.HISTOGRAM,
        "From a parsed request to the head of its answer; hits in memory on the fast lane are not measured.",
        ("outcome",),
        _each((*OUTCOMES, ERROR)),
        UPSTREAM_BOUNDS_S,
    ),
    # What the cache is good for.
    _counter(
        "upstream_calls_saved",
        "Requests that cost the upstream nothing: hits, and those that joined another one's fetch.",
        ("how",),
        _each((HIT, "collapsed")),
    ),
    _counter("records_stored", "Records handed to at least one tier."),
    _counter(
        "not_stored",
        "Records that did not reach a tier, by cause.",
        ("cause",),
        _each(("overtaken", "queue-full", "redis-failed")),
    ),
    _counter("forgotten", "Stacks forgotten, by cause.", ("cause",), _each(("write", "purge", "note"))),
    _counter("entries_refused", "Stored bytes that did not verify: damaged, forged or of another secret."),
    # Callers' connections.
    _gauge("connections", "Open downstream connections."),
    _gauge("connections_limit", "Bound of open downstream connections."),
    _counter("connections_refused", "Connections turned away because there were too many."),
    _counter(
        "connections_unfit",
        "Connections closed because they did not begin with a PROXY protocol header that may be believed.",
        ("why",),
        _each(why.value for why in Unfit),
    ),
    # The upstream.
    _counter("upstream_calls", "Requests sent upstream.", ("method",), _each(METHODS)),
    _counter("upstream_failures", "Exchanges without a usable response.", ("error",), _PROXY_ERRORS),
    Family(
        "upstream_duration_seconds",
        Kind.HISTOGRAM,
        "From a place in the pool to the head of the upstream's answer; status none: it gave none.",
        ("status",),
        _each((*STATUS_CLASSES, NO_STATUS)),
        UPSTREAM_BOUNDS_S,
    ),
    Family(
        "upstream_wait_seconds",
        Kind.HISTOGRAM,
        "How long requests waited for a place in the upstream pool.",
        bounds_s=UPSTREAM_BOUNDS_S,
    ),
    _gauge("upstream_connections", "Upstream connections in use."),
    _gauge("upstream_connections_limit", "Bound of those that are not parked."),
    _gauge("upstream_parked", "Those of them that wait for a caller who sends or reads slowly."),
    _gauge("upstream_waiting", "Requests waiting for an upstream connection."),
    _gauge("upstream_waiting_limit", "Bound of requests waiting for an upstream connection."),
    _gauge("flights", "Shared fetches under way."),
    _gauge("throttled_callers", "Callers whom the upstream asked to wait, and whose time is not over."),
    # Memory.
    _gauge("memory_bytes", "Bytes held by the memory tier."),
    _gauge("memory_limit_bytes", "Bound of the memory tier; 0: it is off."),
    _gauge("memory_entries", "Entries held by the memory tier."),
    _counter("memory_evictions", "Entries that left the memory tier for want of room."),
    # Redis.
    _gauge("redis_configured", "1 when there is a Redis to use.", Merge.GREATEST),
    _gauge("redis_up", "1 when the last Redis operation succeeded, 0 when it failed.", Merge.LEAST),
    _gauge(
        "redis_breaker_open",
        "1 while requests do not wait for Redis, because it failed too often.",
        Merge.GREATEST,
    ),
    _counter("redis_breaker_openings", "How often Redis was given up."),
    _gauge("redis_subscription_up", "1 while forgets of other replicas are heard.", Merge.LEAST),
    _counter(
        "redis_subscriptions", "How often the subscription was confirmed; each time memory starts empty."
    ),
    _gauge("redis_connections", "Connections to Redis that carry a command."),
    _gauge("redis_connections_limit", "Bound of connections to Redis for commands."),
    _gauge("redis_debts", "Stacks that Redis must still be told to forget."),
    _gauge("redis_queue", "Stores waiting to be sent to Redis."),
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
        "loop_lag_seconds",
        Kind.HISTOGRAM,
        "How late the event loop came to a call it was to make, looked at once a second.",
        bounds_s=LOOP_BOUNDS_S,
    ),
    Family(
        "build_info",
        Kind.GAUGE,
        "1; the labels say what is running.",
        ("version", "python", "loop"),
        (),
        merge=Merge.GREATEST,
    ),
    _counter(
        "log_lines_dropped",
        "Log lines left out because callers caused too many, or because nobody read them.",
    ),
    _gauge("ready", "1 while requests are accepted, 0 while draining.", Merge.LEAST),
    _gauge("processes", "Processes that this scrape tells about."),
    # The service: told once, by the process that listens.
    _gauge("workers", "Workers that accept requests."),
    _counter("worker_restarts", "Workers that were replaced."),
    _counter("config_reloads", "Times the configuration was read anew."),
    _counter("config_reload_failures", "Times that failed and the old one stayed."),
    _gauge("config_last_reload_success", "1 unless the last time failed.", Merge.LEAST),
    _standard("process_cpu_seconds", Kind.COUNTER, "User and system CPU time."),
    _standard("process_resident_memory_bytes", Kind.GAUGE, "Resident memory."),
    _standard("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory."),
    _standard("process_open_fds", Kind.GAUGE, "Open file descriptors."),
    _standard("process_max_fds", Kind.GAUGE, "Bound of open file descriptors."),
    _standard(
        "process_start_time_seconds", Kind.GAUGE, "Start of the oldest process, since the epoch.", Merge.LEAST
    ),
)
