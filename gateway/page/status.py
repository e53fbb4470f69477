"""What the page shows, as one JSON object computed from samples."""

from gateway.core.caching.cache_status import Reason
from gateway.page import health
from gateway.page.health import Facts, percent
from gateway.page.samples import STEP_S, STEPS, Change, History, buckets, quantile_s
from gateway.page.words import words
from gateway.telemetry.metrics_catalogue import FAMILIES

_MINUTE_S = 60.0
_ALL_S = STEP_S * STEPS
_LIVE_S = 3.0
_MOST_REASONS = 8
_SHARES = (0.5, 0.9, 0.99)
_BOUNDS_S = {family.name: family.bounds_s for family in FAMILIES}
_DURATIONS = {
    "request_duration_seconds": "request",
    "upstream_duration_seconds": "AOS call",
    "upstream_wait_seconds": "wait for a connection to AOS",
    "redis_duration_seconds": "Redis operation",
    "wake_duration_seconds": "wake of waiting callers",
    "event_loop_lag_seconds": "event loop delay",
}


def status(history: History, facts: Facts, passed_on: dict[str, object]) -> dict[str, object]:
    """Return the whole object.

    ``passed_on`` is shown as it is: version, upstream, workers, health, executions, callers.
    """
    parts = {
        "gateway": health.gateway(history, facts),
        "upstream": health.upstream(history),
        "quota": health.quota(history),
        "redis": health.redis(history, facts),
    }
    if facts.config.identity.by == "user":
        parts["iam"] = health.iam(history)
    worst = health.headline(parts)
    others = [part.text for part in parts.values() if part.level and part is not worst]
    sample = history.newest
    minute = history.since(_MINUTE_S)
    return {
        **passed_on,
        "level": worst.level.name.lower(),
        "headline": worst.text,
        "todo": worst.todo,
        "others": others,
        "parts": {
            name: {"level": part.level.name.lower(), "state": part.state, "text": part.text}
            for name, part in parts.items()
        },
        "now": _traffic(history.since(_LIVE_S)),
        "minute": _traffic(minute),
        "step_s": STEP_S,
        "steps": STEPS,
        "timeline": [_traffic(step) for step in history.steps()],
        "latency": _latency(minute),
        "hit_ratio_detail": _why_few_hits(minute),
        # Those too that had no call of their own: nearly all fetches take place while it runs.
        "saved_while_running": _given_again(minute)
        + minute.total("upstream_requests_saved", how="collapsed"),
        "running_detail": _running_polls(minute, facts.config.cache.ttl_running_s),
        "waits": minute.by_label("waits", "outcome"),
        "leases": minute.by_label("leases", "outcome"),
        # Those that are down first.
        "redis_nodes": sorted(sample.by_label("redis_node_up").items(), key=lambda node: (node[1], node[0])),
        "reasons": _reasons(history.since(_ALL_S)),
        "gauges": {
            name: sample.gauge(name)
            for name in (
                "connections",
                "upstream_connections",
                "upstream_waiting",
                "fetches_in_flight",
                "throttled_callers",
                "waiting_callers",
                "waiting_callers_limit",
                "verified_tokens",
                "memory_cache_entries",
                "memory_cache_bytes",
                "redis_subscription_up",
                "redis_pending_invalidations",
                "redis_write_queue",
            )
        },
    }


def _traffic(change: Change) -> dict[str, float]:
    outcomes = change.by_label("requests", "outcome")
    requests, hits, misses = sum(outcomes.values()), outcomes["hit"], outcomes["miss"]
    # Calls passed through can't be hits: they say nothing about the cache.
    cacheable = hits + misses
    return {
        "over_s": round(change.over_s, 2),
        "requests": requests,
        "per_s": round(requests / change.over_s, 2) if change.over_s > 0 else 0.0,
        "hits": hits,
        "misses": misses,
        "passed": outcomes["bypass"],
        "errors": outcomes["error"],
        "failed": change.total("requests", status="5xx"),
        "throttled": change.total("throttled"),
        "throttled_here": change.total("throttled", by="gateway"),
        "hit_ratio": round(hits / cacheable, 4) if cacheable else -1.0,
        "upstream_requests": change.total("upstream_requests"),
        "saved": change.total("upstream_requests_saved"),
    }


def _why_few_hits(change: Change) -> str:
    """Return why most execution calls were not hits; empty if at least half were."""
    hits = change.total("requests", outcome="hit")
    misses = change.total("requests", outcome="miss")
    if hits >= misses:
        return ""
    counts = change.by_label("requests", "reason", outcome="miss")
    most = max(counts, key=lambda reason: counts[reason])
    if counts[most] < misses / 2:
        return "for several reasons, see below"
    if not most:
        return "most had no fresh record"
    return f"most: {words(most)}"


def _given_again(change: Change) -> float:
    return change.total("requests", outcome="hit", reason=Reason.RUNNING.value)


def _running_polls(change: Change, ttl_running_s: float) -> str:
    """Return what part of the calls were polls of running executions, and what spares them or would."""
    polls = change.total("running_polls")
    if not polls:
        return "no running execution was polled"
    calls = max(polls, change.total("upstream_requests"))
    share = f"{percent(polls / calls)} of the calls to AOS were polls of running executions"
    if ttl_running_s:
        return f"{_given_again(change):,.0f} by cache.ttl_running_s; {share}"
    avoidable = change.total("running_polls_avoidable")
    if not avoidable:
        return share
    return f"{share}; cache.ttl_running_s = 1 would spare {percent(avoidable / calls)}"


def _latency(change: Change) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, title in _DURATIONS.items():
        bounds_s, found = _BOUNDS_S[name], change.by_label(name, "le")
        if found:
            counts = [found[bound] for bound in buckets(bounds_s)]
            quantiles_s = [quantile_s(bounds_s, counts, share) for share in _SHARES]
            # Below the first bound, durations can't be told apart.
            rows.append(
                {"name": title, "measured": sum(counts), "seconds": quantiles_s, "finest_s": bounds_s[0]}
            )
    return rows


def _reasons(change: Change) -> list[dict[str, object]]:
    counts = change.by_label("uncached", "reason")
    most = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_REASONS]
    return [{"reason": reason, "text": words(reason), "count": count} for reason, count in most]
