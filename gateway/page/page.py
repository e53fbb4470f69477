"""The page's files, and `/status`, which it polls every second."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

import gateway
from gateway.operations import Operations
from gateway.page.health import Facts
from gateway.page.samples import STEP_S, History, Sample
from gateway.page.status import status
from gateway.tasks import TaskSet

_LOG = logging.getLogger("gateway.admin")
# Browsers that poll at the same time share a sample.
_FRESH_S: Final = 0.4
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""The page's Content-Security-Policy: its own files only, nothing inline."""


class Page:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._history = History()
        # The most that ever ran at once: one that has ended and is not replaced yet counts as missing.
        self._most_workers = 1
        # GET only, authorization required.
        self.paths: Final[Mapping[str, Handler]] = {
            **dict.fromkeys(_FILES, self._file),
            "/status": self._status,
        }
        folder = resources.files("gateway.page") / "assets"
        self._files = {
            path: (folder.joinpath(name).read_bytes(), content_type)
            for path, (name, content_type) in _FILES.items()
        }

    async def sampling(self, _app: web.Application) -> AsyncIterator[None]:
        """Take samples while the application runs, so that a page just opened shows the last minutes."""
        tasks = TaskSet()
        tasks.start(self._keep_sampling(), "page-samples")
        yield
        await tasks.cancel()

    async def _keep_sampling(self) -> None:
        while True:
            try:
                await self._sample(is_step=True)
            except Exception:
                _LOG.exception("page: sampling the metrics failed")
            await asyncio.sleep(STEP_S)

    async def _sample(self, *, is_step: bool) -> None:
        await self._operations.refresh()
        now_s = asyncio.get_running_loop().time()
        self._history.add(Sample.of(self._operations.metrics_snapshot(), now_s), is_step=is_step)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        body, content_type = self._files[request.path]
        return web.Response(
            body=body, headers={hdrs.CONTENT_TYPE: content_type, "Content-Security-Policy": POLICY}
        )

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        now_s = asyncio.get_running_loop().time()
        if self._history.is_empty or now_s - self._history.newest.at_s > _FRESH_S:
            await self._sample(is_step=False)
        config = self._operations.config
        health = self._operations.health()
        workers, workers_ready = _workers(health, config.server.workers)
        self._most_workers = workers = max(self._most_workers, workers)
        facts = Facts(config, self._operations.ready(), workers, workers_ready)
        passed_on: dict[str, object] = {
            "version": gateway.__version__,
            "upstream_url": str(config.upstream.url),
            "scope": config.cache.scope,
            "workers": workers,
            "health": health,
            "executions": self._operations.executions(),
            "throttled": self._operations.throttled(),
        }
        body = msgspec.json.encode(status(self._history, facts, passed_on), enc_hook=str)
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json"})


def _workers(health: Mapping[str, object], configured: int) -> tuple[int, int]:
    """Return how many processes run or are configured, whichever is more, and how many are ready."""
    workers = health.get("workers")
    if not isinstance(workers, list):
        return 1, 1
    ready = sum(isinstance(one, dict) and bool(one.get("ready")) for one in workers)
    return max(len(workers), configured), ready
