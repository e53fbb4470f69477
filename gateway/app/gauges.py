"""What is read off the running parts at scrape time: gauges, and the counters that they keep themselves."""

from __future__ import annotations

import asyncio

from gateway.cache.throttle import Throttle
from gateway.cache.waiting import Waits
from gateway.config.model import Config
from gateway.credentials.credentials import GatewayCredentials
from gateway.downstream.connection import DownstreamServer
from gateway.store.breaker import BreakerState
from gateway.store.tiers import Tiers
from gateway.telemetry import process
from gateway.telemetry.access_log import dropped_lines
from gateway.telemetry.event_loop_lag import EventLoopLag
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.snapshot import Snapshot, unlabelled
from gateway.upstream.upstream import Upstream


class Gauges:
    """The parts of one gateway as numbers.

    Args:
        config: the bounds.
        metrics: what is counted on the way of requests.
        tiers: memory and Redis.
        upstream: the pool.
        throttle: callers who have to wait.
        waits: callers who want to.
        credentials: of the gateway itself; ``None`` without any.

    Attributes:
        config: the bounds in use; a reload replaces it.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        *,
        tiers: Tiers,
        upstream: Upstream,
        throttle: Throttle,
        waits: Waits,
        credentials: GatewayCredentials | None,
    ) -> None:
        self.event_loop_lag = EventLoopLag(metrics.event_loop_lag_s)
        self.config = config
        self._metrics = metrics
        self._tiers = tiers
        self._upstream = upstream
        self._throttle = throttle
        self._waits = waits
        self._credentials = credentials

    def snapshot(self, server: DownstreamServer, flights: int, *, is_ready: bool) -> Snapshot:
        """Return everything that one process has to tell.

        Args:
            server: the callers' connections.
            flights: shared fetches under way.
            is_ready: requests are accepted.
        """
        gauges = {
            "ready": float(is_ready),
            "connections": len(server.connections),
            "connections_limit": self.config.server.max_connections,
            "fetches_in_flight": flights,
            "waiting_callers": len(self._waits),
            "waiting_callers_limit": self.config.wait.max_waiting if self.config.wait.max_s else 0,
            "throttled_callers": self._throttle.held(),
            "log_lines_dropped": dropped_lines(),
        }
        if self._credentials is not None:
            gauges |= self._credentials.gauges()
        gauges |= self._of_the_upstream() | self._of_memory() | self._of_redis() | process.gauges()
        build = process.build(asyncio.get_running_loop())
        return self._metrics.snapshot() | unlabelled(gauges) | {"build_info": {build: (1,)}}

    def _of_the_upstream(self) -> dict[str, float]:
        slots, bounds = self._upstream.slots, self.config.upstream
        return {
            "upstream_connections": slots.in_use,
            "upstream_connections_limit": bounds.max_connections,
            "upstream_parked": slots.parked,
            "upstream_waiting": slots.waiting,
            "upstream_waiting_limit": bounds.max_waiting,
        }

    def _of_memory(self) -> dict[str, float]:
        memory = self._tiers.memory
        return {
            "memory_cache_bytes": memory.size_bytes,
            "memory_cache_limit_bytes": memory.limit_bytes,
            "memory_cache_entries": len(memory),
            "memory_cache_evictions": memory.evictions,
        }

    def _of_redis(self) -> dict[str, float]:
        redis = self._tiers.redis_state()
        return {
            "redis_configured": redis.is_configured,
            "redis_up": redis.is_up,
            "redis_breaker_open": redis.breaker is not BreakerState.CLOSED,
            "redis_breaker_openings": redis.breaker_openings,
            "redis_subscription_up": redis.is_subscribed,
            "redis_connections": redis.connections,
            "redis_connections_limit": redis.max_connections,
            "redis_pending_invalidations": redis.pending_invalidations,
            "redis_write_queue": redis.queued_writes,
        }
