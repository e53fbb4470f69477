"""Lines to a descriptor without ever waiting for who reads them."""

from __future__ import annotations

import atexit
import errno
import functools
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

HELD_BYTES = 1_048_576
"""How much is held for a reader that is slow; what comes beyond is lost."""
# A write of at most so much to a pipe is not mixed with those of other processes (pipe(7)).
_ATOMIC_BYTES = 4_096
# Lines of so long are written together: waking the thread for each would cost requests more than the line.
_GATHER_S = 0.02
# Whoever has not read by then does not read.
_FLUSH_S = 1.0
_LINE_BYTES = 65_536
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


class LineWriter:
    """Writes lines in a thread of its own, held in bounded memory until they are written.

    A blocking write is the one way to a pipe that leaves the other writers of its open file description
    alone: `O_NONBLOCK` would be theirs too. Once the bound is reached, lines are lost until all that is held
    was written; then one line tells how many.

    Args:
        descriptor: where to write.
        tell: makes the line that tells how many were lost.
        most_bytes: bound of what is held.

    Attributes:
        tell: as above.
        lost: lines that were not written.
        has_no_reader: the last write has failed with `EPIPE`.
        descriptor: as above.
    """

    def __init__(self, descriptor: int, tell: Callable[[int], str], most_bytes: int = HELD_BYTES) -> None:
        self.tell = tell
        self.lost = 0
        self.has_no_reader = False
        self.descriptor = descriptor
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._held_bytes = 0
        self._is_full = False
        self._is_idle = True
        self._told = 0
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Have a line written, or lose it; its line feed is added."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            self._is_full = self._is_full or self._held_bytes + len(data) > self._most_bytes
            if self._is_full:
                self.lost += 1
                return
            self._lines.append(data)
            self._held_bytes += len(data)
            if not self._is_idle:
                return
            self._is_idle = False
            if self._thread is None:
                # A daemon: one that hangs in a write must not hold up the end of the process.
                self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
                self._thread.start()
            else:
                self._changed.notify_all()

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until everything is written, but not longer than a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle, timeout_s)

    def _run(self) -> None:
        is_taken = True
        while True:
            with self._changed:
                if not self._lines:
                    self._is_full = False
                    if not is_taken or self.lost == self._told:
                        self._is_idle = True
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            if lines:
                is_taken = self._write_all(lines)
                time.sleep(_GATHER_S)
            else:
                lost = self.lost - self._told
                is_taken = self._write(f"{self.tell(lost)}\n".encode())
                if is_taken:
                    self._told += lost

    def _write_all(self, lines: list[bytes]) -> bool:
        """Write lines, several at a time; tell whether the last ones were taken."""
        is_taken = True
        begin = 0
        while begin < len(lines):
            end, size = begin + 1, len(lines[begin])
            while end < len(lines) and size + len(lines[end]) <= _ATOMIC_BYTES:
                size += len(lines[end])
                end += 1
            is_taken = self._write(b"".join(lines[begin:end]))
            with self._changed:
                self._held_bytes -= size
                if not is_taken:
                    self.lost += end - begin
            begin = end
        return is_taken

    def _write(self, data: bytes) -> bool:
        """Write all of it; ``False`` when that failed: nobody reads, or the disk is full."""
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                # Another process has made the open file description non-blocking.
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                self.has_no_reader = error.errno == errno.EPIPE
                return False
        self.has_no_reader = False
        return True


class _LineStream(io.TextIOBase):
    """A standard stream that never waits."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self._begun = ""

    def write(self, text: str) -> int:
        """Write text, whole lines at a time.

        Raises:
            BrokenPipeError: nobody reads.
        """
        if self._writer.has_no_reader:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > _LINE_BYTES:
            lines.append(self._begun)
            self._begun = ""
        for line in lines:
            self._writer.write(line)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._writer.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)


@functools.cache
def standard_error() -> LineWriter:
    """Return what writes to standard error; to nowhere when the process was started without one."""
    return _writer_to(_STANDARD_ERROR, sys.__stderr__)


def unblock_standard_streams() -> None:
    """Let nothing that this process prints, tracebacks and warnings included, wait for who reads it."""
    sys.stderr = _LineStream(standard_error())
    sys.stdout = _LineStream(_writer_to(_STANDARD_OUTPUT, sys.__stdout__))


def _writer_to(descriptor: int, stream: TextIO | None) -> LineWriter:
    if stream is None:
        # The process was started without it; what has its number may be a caller's connection.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor, "{} lines were lost: nobody read them in time".format)
    atexit.register(writer.flush)
    return writer
