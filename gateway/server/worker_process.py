"""One worker from the parent's side: a child process and the channel to it."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gateway.config.sources import RawSetting
from gateway.server import messages
from gateway.server.channel import Channel
from gateway.server.messages import Invalidate, Message, Start, State
from gateway.tasks import TaskSet

_log = logging.getLogger("gateway")

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[2]
_PING_S = 1.0
# A healthy worker's event loop is never blocked that long: heavy work runs in a thread.
_MOST_UNANSWERED = 30


async def spawn_worker(
    start: Start, inherited: Sequence[int], liveness: int
) -> tuple[asyncio.subprocess.Process, Channel]:
    """Start a worker, which takes the inherited descriptors after the channel.

    It keeps ``liveness`` open; see `gateway.server.hot_restart.Lineage`.
    """
    ours, its = socket.socketpair()
    python_path = filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))
    with its:
        # -P: the same code whatever the working directory holds. A session of its own: signals from the
        # terminal go to the parent alone.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway.server.worker"),
            *map(str, (its.fileno(), *inherited)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(its.fileno(), liveness, *inherited),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
            start_new_session=True,
        )
    ours.setblocking(False)
    channel = await Channel.over(ours)
    channel.send(start)
    return process, channel


@dataclass(eq=False, repr=False)
class WorkerProcess:
    """A worker that runs, or has ended.

    Attributes:
        process: from `spawn_worker`, like its channel.
        on_invalidate: forwards its invalidations to the other workers.
        is_subscribed: it must receive the other workers' invalidations.
        is_responsive: it responded to the last `refresh`.
        served_since_s: loop time at which it began to serve; ``None`` if it never has.
        state: the last state it reported.
    """

    number: int
    process: asyncio.subprocess.Process
    channel: Channel
    on_invalidate: "Callable[[WorkerProcess, Invalidate], None]"
    on_serving: "Callable[[WorkerProcess], None]"
    is_subscribed: bool = field(default=False, init=False)
    is_serving: bool = field(default=False, init=False)
    is_responsive: bool = field(default=True, init=False)
    served_since_s: float | None = field(default=None, init=False)
    state: State = field(default_factory=State, init=False)
    _request_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)
    # Of requests without a response yet, by id; None when none will come.
    _responses: dict[int, asyncio.Future[State | str | bool | None]] = field(default_factory=dict, init=False)
    # Counted, not timed: a parent that was stopped for a while must not take its workers for hung.
    _unanswered: int = field(default=0, init=False)
    _is_given_up: bool = field(default=False, init=False)

    @property
    def is_available(self) -> bool:
        """Whether it accepts requests and responded lately."""
        return self.is_serving and self.is_responsive

    async def run(self) -> int:
        """Monitor it until it ends; return its exit code, negative for the signal that ended it."""
        tasks = TaskSet()
        receiving = tasks.start(self._receive(), "worker-channel")
        tasks.start(self._ping(), "worker-ping")
        try:
            code = await self.process.wait()
            # Its last messages may still be unread.
            await asyncio.wait((receiving,), timeout=_PING_S)
            return code
        finally:
            self.is_subscribed = self.is_serving = False
            await tasks.cancel()
            for response in self._responses.values():
                response.set_result(None)
            self.channel.close()

    def send(self, message: Message) -> None:
        """Send a message; kill the worker if it reads none."""
        if not self.channel.send(message):
            self._give_up("takes no messages any more")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)

    async def refresh(self, timeout_s: float) -> None:
        """Request its state; without a response the last one stays."""
        state = await self._request(messages.StateRequest, State, timeout_s)
        self.is_responsive = state is not None
        self.state = state or self.state

    async def purge(self, stack_id: str, timeout_s: float) -> bool | None:
        """Have it invalidate a stack everywhere; ``None`` without a response."""
        return await self._request(lambda request_id: messages.Purge(request_id, stack_id), bool, timeout_s)

    async def reload(self, settings: dict[str, RawSetting], timeout_s: float) -> str | None:
        """Have it apply settings; return its error, "" for none, ``None`` without a response."""
        return await self._request(lambda request_id: messages.Reload(request_id, settings), str, timeout_s)

    async def _request(self, message: Callable[[int], Message], kind: type[T], timeout_s: float) -> T | None:
        request_id = next(self._request_ids)
        response = self._responses[request_id] = asyncio.get_running_loop().create_future()
        self.send(message(request_id))
        try:
            await asyncio.wait((response,), timeout=timeout_s)
        finally:
            self._responses.pop(request_id, None)
        body = response.result() if response.done() else None
        return body if isinstance(body, kind) else None

    async def _receive(self) -> None:
        while (message := await self.channel.receive()) is not None:
            self._unanswered = 0
            match message:
                case Invalidate():
                    self.on_invalidate(self, message)
                case messages.Response(request_id=request_id, body=body):
                    response = self._responses.pop(request_id, None)
                    if response is not None:
                        response.set_result(body)
                case messages.Ready(is_serving=is_serving):
                    self.is_subscribed = True
                    if is_serving:
                        self.is_serving = True
                        self.served_since_s = asyncio.get_running_loop().time()
                        self.on_serving(self)
                case messages.FinalState(state=state):
                    self.state = state
                case _:
                    pass

    async def _ping(self) -> None:
        while self._unanswered < _MOST_UNANSWERED:
            self.send(messages.Ping())
            self._unanswered += 1
            await asyncio.sleep(_PING_S)
        self._give_up(f"has not answered {_MOST_UNANSWERED} times")

    def _give_up(self, why: str) -> None:
        if not self._is_given_up:
            self._is_given_up = True
            _log.error("worker %d, process %d, %s: it is killed", self.number, self.process.pid, why)
            # Once: a second signal could reap the process before asyncio reads its exit code.
            self.kill()
