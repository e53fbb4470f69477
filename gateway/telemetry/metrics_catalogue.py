"""Every metric of the gateway: name, type, help, labels and how the values of several processes are merged.

Scraping, ``deploy/monitoring/metrics.md`` and the tests use this list. Label values come from fixed lists, so
that neither callers nor the upstream can create series; ``node`` has the Redis servers in use.
"""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from gateway.core.caching.cache_status import ERROR, HIT, OUTCOMES, Reason
from gateway.core.http.proxy_header import Unfit
from gateway.errors import UPSTREAM_DETAILS

PREFIX = "aos_gateway_"
OPERATIONS = ("lookup", "mint", "write", "invalidate", "lease", "probe", "ping")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "other")
NO_STATUS = "none"
UPSTREAM, GATEWAY = "upstream", "gateway"

# From a fast AOS in the same region to the default read timeout.
UPSTREAM_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Around the default redis.timeout_s of 0.1 s.
REDIS_BOUNDS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
LOOP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Family(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: without prefix; a counter's without ``_total``.
        kind: its type, as Prometheus names it.
        known: label values present from the start, so that a rate shows the first event.
        bounds_s: a histogram's upper bounds.
        merge: how the values of two processes are merged; counters and histograms always add up.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ((),)
    bounds_s: tuple[float, ...] = ()
    merge: Callable[[float, float], float] = operator.add

    @property
    def full_name(self) -> str:
        """Its name with prefix, unless all client libraries use it; a counter's without ``_total``."""
        return self.name if self.name.startswith("process_") else PREFIX + self.name


def _counter(name: str, about: str, **labels: Iterable[str]) -> Family:
    return Family(name, "counter", about, tuple(labels), tuple(itertools.product(*labels.values())))


def _gauge(
    name: str, about: str, merge: Callable[[float, float], float] = operator.add, labels: tuple[str, ...] = ()
) -> Family:
    return Family(name, "gauge", about, labels, () if labels else ((),), merge=merge)


def _histogram(name: str, bounds_s: tuple[float, ...], about: str, **labels: Iterable[str]) -> Family:
    known = tuple(itertools.product(*labels.values()))
    return Family(name, "histogram", about, tuple(labels), known, bounds_s)


FAMILIES: tuple[Family, ...] = (
    # Requests.
    Family(
        "requests",
        "counter",
        "Requests by outcome; reason is why the cache was not used, empty if it was.",
        ("outcome", "reason", "status"),
        (
            (HIT, "", "2xx"),
            (HIT, Reason.RUNNING.value, "2xx"),
            ("miss", "", "2xx"),
            ("bypass", Reason.ROUTE.value, "2xx"),
            (ERROR, "", "5xx"),
        ),
    ),
    Family(
        "uncached",
        "counter",
        "Requests for which the cache was not used, by stage: lookup (not looked up), serve (no stored entry "
        "served), store (response not stored).",
        ("stage", "reason"),
        tuple((reason.stage, reason.value) for reason in Reason if reason.stage),
    ),
    _counter(
        "errors",
        "Error responses of the gateway itself, by the code in their body.",
        code=("GATEWAY.4290001", "GATEWAY.5020001", "GATEWAY.5030001", "GATEWAY.5040001", "GATEWAY.5040002"),
    ),
    _counter(
        "throttled",
        "Responses with status 429: the upstream's, and the gateway's to callers held back.",
        by=(UPSTREAM, GATEWAY),
    ),
    _counter(
        "requests_aborted",
        "Requests that ended without a response: the caller left, or the drain deadline passed.",
    ),
    _counter(
        "bad_requests",
        "Requests rejected as malformed or too large, by status.",
        status=("400", "408", "414", "431", "505"),
    ),
    _histogram(
        "request_duration_seconds",
        UPSTREAM_BOUNDS_S,
        "From the parsed request to the response head, less the time that the caller asked to wait; memory "
        "hits on the fast path are not measured.",
        outcome=OUTCOMES,
    ),
    # The cache.
    _counter(
        "upstream_requests_saved",
        "Requests answered without one of their own upstream: hits, and those that joined a fetch.",
        how=(HIT, "collapsed"),
    ),
    _counter(
        "leases",
        "Look-ups of other replicas' fetches of records that may still change; led: fetched for all, "
        "followed: given another's fetch, void: that may not be shared, waited: it had not ended.",
        outcome=("led", "followed", "void", "waited"),
    ),
    _counter("running_polls", "Fetches that showed an execution which had not ended."),
    _counter(
        "running_polls_avoidable",
        "Those of them that cache.ttl_running_s = 1 would have spared; counted while it is 0.",
    ),
    _counter("records_stored", "Records stored in at least one tier."),
    _counter(
        "not_stored",
        "Records that could not be stored in a tier, by cause.",
        cause=("overtaken", "queue-full", "redis-failed"),
    ),
    _counter(
        "invalidations",
        "Stacks invalidated, by cause; message: by another replica or worker.",
        cause=("write", "purge", "message"),
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
        why=(why.value for why in Unfit),
    ),
    # The upstream.
    _counter("upstream_requests", "Requests sent upstream.", method=METHODS),
    _counter(
        "upstream_failures",
        "Upstream requests without a usable response, by RFC 9209 error type.",
        error=sorted({*UPSTREAM_DETAILS, "connection_limit_reached"}),
    ),
    _histogram(
        "upstream_duration_seconds",
        UPSTREAM_BOUNDS_S,
        "From a slot in the pool to the upstream's response head; status none: no usable response.",
        status=("2xx", "3xx", "4xx", "5xx", NO_STATUS),
    ),
    _histogram(
        "upstream_wait_seconds",
        UPSTREAM_BOUNDS_S,
        "Time that requests waited for a slot in the upstream pool.",
    ),
    _gauge("upstream_connections", "Upstream connections in use."),
    _gauge("upstream_connections_limit", "Limit of upstream connections in use, parked ones not counted."),
    _gauge("upstream_parked", "Upstream connections in use that wait for a slow caller."),
    _gauge("upstream_waiting", "Requests waiting for an upstream connection."),
    _gauge("upstream_waiting_limit", "Limit of requests waiting for an upstream connection."),
    _gauge("fetches_in_flight", "Shared fetches in flight."),
    # Credentials of the gateway itself.
    _counter(
        "credential_renewals",
        "New tokens of the gateway's own: had, refused by IAM, or failed.",
        outcome=("renewed", "refused", "failed"),
    ),
    _gauge("credentials_age_seconds", "Age of the gateway's own token in use; 0 without one.", max),
    _gauge("credentials_unavailable", "1 while the gateway cannot get credentials of its own.", max),
    # Waiting.
    _gauge("waiting_callers", "Callers who wait for a running execution (Prefer: wait)."),
    _gauge("waiting_callers_limit", "Limit of callers who wait for a running execution."),
    _counter(
        "iam_questions",
        "Questions to IAM whose a token is, by outcome; shared: another gateway knew, refused: IAM says that "
        "the token does not count, or not for long, unusable: the answer names no user.",
        outcome=(
            "verified",
            "shared",
            "refused",
            "throttled",
            "unusable",
            "timeout",
            "unreachable",
            "tls",
            "malformed",
        ),
    ),
    _gauge("verified_tokens", "Tokens whose user is known by IAM's word."),
    _counter(
        "waits",
        "Waits of callers by their end: woken by something new, timed out, or left: the caller went away.",
        outcome=("woken", "timed_out", "left"),
    ),
    _histogram(
        "wake_duration_seconds",
        LOOP_BOUNDS_S,
        "From the end of a fetch until the last of the waiting callers whom it wakes is answered.",
    ),
    _gauge("throttled_callers", "Callers throttled at present because the upstream answered 429."),
    # Memory.
    _gauge("memory_cache_bytes", "Bytes in the memory tier."),
    _gauge("memory_cache_limit_bytes", "Limit of the memory tier; 0 if it is off."),
    _gauge("memory_cache_entries", "Entries in the memory tier."),
    _counter("memory_cache_evictions", "Entries evicted from the memory tier to make room."),
    # Redis.
    _gauge("redis_configured", "1 if Redis is configured.", max),
    _gauge("redis_up", "1 if the last Redis operation succeeded.", min),
    _gauge(
        "redis_node_up",
        "1 while the circuit breaker lets requests reach this Redis server and its last operation succeeded; "
        "every primary of a Cluster, or the one that Sentinels name.",
        min,
        ("node",),
    ),
    _gauge("redis_breaker_open", "1 while the circuit breaker keeps requests from Redis.", max),
    _counter("redis_breaker_openings", "How often the circuit breaker opened."),
    _gauge("redis_subscription_up", "1 while invalidations of other replicas are received.", min),
    _counter("redis_subscriptions", "How often the subscription was confirmed; memory is cleared each time."),
    _gauge("redis_connections", "Connections to Redis in use for a command."),
    _gauge("redis_connections_limit", "Limit of connections to Redis for commands."),
    _gauge("redis_pending_invalidations", "Stacks whose invalidation Redis has not confirmed yet."),
    _gauge("redis_write_queue", "Records waiting to be written to Redis."),
    _counter(
        "redis_failures",
        "Failed Redis operations.",
        operation=OPERATIONS,
        kind=("timeout", "connection", "answer"),
    ),
    _histogram(
        "redis_duration_seconds",
        REDIS_BOUNDS_S,
        "Duration of Redis operations, failed ones too.",
        operation=OPERATIONS,
    ),
    # The process.
    _histogram(
        "event_loop_lag_seconds", LOOP_BOUNDS_S, "Delay of a timer of the event loop, measured once a second."
    ),
    _gauge(
        "build_info",
        "1; the labels name the version, Python and the event loop.",
        max,
        ("version", "python", "loop"),
    ),
    _counter("log_lines_dropped", "Log lines dropped: over the rate limit, or nobody read them in time."),
    _gauge("ready", "1 while requests are accepted, 0 while draining.", min),
    _gauge("processes", "Processes in this scrape."),
    # The service, counted once by the main process.
    _gauge("workers", "Workers that accept requests."),
    _counter("worker_restarts", "Workers replaced after they ended."),
    _counter("config_reloads", "Successful reloads of the configuration."),
    _counter("config_reload_failures", "Failed reloads; the old configuration stayed in use."),
    _gauge("config_last_reload_success", "1 if the last reload succeeded or there was none.", min),
    _counter("process_cpu_seconds", "User and system CPU time."),
    _gauge("process_resident_memory_bytes", "Resident memory."),
    _gauge("process_virtual_memory_bytes", "Virtual memory."),
    _gauge("process_open_fds", "Open file descriptors."),
    _gauge("process_max_fds", "Limit of open file descriptors."),
    _gauge("process_start_time_seconds", "Start of the oldest process in seconds since the epoch.", min),
)
