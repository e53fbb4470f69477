"""What `aos-gateway wait` shows: a line that is drawn anew on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final, TextIO

import msgspec

from gateway.config.errors import one_line
from gateway.core.aos.execution import ExecutionRecord, ObjectStatus, Status, decode_record
from gateway.core.caching.policy import IN_PROGRESS

_TICK_S: Final = 1.0
_MAX_TEXT: Final = 200
# Clears what stood on the line before.
_AGAIN: Final = "\r\x1b[K"


class Progress(msgspec.Struct, frozen=True):
    """How far an execution is; made to be shown, so each text is one bounded line.

    Attributes:
        phase: "" while there is none.
        percent: ``None`` when it is not told.
        moving: the sub-object that is worked on, with its phase; "" when there is none.
        message: what AOS says about the whole; "" for nothing.
    """

    phase: str = ""
    percent: int | None = None
    moving: str = ""
    message: str = ""

    def __str__(self) -> str:
        percent = "" if self.percent is None else f"{self.percent} %"
        return "  ".join(filter(None, (self.phase or "no status yet", percent, self.moving)))


def progress_of(body: bytes, phase: str | None) -> Progress:
    """Return what a record tells about its progress.

    Args:
        body: the record; where its fields have other types than AOS's, the phase alone is told.
        phase: of the whole.
    """
    try:
        record = decode_record(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        record = ExecutionRecord()
    status = record.status or Status()
    whole = status.object_status or ObjectStatus()
    moving = [
        f"{name} {sub.phase}"
        for name, sub in (status.sub_object_statuses or {}).items()
        if sub is not None and sub.phase in IN_PROGRESS - {"Pending"}
    ]
    more = f" and {len(moving) - 1} more" if len(moving) > 1 else ""
    return Progress(
        phase=_bounded(phase),
        percent=status.progress,
        moving=_bounded(moving[0]) + more if moving else "",
        message=_bounded(whole.message or whole.reason),
    )


class Report:
    """Tells what changes.

    Args:
        out: a terminal or anything else.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started_s = time.monotonic()
        self._is_live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._line = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    def show(self, progress: Progress | None, trouble: str = "") -> None:
        """Tell where things stand, if that has changed.

        Args:
            progress: as last seen; ``None`` before that.
            trouble: why there is nothing newer; "" when there is.
        """
        parts = (str(progress) if progress else "", f"({one_line(trouble)}; asking again)" if trouble else "")
        line = "  ".join(filter(None, parts))
        if line == self._line:
            return
        self._line = line
        if self._is_live:
            self._draw()
        else:
            print(self._timed(), file=self._out, flush=True)

    async def keep_time(self) -> None:
        """Draw the line anew each second, on a terminal; until cancelled."""
        while self._is_live:
            self._draw()
            await asyncio.sleep(_TICK_S)

    def close(self) -> None:
        """Leave the line, so that what comes next begins on one of its own."""
        if self._is_live and self._line:
            print(file=self._out, flush=True)

    def _timed(self) -> str:
        return f"{elapsed(self.elapsed_s):>8}  {self._line}"

    def _draw(self) -> None:
        if self._line:
            columns = os.get_terminal_size(self._out.fileno()).columns or 80
            print(f"{_AGAIN}{self._timed()[: columns - 1]}", end="", file=self._out, flush=True)


def elapsed(seconds: float) -> str:
    """Return a time as people write it: 9s, 3m05s, 1h00m07s."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m{rest_s:02}s"
    return f"{minutes}m{rest_s:02}s" if minutes else f"{rest_s}s"


def _bounded(text: str | None) -> str:
    return one_line(text or "")[:_MAX_TEXT]
