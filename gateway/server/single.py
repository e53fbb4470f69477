"""The service as a single process: one gateway and its admin address."""

import asyncio

import msgspec

from gateway.admin.server import AdminServer
from gateway.app.gateway import Gateway
from gateway.config.model import Config
from gateway.config.sources import RawSetting
from gateway.runtime.event_loop import settle_memory
from gateway.runtime.listeners import ListeningSockets
from gateway.server.reload import Reloads
from gateway.telemetry.snapshot import Snapshot, merged, unlabelled


class SingleProcess:
    """One gateway with its admin address; each method is that of `gateway.server.supervisor.Supervisor`."""

    def __init__(self, config: Config, reloads: Reloads) -> None:
        self._gateway = _Gateway(config, reloads)
        self._admin = AdminServer(self._gateway)
        self.disable_memory = self._gateway.tiers.disable_memory
        self.enable_memory = self._gateway.tiers.enable_memory
        self.begin_drain = self._gateway.begin_drain
        # Never done: only the process itself can fail.
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, sockets: ListeningSockets, admin: ListeningSockets) -> None:
        await self._admin.start(admin)
        await self._gateway.start(sockets)
        settle_memory()

    async def reload(self, config: Config, raw: dict[str, RawSetting]) -> None:
        del raw
        await self._gateway.apply(config)
        await self._admin.reload()

    def hand_over(self) -> None:
        self._gateway.hand_over()
        self._admin.sockets.hand_over()

    async def drain(self, *, is_handover: bool) -> None:
        if is_handover:
            # Admin requests belong to the process that accepts.
            await self._admin.close()
        await self._gateway.close(is_handover=is_handover)

    async def close(self) -> None:
        await self._gateway.close(0)
        await self._admin.close()


class _Gateway(Gateway):
    """A gateway whose metrics are those of the service."""

    def __init__(self, config: Config, reloads: Reloads) -> None:
        super().__init__(config)
        self._reloads = reloads

    def metrics_snapshot(self) -> Snapshot:
        service = {"workers": self.ready(), "worker_restarts": 0, **msgspec.structs.asdict(self._reloads)}
        return merged([super().metrics_snapshot(), unlabelled(service)])
