"""What is read off the running parts at scrape time: gauges, and the counters that they keep themselves."""

import asyncio
import platform
from collections.abc import Sized

from gateway import __version__
from gateway.cache.throttle import Throttle
from gateway.config.model import Config
from gateway.credentials.credentials import GatewayCredentials
from gateway.store.breaker import BreakerState
from gateway.store.tiers import Tiers
from gateway.telemetry import process
from gateway.telemetry.access_log import dropped_lines
from gateway.telemetry.snapshot import Snapshot, unlabelled
from gateway.upstream.limiter import Slots


def gauges(
    config: Config,
    *,
    is_ready: bool,
    connections: Sized,
    flights: Sized,
    waits: Sized,
    verified: Sized,
    throttle: Throttle,
    credentials: GatewayCredentials | None,
    slots: Slots,
    tiers: Tiers,
) -> Snapshot:
    """Return the parts of one gateway as numbers."""
    redis, memory = tiers.redis_state(), tiers.memory
    numbers = {
        "ready": float(is_ready),
        "connections": len(connections),
        "connections_limit": config.server.max_connections,
        "fetches_in_flight": len(flights),
        "waiting_callers": len(waits),
        "waiting_callers_limit": config.wait.max_waiting if config.wait.max_s else 0,
        "throttled_callers": throttle.held(),
        "verified_tokens": len(verified),
        "log_lines_dropped": dropped_lines(),
        "credentials_unavailable": credentials is not None and credentials.source.is_unavailable,
        "credentials_age_seconds": 0.0 if credentials is None else credentials.age_s(),
        "upstream_connections": slots.in_use,
        "upstream_connections_limit": config.upstream.max_connections,
        "upstream_parked": slots.parked,
        "upstream_waiting": slots.waiting,
        "upstream_waiting_limit": config.upstream.max_waiting,
        "memory_cache_bytes": memory.size_bytes,
        "memory_cache_limit_bytes": memory.limit_bytes,
        "memory_cache_entries": len(memory),
        "memory_cache_evictions": memory.evictions,
        "redis_configured": redis.is_configured,
        "redis_up": redis.is_up,
        "redis_breaker_open": redis.breaker is not BreakerState.CLOSED,
        "redis_breaker_openings": redis.breaker_openings,
        "redis_subscription_up": redis.is_subscribed,
        "redis_connections": redis.connections,
        "redis_connections_limit": redis.max_connections,
        "redis_pending_invalidations": redis.pending_invalidations,
        "redis_write_queue": redis.queued_writes,
        **process.gauges(),
    }
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    labelled: Snapshot = {
        "build_info": {(__version__, platform.python_version(), loop): (1,)},
        "redis_node_up": {(address,): (float(is_up),) for address, is_up in redis.nodes.items()},
    }
    return unlabelled(numbers) | labelled
