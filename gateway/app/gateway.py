"""The object graph of one gateway, built once from its configuration."""

import asyncio
import contextlib
import functools
import logging
import math
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway.app.gauges import gauges
from gateway.app.settings import (
    identity,
    identity_headers,
    own_hosts,
    policy_rules,
    redis_settings,
    upstream_hop,
)
from gateway.cache.cache import Cache
from gateway.cache.fetcher import Fetcher
from gateway.cache.leases import Leases
from gateway.cache.poller import Polling
from gateway.cache.responder import Responder
from gateway.cache.results import Fetched
from gateway.cache.running_polls import RunningPolls
from gateway.cache.single_flight import SingleFlight
from gateway.cache.throttle import Throttle
from gateway.cache.waiting import Waits
from gateway.clock import Clock
from gateway.config.address import Address
from gateway.config.errors import ConfigError
from gateway.config.model import Config
from gateway.core.aos.route import stack_key
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import KeySpace
from gateway.credentials.credentials import GatewayCredentials
from gateway.downstream.connection import DownstreamServer
from gateway.downstream.fast_path import FastPath
from gateway.downstream.fast_path_connection import FastPathConnection, why_closed
from gateway.downstream.handler import Handler
from gateway.downstream.proxy_protocol import ProxiedAcceptor, ProxiedConnections
from gateway.downstream.request_id import RequestIds
from gateway.iam.client import IamClient
from gateway.iam.verifier import Verifier
from gateway.runtime.listeners import ListeningSockets, open_sockets
from gateway.runtime.tls import iam_context, server_context, upstream_context
from gateway.store.peers import WorkerPeers
from gateway.store.tiers import Tiers
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.caller_digest import CallerDigest, digest_key
from gateway.telemetry.event_loop_lag import EventLoopLag
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.snapshot import Snapshot
from gateway.telemetry.throttled import ThrottledCallers
from gateway.telemetry.top_executions import TopExecutions
from gateway.upstream.held_bodies import HeldBodies
from gateway.upstream.upstream import Upstream

if TYPE_CHECKING:
    from gateway.app.tracing import Tracing

_log = logging.getLogger("gateway")

_SUBSCRIBED_S = 0.3
_FIRST_POLL_S = 0.001
_LAST_POLL_S = 0.05
# For requests that were cut off to end; aiohttp takes 0 for no limit at all.
_LAST_S = 0.3
# How long an idle connection may wait for its last request.
_GENTLE_S = 10.0


