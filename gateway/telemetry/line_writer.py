"""Writes lines to a descriptor without ever blocking the caller."""

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

_HELD_BYTES = 1_048_576
# PIPE_BUF: larger writes to a pipe may be interleaved with those of other processes (pipe(7)).
_ATOMIC_BYTES = 4_096
# Lines of this time are written together: waking the thread for each costs more than the line.
_GATHER_S = 0.02
# A reader that takes longer is considered dead.
_FLUSH_S = 1.0
_LINE_BYTES = 65_536
_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


class LineWriter:
    """Writes lines in a thread of its own, from a bounded buffer.

    In a thread, because `O_NONBLOCK` would also apply to the other processes that share the open file
    description. When the buffer is full, lines are lost until it is empty again; then one line says how many.

    Attributes:
        lost: lines that were not written.
        lost_line: returns the line that says how many were lost.
        has_no_reader: the last write failed with `EPIPE`.
    """

    def __init__(self, descriptor: int, most_bytes: int = _HELD_BYTES) -> None:
        self.lost = 0
        self.lost_line: Callable[[int], str] = "{} lines were lost: nobody read them in time".format
        self.has_no_reader = False
        self.descriptor = descriptor
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._held_bytes = 0
        self._is_full = False
        self._is_idle = True
        self._reported = 0
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Queue a line, without its line feed; it is lost when the buffer is full."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if sys.is_finalizing():
                # No thread runs any more, and to start one would wait for ever.
                self.lost += 1
                return
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
                # A daemon: a blocked write must not delay the exit of the process.
                self._thread = threading.Thread(target=self._run, name="line-writer", daemon=True)
                self._thread.start()
            else:
                self._changed.notify_all()

    def flush(self, timeout_s: float = _FLUSH_S) -> None:
        """Wait until everything is written, at most for a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle, timeout_s)

    def _run(self) -> None:
        is_written = True
        while True:
            with self._changed:
                if not self._lines:
                    self._is_full = False
                    if not is_written or self.lost == self._reported:
                        self._is_idle = True
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._lines)
                lines, self._lines = self._lines, []
            if lines:
                is_written = self._write_all(lines)
                time.sleep(_GATHER_S)
            else:
                lost = self.lost - self._reported
                is_written = self._write(f"{self.lost_line(lost)}\n".encode())
                if is_written:
                    self._reported += lost

    def _write_all(self, lines: list[bytes]) -> bool:
        """Write lines, several at a time; return whether the last ones were written."""
        is_written = True
        begin = 0
        while begin < len(lines):
            end, size = begin + 1, len(lines[begin])
            while end < len(lines) and size + len(lines[end]) <= _ATOMIC_BYTES:
                size += len(lines[end])
                end += 1
            is_written = self._write(b"".join(lines[begin:end]))
            with self._changed:
                self._held_bytes -= size
                if not is_written:
                    self.lost += end - begin
            begin = end
        return is_written

    def _write(self, data: bytes) -> bool:
        """Write all of it; ``False`` when that failed: no reader, or the disk is full."""
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                # Another process made the open file description non-blocking.
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                self.has_no_reader = error.errno == errno.EPIPE
                return False
        self.has_no_reader = False
        return True


class _LineStream(io.TextIOBase):
    """A standard stream that never blocks."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self._begun = ""

    def write(self, text: str) -> int:
        """Write text, whole lines at a time; raise `BrokenPipeError` without a reader."""
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
    """Return the writer to standard error, or to ``/dev/null`` in a process without one."""
    return _writer_to(_STANDARD_ERROR, sys.__stderr__)


def unblock_standard_streams() -> None:
    """Replace the standard streams, so that nothing printed, tracebacks included, can block."""
    sys.stderr = _LineStream(standard_error())
    sys.stdout = _LineStream(_writer_to(_STANDARD_OUTPUT, sys.__stdout__))


def _writer_to(descriptor: int, stream: TextIO | None) -> LineWriter:
    if stream is None:
        # Its number may be that of another file or connection now.
        descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor)
    atexit.register(writer.flush)
    return writer
