"""What the page shows, as one JSON object: worked out from samples, pure but for its arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from gateway.page import health
from gateway.page.health import Facts, Finding
from gateway.page.samples import STEP_S, STEPS, Change, History, quantile_s
from gateway.page.words import words
from gateway.telemetry.metrics_catalogue import FAMILIES
from gateway.telemetry.top_executions import TopExecution

_MINUTE_S = 60.0
_ALL_S = STEP_S * STEPS
_LIVE_S = 3.0
_MOST_REASONS = 8
_SHARES = (0.5, 0.9, 0.99)
_BOUNDS_S = {family.name.removesuffix("_seconds"): family.bounds_s for family in FAMILIES if family.bounds_s}
# What callers feel comes first.
_DURATIONS = {
    "request_duration": "request",
    "upstream_duration": "AOS call",
    "upstream_wait": "wait for a connection to AOS",
    "redis_duration": "Redis operation",
    "event_loop_lag": "event loop delay",
}


def status(
    history: History, facts: Facts, executions: Sequence[TopExecution], told: dict[str, object]
) -> dict[str, object]:
    """Return the whole object.

    Args:
        history: samples up to now.
        facts: what is known besides the counts.
        executions: the busiest ones.
        told: what is passed on as it is: version, upstream, workers, health, throttled callers.
    """
    parts = {
        "gateway": health.gateway(history, facts),
        "upstream": health.upstream(history),
        "quota": health.quota(history),
        "redis": health.redis(history, facts),
    }
    worst = health.headline(parts)
    others = [part.text for part in parts.values() if part.level and part is not worst]
    sample = history.newest
    minute = history.since(_MINUTE_S)
    return {
        **told,
        "level": worst.level.name.lower(),
        "headline": worst.text,
        "todo": worst.todo,
        "others": others,
        "parts": {name: _part(part) for name, part in parts.items()},
        "now": _traffic(history.since(_LIVE_S)),
        "minute": _traffic(minute),
        "step_s": STEP_S,
        "steps": STEPS,
        "timeline": [_traffic(step) for step in history.steps()],
        "latency": _latency(minute),
        "hit_ratio_note": _why_few_hits(minute),
        "reasons": _reasons(history.since(_ALL_S)),
        "executions": msgspec.to_builtins(list(executions)),
        "gauges": {
            name: sample.gauge(name)
            for name in (
                "connections",
                "upstream_connections",
                "upstream_waiting",
                "fetches_in_flight",
                "throttled_callers",
                "memory_cache_entries",
                "memory_cache_bytes",
                "redis_breaker_open",
                "redis_subscription_up",
                "redis_pending_invalidations",
                "redis_write_queue",
            )
        },
    }


def _part(finding: Finding) -> dict[str, str]:
    return {"level": finding.level.name.lower(), "state": finding.state, "text": finding.text}


def _traffic(change: Change) -> dict[str, float]:
    outcomes = change.by_label("requests_total", "outcome")
    requests = sum(outcomes.values())
    hits = outcomes.get("hit", 0.0)
    # A pass-through call could never be a hit: it says nothing about the cache.
    asked = hits + outcomes.get("miss", 0.0)
    return {
        "over_s": round(change.over_s, 2),
        "requests": requests,
        "per_s": round(requests / change.over_s, 2) if change.over_s > 0 else 0.0,
        "hits": hits,
        "misses": outcomes.get("miss", 0.0),
        "passed": outcomes.get("bypass", 0.0),
        "errors": outcomes.get("error", 0.0),
        "failed": change.total("requests_total", status="5xx"),
        "throttled": change.total("throttled_total"),
        "throttled_here": change.total("throttled_total", by="gateway"),
        "hit_ratio": round(hits / asked, 4) if asked else -1.0,
        "upstream_requests": change.total("upstream_requests_total"),
        # Older processes count no flights that were joined.
        "saved": change.total("upstream_requests_saved_total") or hits,
    }


def _why_few_hits(change: Change) -> str:
    """Return what most of the execution calls met that were not answered from here; empty with many hits."""
    hits = change.total("requests_total", outcome="hit")
    misses = change.total("requests_total", outcome="miss")
    if hits >= misses:
        return ""
    counts = change.by_label("requests_total", "reason", outcome="miss")
    most = max(counts, key=lambda reason: counts[reason])
    if counts[most] < misses / 2:
        return "for several reasons, see below"
    if not most:
        return "most were asked for for the first time"
    return f"most: {words(most)}"


def _latency(change: Change) -> list[dict[str, object]]:
    found = change.histograms()
    rows: list[dict[str, object]] = []
    for name in (*_DURATIONS, *sorted(found.keys() - _DURATIONS.keys())):
        buckets = _whole(name, found.get(name, {}))
        if measured := buckets.get(math.inf, 0.0):
            rows.append(
                {
                    "name": _DURATIONS.get(name, name.replace("_", " ")),
                    "measured": measured,
                    "seconds": [quantile_s(buckets, share) for share in _SHARES],
                    # Below it nothing is told apart.
                    "finest_s": min(buckets),
                }
            )
    return rows


def _whole(name: str, buckets: Mapping[float, float]) -> dict[float, float]:
    """Return the buckets with those that nothing fell into: one begins where the one before it ends."""
    return dict.fromkeys(_BOUNDS_S.get(name, ()), 0.0) | dict(buckets)


def _reasons(change: Change) -> list[dict[str, object]]:
    counts = change.by_label(
        "requests_total", "reason", reason=lambda value: value != "", outcome=lambda value: value != "hit"
    )
    most = sorted(counts.items(), key=lambda item: -item[1])[:_MOST_REASONS]
    return [{"reason": reason, "text": words(reason), "count": count} for reason, count in most]
