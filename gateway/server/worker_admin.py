"""The admin side of several workers: one address that answers for all of them."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.config.model import Config
from gateway.server.reload import Reloads
from gateway.server.worker_process import WorkerProcess
from gateway.telemetry import throttled, top_executions
from gateway.telemetry.access_log import dropped_lines
from gateway.telemetry.snapshot import Snapshot, merged, only_counts, unlabelled
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution

_STATE_S = 1.0
_PURGE_S = 4.0


class WorkersAdmin:
    """`gateway.operations.Operations` of all workers that run, by number; ``restarts``: those replaced."""

    def __init__(self, config: Config, workers: Mapping[int, WorkerProcess], reloads: Reloads) -> None:
        self.config = config
        self.restarts = 0
        self.is_draining = False
        self._workers = workers
        self._reloads = reloads
        self._ended: Snapshot = {}
        self._refreshing: asyncio.Future[Any] | None = None

    def ended(self, worker: WorkerProcess) -> None:
        """Keep the last reported counts of a worker that ended."""
        self._ended = merged([self._ended, only_counts(worker.state.metrics)])

    def ready(self) -> bool:
        return not self.is_draining and any(worker.is_available for worker in self._workers.values())

    def health(self) -> dict[str, object]:
        return {
            "workers": [
                {
                    "worker": worker.number,
                    "pid": worker.process.pid,
                    "ready": worker.is_available and worker.state.is_ready,
                    **worker.state.health,
                }
                for worker in self._workers.values()
            ]
        }

    def metrics_snapshot(self) -> Snapshot:
        """Return the sum of all workers' metrics, including workers that have ended."""
        service = {
            "workers": sum(worker.is_serving for worker in self._workers.values()),
            "worker_restarts": self.restarts,
            "log_lines_dropped": dropped_lines(),
            **msgspec.structs.asdict(self._reloads),
        }
        running = (worker.state.metrics for worker in self._workers.values())
        return merged([self._ended, *running, unlabelled(service)])

    def executions(self) -> list[TopExecution]:
        return top_executions.merged(worker.state.executions for worker in self._workers.values())

    def throttled(self) -> list[ThrottledCaller]:
        return throttled.merged(worker.state.throttled for worker in self._workers.values())

    async def refresh(self) -> None:
        """Collect each worker's state; concurrent calls share one round."""
        if self._refreshing is None or self._refreshing.done():
            workers = [worker for worker in self._workers.values() if worker.is_subscribed]
            self._refreshing = asyncio.gather(*(worker.refresh(_STATE_S) for worker in workers))
        await asyncio.shield(self._refreshing)

    async def purge(self, stack_id: str) -> bool:
        """Invalidate a stack's stored responses everywhere; ``False`` while Redis has not confirmed."""
        for worker in list(self._workers.values()):
            # The first worker to respond has informed the others.
            if worker.is_serving and (is_done := await worker.purge(stack_id, _PURGE_S)) is not None:
                return is_done
        return False
