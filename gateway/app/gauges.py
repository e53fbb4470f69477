"""What is read off the running parts at scrape time: gauges, and the counters that they keep themselves."""

import asyncio
from dataclasses import dataclass

from gateway.cache.throttle import Throttle
from gateway.cache.waiting import Waits
from gateway.config.model import Config
from gateway.credentials.credentials import GatewayCredentials
from gateway.downstream.connection import DownstreamServer
from gateway.iam.verifier import Verifier
from gateway.store.breaker import BreakerState
from gateway.store.redis_tier import RedisState
from gateway.store.tiers import Tiers
from gateway.telemetry import process
from gateway.telemetry.access_log import dropped_lines
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.snapshot import Snapshot, unlabelled
from gateway.upstream.upstream import Upstream


@dataclass(eq=False, repr=False)
class Gauges:
    """The parts of one gateway as numbers.

    Attributes:
        config: the bounds in use; a reload replaces it.
    """

    config: Config
    metrics: Metrics
    tiers: Tiers
    upstream: Upstream
    throttle: Throttle
    waits: Waits
    verifier: Verifier | None
    credentials: GatewayCredentials | None

    def snapshot(self, server: DownstreamServer, flights: int, *, is_ready: bool) -> Snapshot:
        redis = self.tiers.redis_state()
        gauges = {
            "ready": float(is_ready),
            "connections": len(server.connections),
            "connections_limit": self.config.server.max_connections,
            "fetches_in_flight": flights,
            "waiting_callers": len(self.waits),
            "waiting_callers_limit": self.config.wait.max_waiting if self.config.wait.max_s else 0,
            "throttled_callers": self.throttle.held(),
            "verified_tokens": 0 if self.verifier is None else len(self.verifier),
            "log_lines_dropped": dropped_lines(),
        }
        gauges |= (
            self._of_credentials()
            | self._of_the_upstream()
            | self._of_memory()
            | _of_redis(redis)
            | process.gauges()
        )
        build = process.build(asyncio.get_running_loop())
        labelled: Snapshot = {
            "build_info": {build: (1,)},
            "redis_node_up": {(address,): (float(is_up),) for address, is_up in redis.nodes.items()},
        }
        return self.metrics.snapshot() | unlabelled(gauges) | labelled

    def _of_credentials(self) -> dict[str, float]:
        credentials = self.credentials
        return {
            "credentials_unavailable": credentials is not None and credentials.source.is_unavailable,
            "credentials_age_seconds": 0.0 if credentials is None else credentials.age_s(),
        }

    def _of_the_upstream(self) -> dict[str, float]:
        slots, bounds = self.upstream.slots, self.config.upstream
        return {
            "upstream_connections": slots.in_use,
            "upstream_connections_limit": bounds.max_connections,
            "upstream_parked": slots.parked,
            "upstream_waiting": slots.waiting,
            "upstream_waiting_limit": bounds.max_waiting,
        }

    def _of_memory(self) -> dict[str, float]:
        memory = self.tiers.memory
        return {
            "memory_cache_bytes": memory.size_bytes,
            "memory_cache_limit_bytes": memory.limit_bytes,
            "memory_cache_entries": len(memory),
            "memory_cache_evictions": memory.evictions,
        }


def _of_redis(redis: RedisState) -> dict[str, float]:
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
