"""Child processes: started, pinned to a core, watched, and ended whatever happens."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from . import tree

ROOT: Final = Path(__file__).parents[2]

_SHARED_MEMORY = "/dev/shm"
_START_S = 15.0
_STOP_S = 5.0
_LOG_TAIL = 800

Ready = Callable[[], bool]


class StartError(Exception):
    """A process ended before it was ready, or did not get ready in time; the text has the end of its log."""


class Child:
    """One process that the harness has started.

    Attributes:
        name: what it is called in reports.
        log: the file with everything it wrote.
        started_s: the seconds from its start until it was ready.
    """

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self.started_s = 0.0
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code; `None` while it lives, negative for a signal."""
        return self._process.poll()

    def output(self) -> str:
        """Return everything it wrote so far."""
        return self.log.read_text("utf-8", "replace")

    def cpu_s(self) -> float:
        """Return the CPU seconds, user and system, of its whole process tree so far."""
        return tree.cpu_s(self.pid)

    def rss_bytes(self) -> int:
        """Return the resident memory of its whole process tree."""
        return tree.rss_bytes(self.pid)

    def wait(self, timeout_s: float) -> int:
        """Wait until it ends by itself, and return its exit code.

        Raises:
            TimeoutError: it has not.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} did not end within {timeout_s:g} s") from error

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL), and its descendants."""
        family = tree.tree(self.pid)
        self._process.kill()
        self._process.wait(_STOP_S)
        self._end(family)

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Ask it to end (SIGTERM), and end what is left of its tree by force after the deadline."""
        family = tree.tree(self.pid)
        if self.is_running:
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        self._end(family)

    @staticmethod
    def _end(family: Sequence[tree.Stat]) -> None:
        """End what is left of a family by force, and wait until it is gone."""
        deadline_s = time.monotonic() + _STOP_S
        while left := [one for one in family if tree.lives(one)]:
            for one in left:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            if time.monotonic() > deadline_s:
                return
            time.sleep(0.001)


class Processes:
    """All processes of one run; leaving the ``with`` block ends them, the last one started first.

    Attributes:
        folder: for their logs and files; removed at the end.
    """

    def __init__(self) -> None:
        # A cache in files should not be measured against the disk, when there is a place in memory.
        shared = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK) else None
        self._temporary = tempfile.TemporaryDirectory(
            prefix="aosgw-bench-", dir=shared, ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        self._children: list[Child] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def children(self) -> tuple[Child, ...]:
        """All that were started and not stopped yet, the oldest first."""
        return tuple(self._children)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cpu: int | None = None,
        ready: Ready | None = None,
        cwd: Path = ROOT,
        timeout_s: float = _START_S,
    ) -> Child:
        """Start one process and wait until it is ready.

        Args:
            name: what it is called.
            argv: program and arguments.
            env: variables beside those of this process; `AOS_GATEWAY_*` of this process are not passed on.
            cpu: the core that it and its children have to themselves; `None` or a core that this machine
                has not leaves it unpinned.
            ready: asked again and again; `None` takes it as ready at once.
            cwd: its working directory.
            timeout_s: seconds until it must be ready.

        Raises:
            StartError: it is not.
        """
        log = self.folder / f"{len(list(self.folder.glob('*.log'))):02d}-{name.replace('/', '_')}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AOS_GATEWAY_")}
        began_s = time.monotonic()
        # An interruption between start and registration would leave it behind.
        with log.open("wb") as output, pinned(cpu), uninterrupted():
            process = subprocess.Popen(
                [str(part) for part in argv],
                cwd=cwd,
                env={**kept, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the harness, which then ends them in order.
                start_new_session=True,
            )
            child = Child(name, process, log)
            self._children.append(child)
        try:
            self._until_ready(child, ready, timeout_s)
        except BaseException:
            self.stop(child)
            raise
        child.started_s = time.monotonic() - began_s
        return child

    def stop(self, child: Child) -> None:
        """End one process before the others."""
        with uninterrupted():
            child.stop()
            self._children = [other for other in self._children if other is not child]

    def close(self) -> None:
        """End all of them and remove the folder; an interruption waits until that is done."""
        with uninterrupted():
            while self._children:
                self.stop(self._children[-1])
            self._temporary.cleanup()

    @staticmethod
    def _until_ready(child: Child, ready: Ready | None, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while ready is not None and not ready():
            if not child.is_running:
                raise StartError(f"{child.name} ended at once: {child.output()[-_LOG_TAIL:].strip()}")
            if time.monotonic() > deadline_s:
                tail = child.output()[-_LOG_TAIL:].strip()
                raise StartError(f"{child.name} was not ready within {timeout_s:g} s: {tail}")
            time.sleep(0.005)


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Have what is started inside the block run on one core; without that core, change nothing."""
    # Linux alone has affinities; a child inherits that of the thread which starts it.
    if cpu is None or sys.platform != "linux" or cpu not in os.sched_getaffinity(0):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off SIGINT and SIGTERM until the block is left, where this process handles them at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    put_off: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, _: put_off.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if put_off:
        signal.raise_signal(put_off[0])
