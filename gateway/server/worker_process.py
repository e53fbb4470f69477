"""One worker from the parent's side: a child process and the channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.server.channel import (
    Channel,
    FinalState,
    Invalidate,
    Message,
    Pending,
    Ping,
    Purge,
    Ready,
    Reload,
    Response,
    Start,
    State,
    StateRequest,
    Stop,
    read_state,
)
from gateway.tasks import TaskSet

_log = logging.getLogger("gateway")

_ROOT = Path(__file__).resolve().parents[2]
_PING_S = 1.0
# A healthy worker's event loop is never blocked that long: heavy work runs in a thread.
_MOST_UNANSWERED = 30


class WorkerProcess:
    """A worker that runs, or has ended.

    Attributes:
        number: index of the worker.
        pid: its process id.
        is_subscribed: it must receive the other workers' invalidations.
        is_serving: it accepts requests.
        has_served: it has accepted requests at some time.
        is_responsive: it responded to the last `refresh`.
        served_since_s: loop time at which it began to serve.
        state: the last state it reported.
    """

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        channel: Channel,
        on_invalidate: Callable[[WorkerProcess, Invalidate], None],
        on_serving: Callable[[WorkerProcess], None],
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.is_subscribed = False
        self.is_serving = False
        self.has_served = False
        self.is_responsive = True
        self.served_since_s = 0.0
        self.state: State | None = None
        self._process = process
        self._channel = channel
        self._on_invalidate = on_invalidate
        self._on_serving = on_serving
        self._pending = Pending()
        # Counted, not timed: a parent that was stopped for a while must not take its workers for hung.
        self._unanswered = 0
        self._is_given_up = False

    @classmethod
    async def spawn(
        cls,
        inherited: Sequence[int],
        liveness: int,
        start: Start,
        on_invalidate: Callable[[WorkerProcess, Invalidate], None],
        on_serving: Callable[[WorkerProcess], None],
    ) -> WorkerProcess:
        """Start a worker.

        Args:
            inherited: descriptors that `gateway.server.worker.main` takes after the channel.
            liveness: descriptor that it keeps open; see `gateway.server.hot_restart.Lineage`.
            start: the first message to it.
            on_invalidate: forwards its invalidations to the other workers.
            on_serving: called when it begins to serve.
        """
        ours, its = socket.socketpair()
        with its:
            # -P: the same code whatever the working directory holds. A session of its own: signals from the
            # terminal go to the parent alone.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.server.worker"),
                *map(str, (its.fileno(), *inherited)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(its.fileno(), liveness, *inherited),
                env={**os.environ, "PYTHONPATH": _python_path()},
                start_new_session=True,
            )
        ours.setblocking(False)
        channel = await Channel.over(ours)
        channel.send(start)
        return cls(start.number, process, channel, on_invalidate, on_serving)

    async def run(self) -> int:
        """Monitor it until it ends; return its exit code, negative for the signal that ended it."""
        tasks = TaskSet()
        receiving = tasks.start(self._receive(), "worker-channel")
        tasks.start(self._ping(), "worker-ping")
        try:
            code = await self._process.wait()
            # Its last messages may still be unread.
            await asyncio.wait((receiving,), timeout=_PING_S)
            return code
        finally:
            self.is_subscribed = self.is_serving = False
            await tasks.cancel()
            self._pending.close()
            self._channel.close()

    def send(self, message: Message) -> None:
        """Send a message; kill the worker if it reads none."""
        if not self._channel.send(message):
            self._give_up("takes no messages any more")

    def stop(self, *, is_handover: bool = False, at_once: bool = False) -> None:
        """Have it drain and end; see `Stop`."""
        self.send(Stop(is_handover, at_once))

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def refresh(self, timeout_s: float) -> None:
        """Request its state; without a response the last one stays."""
        body = await self._request(StateRequest, timeout_s)
        self.is_responsive = body is not None
        if body is not None:
            self.state = read_state(body)

    async def purge(self, stack_id: str, timeout_s: float) -> bool | None:
        """Have it invalidate a stack everywhere; ``None`` without a response."""
        body = await self._request(lambda request_id: Purge(request_id, stack_id), timeout_s)
        return None if body is None else body != b""

    async def reload(self, settings: bytes, timeout_s: float) -> str | None:
        """Have it apply settings; return its error, "" for none, ``None`` without a response."""
        body = await self._request(lambda request_id: Reload(request_id, settings), timeout_s)
        return None if body is None else body.decode()

    async def _request(self, message: Callable[[int], Message], timeout_s: float) -> bytes | None:
        request_id, response = self._pending.new()
        self.send(message(request_id))
        try:
            done, _ = await asyncio.wait((response,), timeout=timeout_s)
        finally:
            self._pending.discard(request_id)
        return response.result() if done and not response.cancelled() else None

    async def _receive(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._unanswered = 0
            match message:
                case Invalidate():
                    self._on_invalidate(self, message)
                case Response(request_id=request_id, body=body):
                    self._pending.resolve(request_id, body)
                case Ready(is_serving=is_serving):
                    self.is_subscribed = True
                    if is_serving:
                        self.is_serving = self.has_served = True
                        self.served_since_s = asyncio.get_running_loop().time()
                        self._on_serving(self)
                case FinalState(state=state):
                    self.state = read_state(state)
                case _:
                    pass

    async def _ping(self) -> None:
        while self._unanswered < _MOST_UNANSWERED:
            self.send(Ping())
            self._unanswered += 1
            await asyncio.sleep(_PING_S)
        self._give_up(f"has not answered {_MOST_UNANSWERED} times")

    def _give_up(self, why: str) -> None:
        if not self._is_given_up:
            self._is_given_up = True
            _log.error("worker %d, process %d, %s: it is killed", self.number, self.pid, why)
            # Once: a second signal could reap the process before asyncio reads its exit code.
            self.kill()


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