class Gateway:
    """One gateway, beside its ``peers``, the other workers; make it inside a running event loop.

    The configuration says whether there are spans, where no ``tracing`` is given.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        tracing: "Tracing | None" = None,
        peers: WorkerPeers | None = None,
    ) -> None:
        clock = clock or Clock()
        self.config = config
        self.tracing = tracing or tracing_of(config)
        self.metrics = Metrics() if self.tracing is None else self.tracing.metrics()
        self._is_ready = False
        self._is_draining = False
        self._sockets: ListeningSockets | None = None
        self._acceptor: contextlib.ExitStack | ProxiedAcceptor | None = None
        self.fast_path: FastPath | None = None
        keys = KeySpace(config.redis.prefix, identity(config))
        secret = config.cache.secret.reveal().encode("utf-8")
        rules = policy_rules(config)
        proxy = upstream_hop(config)
        self.tiers = Tiers(
            config.cache,
            rules.longest_ttl_s,
            redis_settings(config, rules),
            keys=keys,
            secret=secret,
            clock=clock,
            metrics=self.metrics,
            on_invalidate=self._invalidated,
            on_drop=self._dropped,
            on_start_over=self._started_over,
            peers=peers,
        )
        self.flights: SingleFlight[Fetched] = SingleFlight(
            config.upstream.total_timeout_s,
            min(config.cache.memory_ttl_s, config.cache.ttl_running_s or math.inf),
            clock,
            self.tiers.invalidations.changes,
        )
        self._iam = IamClient(config.iam, iam_context(config.iam)) if config.iam.url else None
        self.verifier: Verifier | None = None
        if self._iam is not None and config.identity.by == "user":
            self.verifier = Verifier(
                self._iam,
                config.iam,
                config.identity.verify_ttl_s,
                processes=1 if peers is None else peers.workers,
                secret=secret,
                shared=self.tiers.token_owners(config.iam.url) if secret else None,
                clock=clock,
                metrics=self.metrics,
                on_change=self._users_changed,
            )
        identity_reader = IdentityReader(
            identity_headers(config), secret, shared=rules.shared, token_users=self.verifier
        )
        # One: more would only take the interpreter from the event loop.
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decide")
        make_upstream = Upstream if self.tracing is None else self.tracing.upstream
        self.upstream = make_upstream(config.upstream, upstream_context(config.upstream), clock, self.metrics)
        self._throttle = throttle = Throttle(
            clock,
            via=proxy.via,
            identity_headers=rules.identity_headers,
            is_on=config.upstream.hold_back,
        )
        redis_leases = self.tiers.leases() if config.redis.share_running else None
        self.top_executions = TopExecutions(clock)
        self.executions = self.top_executions.busiest
        self._fetcher = Fetcher(
            rules=rules,
            proxy=proxy,
            tiers=self.tiers,
            upstream=self.upstream,
            throttle=throttle,
            verifier=self.verifier,
            clock=clock,
            executor=self.executor,
            leases=None
            if redis_leases is None
            else Leases(
                redis_leases,
                self.tiers,
                rules,
                # The rest is for its own fetch.
                longest_s=config.upstream.total_timeout_s / 2,
                clock=clock,
                executor=self.executor,
                metrics=self.metrics,
            ),
            top_executions=self.top_executions,
            running_polls=RunningPolls(
                rules,
                self.tiers.invalidations.changes,
                self.metrics,
                has_memory=config.cache.memory_bytes > 0,
            ),
        )
        request_ids = RequestIds()
        # Where entries are shared by all who can connect.
        hosts = own_hosts(config) if rules.shared else None
        self._credentials: GatewayCredentials | None = None
        if config.credentials.source != "caller":
            self._credentials = GatewayCredentials(
                config,
                self._iam,
                own_hosts(config),
                identity_reader=identity_reader,
                clock=clock,
                metrics=self.metrics,
            )
            self.upstream.credentials = self._credentials.source
            self.upstream.bodies = HeldBodies(config.credentials.body_bytes)
        polling = Polling(config.wait, self.flights, self._fetcher, throttle, request_ids.fresh)
        responder = Responder(self.flights, self._fetcher)
        self.waits = waits = Waits(polling, keys, responder, self.metrics, identity_reader)
        self._event_loop_lag = EventLoopLag(self.metrics.event_loop_lag_s)
        cache = Cache(
            identity_reader=identity_reader,
            keys=keys,
            flights=self.flights,
            fetcher=self._fetcher,
            throttle=throttle,
            responder=responder,
            waits=waits,
        )
        self._caller_digest = CallerDigest(identity_reader, digest_key(secret, os.environ))
        throttled = ThrottledCallers(clock, self._caller_digest)
        self.throttled = throttled.most
        self._access_log = access_log = AccessLog(config.log, self._caller_digest)
        self._handler = handler = Handler(
            cache,
            body_timeout_s=config.server.body_timeout_s,
            own_hosts=hosts,
            metrics=self.metrics,
            throttled=throttled,
            access_log=access_log,
            request_ids=request_ids,
            is_draining=lambda: self._is_draining,
            credentials=self._credentials,
        )
        connection = None
        if config.server.fast_lane:
            if (difference := why_closed()) is not None:
                _log.warning("server.fast_lane is left off: %s", difference)
            else:
                make = FastPath if self.tracing is None else self.tracing.fast_path
                self.fast_path = make(
                    tiers=self.tiers,
                    identity_reader=identity_reader,
                    keys=keys,
                    proxy=proxy,
                    own_hosts=hosts,
                    max_header_bytes=config.server.max_header_bytes,
                    clock=clock,
                    metrics=self.metrics,
                    access_log=access_log,
                    request_ids=request_ids,
                    handler=handler,
                    top_executions=self.top_executions,
                )
                connection = functools.partial(FastPathConnection, fast_path=self.fast_path)
        self.server = DownstreamServer(
            handler if self.tracing is None else self.tracing.handler(handler),
            config.server,
            metrics=self.metrics,
            request_ids=request_ids,
            access_log=access_log,
            connection=connection,
        )
        self._proxied = ProxiedConnections(self.server) if config.server.proxy_protocol else None

    def _users_changed(self, tokens: set[bytes]) -> None:
        if self.fast_path is not None:
            self.fast_path.read_again(tokens)
        self.waits.identify_anew(tokens)

    def _invalidated(self, stack: bytes) -> None:
        self.waits.invalidate(stack)

    def _dropped(self, entry: bytes) -> None:
        self.waits.drop(entry)

    def _started_over(self) -> None:
        self.waits.invalidate_all()

    async def start(self, sockets: ListeningSockets | None = None) -> Address:
        """Accept connections on these sockets, its own from now on, or on ``server.listen``; return where."""
        self._sockets = sockets or await open_sockets(
            self.config.server.listen, self.config.server.listen_mode
        )
        self._event_loop_lag.start()
        # What is fetched before the subscription is confirmed is not stored.
        await self.tiers.start(_SUBSCRIBED_S)
        if self.verifier is not None:
            self.verifier.start()
        self._acceptor = await self._accept(self._sockets, server_context(self.config.server))
        self._is_ready = True
        return self._sockets.address

    async def _accept(
        self, sockets: ListeningSockets, tls: ssl.SSLContext | None
    ) -> contextlib.ExitStack | ProxiedAcceptor:
        if self._proxied is not None:
            return self._proxied.accept(sockets, tls)
        return await sockets.accept(self.server, tls)

    def begin_drain(self) -> None:
        """Say that no more work is wanted; the listener stays open."""
        self._is_ready = False

    def hand_over(self) -> None:
        """Leave the file of a Unix socket to the process that accepts from now on."""
        if self._sockets is not None:
            self._sockets.hand_over()

    async def apply(self, config: Config) -> None:
        """Use another configuration that differs in `gateway.server.reload.LIVE` alone; files are read anew.

        A `ConfigError` changes nothing.
        """
        tls, upstream_tls = server_context(config.server), upstream_context(config.upstream)
        iam_tls = iam_context(config.iam)
        redis = redis_settings(config, policy_rules(config))
        was_tls = bool(self.config.server.tls_cert)
        if self._sockets is not None and self._acceptor is not None and (tls is not None or was_tls):
            try:
                acceptor = await self._accept(self._sockets, tls)
            except OSError as error:
                raise ConfigError(f"cannot accept anew: {error.strerror}; send SIGHUP again") from error
            self._acceptor.close()
            self._acceptor = acceptor
            if self._is_draining:
                # It began meanwhile.
                acceptor.close()
        self.config = config
        self.waits.change(config.wait)
        self.server.change(config.server)
        self._handler.body_timeout_s = config.server.body_timeout_s
        self._access_log.change(config.log)
        self.upstream.change(config.upstream, upstream_tls)
        if self._iam is not None:
            self._iam.tls = iam_tls
        if self._credentials is not None:
            self._credentials.change(config)
        self._throttle.change(is_on=config.upstream.hold_back)
        if redis is not None:
            self.tiers.connect_with(redis)

    async def close(self, timeout_s: float | None = None, *, is_handover: bool = False) -> None:
        """Stop accepting, finish requests, stores and pending invalidations within a time, then close.

        The time is ``server.drain_timeout_s`` when ``None``. At a handover idle connections end with their
        next answer; only at the end of a while at once, which could cross a request on its way.
        """
        loop = asyncio.get_running_loop()
        within_s = self.config.server.drain_timeout_s if timeout_s is None else timeout_s
        ends_s = loop.time() + within_s
        idle_until_s = loop.time() + min(_GENTLE_S, within_s / 2) if is_handover else 0.0
        self._is_ready = False
        self._is_draining = True
        self.waits.close()
        self._event_loop_lag.stop()
        if self.fast_path is not None:
            self.fast_path.close()
        if self._acceptor is not None:
            self._acceptor.close()
        if self._sockets is not None:
            self._sockets.leave()
        if is_handover:
            self.tiers.retire_memory()
        poll_s = _FIRST_POLL_S
        while (self.server.connections or self._proxied) and loop.time() < ends_s:
            if loop.time() >= idle_until_s:
                self.server.close_idle()
                if self._proxied is not None:
                    self._proxied.close_idle()
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * 2, _LAST_POLL_S)
        await self.flights.close(max(0.0, ends_s - loop.time()))
        await self._fetcher.close()
        if self.verifier is not None:
            await self.verifier.close()
        # Cuts what is still under way; the writes among it invalidate before the tiers close.
        await self.upstream.close()
        if self._credentials is not None:
            await self._credentials.source.close()
        if self._iam is not None:
            await self._iam.close()
        if self._proxied is not None:
            await self._proxied.close()
        await self.server.shutdown(_LAST_S)
        await self.tiers.close(max(0.1, ends_s - loop.time()))
        self.executor.shutdown(wait=False, cancel_futures=True)
        if self.tracing is not None:
            await self.tracing.close()

    def ready(self) -> bool:
        return self._is_ready

    def health(self) -> dict[str, object]:
        """Return what ``/readyz`` reports beside readiness; Redis does not make it false."""
        redis = self.tiers.redis_state()
        if not redis.is_configured:
            return {"redis": "off"}
        return {
            "redis": "up" if redis.is_up else "down",
            "nodes": {address: "up" if is_up else "down" for address, is_up in redis.nodes.items()},
            "breaker": redis.breaker.value,
            "subscription": "up" if redis.is_subscribed else "down",
            "pending_invalidations": redis.pending_invalidations,
        }

    def metrics_snapshot(self) -> Snapshot:
        """Return what this process has counted, to be put together with what others have."""
        return self.metrics.snapshot() | gauges(
            self.config,
            is_ready=self._is_ready,
            connections=self.server.connections,
            flights=self.flights,
            waits=self.waits,
            verified=() if self.verifier is None else self.verifier,
            throttle=self._throttle,
            credentials=self._credentials,
            slots=self.upstream.slots,
            tiers=self.tiers,
        )

    async def refresh(self) -> None:
        """Nothing to collect: there is one process."""

    async def purge(self, stack_id: str) -> bool:
        """Make a stack's stored entries unusable; ``False`` when Redis has not confirmed it yet."""
        return await self.tiers.invalidate([stack_key(stack_id.encode("utf-8"))], "purge", settles=False)


def tracing_of(config: Config) -> "Tracing | None":
    """Return what makes spans; ``None`` unless the configuration wants some."""
    if not config.tracing.endpoint:
        return None
    # An extra, and 70 ms to load.
    from gateway.app.tracing import Tracing

    return Tracing(config.tracing)
