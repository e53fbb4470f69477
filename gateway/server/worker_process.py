"""One worker as its parent sees it: a process and a channel to it."""

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
# The event loop of a healthy worker is never held up that long; heavy work has a thread of its own.
_MOST_UNANSWERED = 30


class WorkerProcess:
    """A worker that runs, or has ended.

    Attributes:
        number: which of the workers it is.
        pid: its process id.
        is_hearing: it has to hear what others forget.
        is_serving: it accepts requests.
        has_served: it did so at some time.
        is_answering: it has answered the last time it was asked how it is.
        state: what it last told of itself.
    """

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        channel: Channel,
        on_message: Callable[[WorkerProcess, Invalidate], None],
        on_serving: Callable[[WorkerProcess], None],
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.is_hearing = False
        self.is_serving = False
        self.has_served = False
        self.is_answering = True
        self.served_since_s = 0.0
        self.state: State | None = None
        self._process = process
        self._channel = channel
        self._on_message = on_message
        self._on_serving = on_serving
        self._questions = Pending()
        # Counted, not timed: a parent that was stopped for a while must not take its workers for hung.
        self._unanswered = 0
        self._is_given_up = False

    @classmethod
    async def spawn(
        cls,
        inherited: Sequence[int],
        held: int,
        start: Start,
        on_message: Callable[[WorkerProcess, Invalidate], None],
        on_serving: Callable[[WorkerProcess], None],
    ) -> WorkerProcess:
        """Start one.

        Args:
            inherited: descriptors, the first ones of `gateway.server.worker.main` apart from the channel.
            held: a descriptor that it keeps open.
            start: the first message to it.
            on_message: takes what concerns the other workers.
            on_serving: told when it begins to serve.
        """
        ours, its = socket.socketpair()
        with its:
            # It runs the same code whatever the working directory holds; in a session of its own, because a
            # signal from the terminal is the parent's business.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.server.worker"),
                *map(str, (its.fileno(), *inherited)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(its.fileno(), held, *inherited),
                env={**os.environ, "PYTHONPATH": _python_path()},
                start_new_session=True,
            )
        ours.setblocking(False)
        channel = await Channel.over(ours)
        channel.send(start)
        return cls(start.number, process, channel, on_message, on_serving)

    async def run(self) -> int:
        """Look after it until it ends; return its exit code, negative for the signal that ended it."""
        tasks = TaskSet()
        listening = tasks.start(self._listen(), "worker-channel")
        tasks.start(self._ping(), "worker-ping")
        try:
            code = await self._process.wait()
            # What it said last is still to be read.
            await asyncio.wait((listening,), timeout=_PING_S)
            return code
        finally:
            self.is_hearing = self.is_serving = False
            await tasks.cancel()
            self._questions.close()
            self._channel.close()

    def send(self, message: Message) -> None:
        """Send it a message; one that takes nothing any more is ended."""
        if not self._channel.send(message):
            self._give_up("takes no messages any more")

    def stop(self, *, is_handover: bool = False, at_once: bool = False) -> None:
        """Tell it to end."""
        self.send(Stop(is_handover, at_once))

    def kill(self) -> None:
        """End it without a word."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def refresh(self, timeout_s: float) -> None:
        """Ask how it is; what it told last stays when it does not answer."""
        answer = await self._ask(StateRequest, timeout_s)
        self.is_answering = answer is not None
        if answer is not None:
            self.state = read_state(answer)

    async def purge(self, stack_id: str, timeout_s: float) -> bool | None:
        """Have it forget a stack everywhere; ``None`` when it did not answer."""
        answer = await self._ask(lambda question: Purge(question, stack_id), timeout_s)
        return None if answer is None else answer != b""

    async def reload(self, settings: bytes, timeout_s: float) -> str | None:
        """Have it use other settings; return what it has against them, "" when nothing."""
        answer = await self._ask(lambda question: Reload(question, settings), timeout_s)
        return None if answer is None else answer.decode()

    async def _ask(self, ask: Callable[[int], Message], timeout_s: float) -> bytes | None:
        question, answer = self._questions.new()
        self.send(ask(question))
        try:
            done, _ = await asyncio.wait((answer,), timeout=timeout_s)
        finally:
            self._questions.forget(question)
        return answer.result() if done and not answer.cancelled() else None

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._unanswered = 0
            match message:
                case Invalidate():
                    self._on_message(self, message)
                case Response(question=question, body=body):
                    self._questions.answered(question, body)
                case Ready(is_serving=is_serving):
                    self.is_hearing = True
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
        self.kill()


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
