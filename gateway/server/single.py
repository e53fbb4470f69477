"""The service as a single process: one gateway and its admin address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from gateway.admin.app import build_admin
from gateway.admin.server import AdminServer
from gateway.app.gateway import Gateway
from gateway.config.model import Config
from gateway.config.sources import RawSetting
from gateway.runtime.event_loop import settle_garbage_collector
from gateway.runtime.listeners import ListeningSockets
from gateway.server.reload import Reloads
from gateway.telemetry.snapshot import Snapshot, merged, unlabelled


class SingleProcess:
    """One gateway with its admin address in this process; see `gateway.server.service.Service`.

    Args:
        config: the whole configuration.
        reloads: counts reloads for the metrics.
    """

    def __init__(self, config: Config, reloads: Reloads) -> None:
        self._gateway = Gateway(config)
        self._operations = _Operations(self._gateway, reloads)
        self._admin = AdminServer(self._operations.app(), config.server.admin_listen)

    async def start(self, sockets: ListeningSockets, admin: ListeningSockets) -> None:
        """See `Service.start`."""
        await self._admin.start(admin)
        await self._gateway.start(sockets)
        settle_garbage_collector()

    def disable_memory(self) -> None:
        """See `Service.disable_memory`."""
        self._gateway.tiers.disable_memory()

    def enable_memory(self) -> None:
        """See `Service.enable_memory`."""
        self._gateway.tiers.enable_memory()

    async def failed(self) -> str:
        """See `Service.failed`: only the process itself can fail."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def reload(self, config: Config, raw: Mapping[str, RawSetting]) -> None:
        """See `Service.reload`."""
        del raw
        await self._gateway.apply(config)
        await self._admin.replace(self._operations.app())

    def begin_drain(self) -> None:
        """See `Service.begin_drain`."""
        self._gateway.begin_drain()

    def hand_over(self) -> None:
        """See `Service.hand_over`."""
        self._gateway.hand_over()
        self._admin.sockets.hand_over()

    async def drain(self, *, is_handover: bool) -> None:
        """See `Service.drain`."""
        if is_handover:
            # Admin requests belong to the process that accepts.
            await self._admin.close()
        await self._gateway.close(is_handover=is_handover)

    async def close(self) -> None:
        """See `Service.close`."""
        await self._gateway.close(0)
        await self._admin.close()


class _Operations:
    """`gateway.operations.Operations` of one gateway, with the counts of its process."""

    def __init__(self, gateway: Gateway, reloads: Reloads) -> None:
        self._gateway = gateway
        self._reloads = reloads
        self.ready = gateway.ready
        self.health = gateway.health
        self.executions = gateway.executions
        self.throttled = gateway.throttled
        self.refresh = gateway.refresh
        self.purge = gateway.purge

    @property
    def config(self) -> Config:
        """The effective configuration."""
        return self._gateway.config

    def app(self) -> web.Application:
        """Make the admin application."""
        server = self.config.server
        return build_admin(self, token=server.admin_token, hosts=server.admin_hosts)

    def metrics_snapshot(self) -> Snapshot:
        """Return the metrics of the gateway and of the service."""
        service = {"workers": self._gateway.ready(), "worker_restarts": 0, **self._reloads.gauges()}
        return merged([self._gateway.metrics_snapshot(), unlabelled(service)])
