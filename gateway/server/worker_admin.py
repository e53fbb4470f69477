"""The admin side of several workers: one address that answers for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin.app import build_admin
from gateway.config.load import masked
from gateway.config.model import Config
from gateway.server.reload import Reloads
from gateway.server.worker_process import WorkerProcess
from gateway.telemetry.access_log import dropped_lines
from gateway.telemetry.metrics import Snapshot, told
from gateway.telemetry.metrics_merge import merged as merged_counts
from gateway.telemetry.metrics_merge import only_counts
from gateway.telemetry.metrics_text import render
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.throttled import merged as merged_callers
from gateway.telemetry.top_executions import TopExecution, merged

_ASK_S = 1.0
_PURGE_S = 4.0
# The page asks by itself, also when nobody looks.
_ASKING = frozenset({"/metrics", "/readyz"})


class WorkersAdmin:
    """What the admin side asks, answered for all workers.

    Args:
        config: the whole configuration.
        workers: returns those that run.
        reloads: counts reloads.

    Attributes:
        config: what `/config` shows.
        restarts: workers that were replaced.
        is_draining: no more work is wanted.
    """

    def __init__(
        self, config: Config, workers: Callable[[], Sequence[WorkerProcess]], reloads: Reloads
    ) -> None:
        self.config = config
        self.restarts = 0
        self.is_draining = False
        self._workers = workers
        self._reloads = reloads
        self._ended = Snapshot({}, {})
        self._asking: asyncio.Future[Any] | None = None

    def app(self) -> web.Application:
        """Make the admin application."""
        server = self.config.server
        app = build_admin(self, token=server.admin_token, hosts=server.admin_hosts, refresh=self._ask)
        app.middlewares.append(self._ask_first)
        return app

    def ended(self, worker: WorkerProcess) -> None:
        """Keep what a worker has counted, as far as it told."""
        if worker.state is not None:
            self._ended = merged_counts([self._ended, only_counts(worker.state.metrics)])

    def ready(self) -> bool:
        """Tell whether any worker accepts requests."""
        return not self.is_draining and any(
            worker.is_serving and worker.is_answering for worker in self._workers()
        )

    def health(self) -> dict[str, object]:
        """Return how each worker is."""
        return {
            "workers": [
                {
                    "worker": worker.number,
                    "pid": worker.pid,
                    "ready": worker.is_serving
                    and worker.is_answering
                    and worker.state is not None
                    and worker.state.is_ready,
                    **(worker.state.health if worker.state is not None else {}),
                }
                for worker in self._workers()
            ]
        }

    def metrics_text(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics of all workers as one, those of workers that have ended included."""
        workers = self._workers()
        service = {
            "workers": sum(worker.is_serving for worker in workers),
            "worker_restarts": self.restarts,
            "log_lines_dropped": dropped_lines(),
            **self._reloads.gauges(),
        }
        counted = [worker.state.metrics for worker in workers if worker.state is not None]
        return render([self._ended, *counted, told(service)], accept)

    def masked_config(self) -> dict[str, object]:
        """Return the effective configuration, secrets masked."""
        return masked(self.config)

    def executions(self) -> list[TopExecution]:
        """Return the executions that are fetched most, through any worker."""
        return merged(worker.state.executions for worker in self._workers() if worker.state is not None)

    def throttled(self) -> list[ThrottledCaller]:
        """Return the callers who are told to wait most, by any worker."""
        return merged_callers(
            worker.state.throttled for worker in self._workers() if worker.state is not None
        )

    async def purge(self, stack_id: str) -> bool:
        """Make a stack's stored entries unusable everywhere; ``False`` when that is not done yet."""
        for worker in self._workers():
            # The one that is asked tells the others; should it end meanwhile, the next one is asked.
            if worker.is_serving and (is_done := await worker.purge(stack_id, _PURGE_S)) is not None:
                return is_done
        return False

    @web.middleware
    async def _ask_first(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask the workers before they are told about; who asks at the same time shares the answers."""
        if request.path in _ASKING:
            await self._ask()
        return await handler(request)

    async def _ask(self) -> None:
        if self._asking is None or self._asking.done():
            asking = (worker.refresh(_ASK_S) for worker in self._workers() if worker.is_hearing)
            self._asking = asyncio.gather(*asking)
        await asyncio.shield(self._asking)
