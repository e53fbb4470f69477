"""The parent of several workers: starts and replaces them, and forwards their invalidations."""

import asyncio
import logging
import os
import signal

from gateway.admin.server import AdminServer
from gateway.config.errors import ConfigError
from gateway.config.model import Config
from gateway.config.sources import RawSetting
from gateway.runtime.listeners import ListeningSockets
from gateway.server.messages import EnableMemory, Invalidate, Reload, Start, Stop
from gateway.server.reload import Reloads
from gateway.server.shared_counts import open_shared_counts
from gateway.server.worker_admin import WorkersAdmin
from gateway.server.worker_process import WorkerProcess, spawn_worker
from gateway.tasks import TaskSet, at_most

_log = logging.getLogger("gateway")

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
# A worker that ends sooner counts as unable to run, unless somebody killed it.
_EARLY_S = 10.0
_MOST_EARLY = 4
_RELOAD_S = 5.0
# After the drain timeout, for a worker's pending invalidations.
_LAST_S = 3.0


class ServiceFailed(Exception):
    """The service cannot run; the text is one line."""


class Supervisor:
    """A parent with its workers, which keep ``liveness`` open (see `gateway.server.hot_restart.Lineage`).

    ``failure`` says why it cannot go on, in one line, once that is so.
    """

    def __init__(
        self, config: Config, raw: dict[str, RawSetting], count: int, reloads: Reloads, liveness: int
    ) -> None:
        self._settings = raw
        self._count = count
        self._workers: dict[int, WorkerProcess] = {}
        self._memory_disabled = False
        self._tasks = TaskSet()
        self._runs: list[asyncio.Task[None]] = []
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._all_serve = asyncio.Event()
        self._stopping = asyncio.Event()
        self._sockets: ListeningSockets | None = None
        self._counts = -1
        self._liveness = liveness
        self._operations = WorkersAdmin(config, self._workers, reloads)
        self._admin = AdminServer(self._operations)

    async def start(self, sockets: ListeningSockets, admin: ListeningSockets) -> None:
        """Serve on these sockets, its own from now on; wait for all workers, or raise `ServiceFailed`."""
        self._sockets = sockets
        try:
            self._counts = open_shared_counts(self._count)
        except OSError as error:
            raise ServiceFailed(f"no memory for workers to share: {error.strerror}") from error
        await self._admin.start(admin)
        for number in range(self._count):
            self._runs.append(self._tasks.start(self._run(number, sockets), f"worker-{number}"))
        served = self._tasks.start(self._all_serve.wait(), "workers-start")
        await asyncio.wait((served, self.failure), return_when=asyncio.FIRST_COMPLETED)
        if self.failure.done():
            raise ServiceFailed(self.failure.result())

    def disable_memory(self) -> None:
        """Turn the memory tier off; call it before `start`."""
        self._memory_disabled = True

    def enable_memory(self) -> None:
        """Turn the memory tier on: every former process whose invalidations were missed has ended."""
        self._memory_disabled = False
        for worker in self._workers.values():
            worker.send(EnableMemory())

    async def reload(self, config: Config, raw: dict[str, RawSetting]) -> None:
        """Have all workers, later ones too, apply a configuration that differs in live settings alone.

        A `ConfigError` leaves the old one in use.
        """
        # A worker that is still starting reads it after its first settings.
        workers = list(self._workers.values())
        errors = await asyncio.gather(*(worker.reload(raw, _RELOAD_S) for worker in workers))
        for worker, error in zip(workers, errors, strict=True):
            if error:
                raise ConfigError(error)
            if error is None and worker.is_serving:
                raise ConfigError(f"worker {worker.number} did not confirm; send SIGHUP again")
        self._settings = raw
        self._operations.config = config
        await self._admin.reload()

    def begin_drain(self) -> None:
        """Report not ready; requests are still accepted."""
        self._stopping.set()
        self._operations.is_draining = True

    def hand_over(self) -> None:
        """Leave the files of Unix sockets to the successor."""
        self._admin.sockets.hand_over()
        if self._sockets is not None:
            self._sockets.hand_over()

    async def drain(self, *, is_handover: bool) -> None:
        """Stop accepting and let requests end, within ``server.drain_timeout_s``; see `messages.Stop`."""
        self._stop_accepting()
        if is_handover:
            await self._admin.close()
        for worker in self._workers.values():
            worker.send(Stop(is_handover=is_handover))
        if self._runs:
            timeout_s = self._operations.config.server.drain_timeout_s + _LAST_S
            await asyncio.wait(self._runs, timeout=timeout_s)

    async def close(self) -> None:
        """End, aborting requests in progress."""
        self._stop_accepting()
        for worker in self._workers.values():
            worker.send(Stop(at_once=True))
        if self._runs:
            await asyncio.wait(self._runs, timeout=_LAST_S)
        for worker in self._workers.values():
            worker.kill()
        await at_most(_LAST_S, asyncio.gather(*self._runs, return_exceptions=True))
        await self._tasks.cancel()
        await self._admin.close()
        if self._counts >= 0:
            os.close(self._counts)
            self._counts = -1

    def _stop_accepting(self) -> None:
        self._stopping.set()
        if self._sockets is not None:
            self._sockets.leave()

    async def _run(self, number: int, sockets: ListeningSockets) -> None:
        """Run one worker, replacing it whenever it ends."""
        early = 0
        while not self._stopping.is_set():
            start = Start(number, self._settings, self._memory_disabled)
            try:
                worker = await self._spawn(start, sockets)
            except OSError as error:
                self._fail(f"worker {number} cannot be started: {error.strerror}")
                return
            try:
                code = await worker.run()
            finally:
                del self._workers[number]
                self._operations.ended(worker)
            if self._stopping.is_set():
                return
            self._operations.restarts += 1
            since_s = worker.served_since_s
            is_young = since_s is None or asyncio.get_running_loop().time() - since_s < _EARLY_S
            is_killed = since_s is not None and code == -signal.SIGKILL
            early = early + 1 if is_young and not is_killed else 0
            _log.error("worker %d, process %d, ended: %s", number, worker.process.pid, _describe(code))
            if early >= _MOST_EARLY:
                self._fail(
                    f"worker {number} ended {early} times soon after its start, last with {_describe(code)}; "
                    "the lines above say why"
                )
                return
            if is_young:
                pause_s = _FIRST_RETRY_S * 2 ** max(early, 1)
                await at_most(min(pause_s, _LAST_RETRY_S), self._stopping.wait())

    async def _spawn(self, start: Start, sockets: ListeningSockets) -> WorkerProcess:
        spawned = await spawn_worker(start, (self._counts, *sockets.descriptors), self._liveness)
        worker = WorkerProcess(start.number, *spawned, self._forward, self._on_serving)
        self._workers[start.number] = worker
        # Changes during the spawn were sent to the workers known then.
        if start.settings is not self._settings:
            worker.send(Reload(0, self._settings))
        if start.memory_disabled and not self._memory_disabled:
            worker.send(EnableMemory())
        return worker

    def _on_serving(self, worker: WorkerProcess) -> None:
        _log.info("worker %d serves, process %d", worker.number, worker.process.pid)
        if len(self._workers) == self._count and all(each.is_serving for each in self._workers.values()):
            self._all_serve.set()

    def _fail(self, line: str) -> None:
        if not self.failure.done():
            self.failure.set_result(line)

    def _forward(self, sender: WorkerProcess, message: Invalidate) -> None:
        for worker in self._workers.values():
            if worker is not sender and worker.is_subscribed:
                worker.send(message)


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
