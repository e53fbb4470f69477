"""What `aos-gateway wait` prints: one line that is redrawn on a terminal, plain lines elsewhere."""

import asyncio
import os
import time
from typing import Final, TextIO

import msgspec

from gateway.config.errors import one_line
from gateway.core.caching.policy import IN_PROGRESS

_TICK_S: Final = 1.0
_MAX_TEXT: Final = 200
# Clears the line.
_AGAIN: Final = "\r\x1b[K"


class _Object(msgspec.Struct, frozen=True):
    phase: str | None = None
    message: str | None = None
    reason: str | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    progress: int | None = None
    object_status: _Object | None = None
    sub_object_statuses: dict[str, _Object | None] | None = None


class _Record(msgspec.Struct, frozen=True):
    status: _Status | None = None


_decoder = msgspec.json.Decoder(_Record)


class Progress(msgspec.Struct, frozen=True):
    """How far an execution is; for display, so each text is one bounded line.

    Attributes:
        phase: "" while there is none.
        percent: ``None`` when it is unknown.
        moving: a sub-object in progress, with its phase; "" when there is none.
        message: AOS's message or reason for the whole execution; "" for none.
    """

    phase: str = ""
    percent: int | None = None
    moving: str = ""
    message: str = ""

    def __str__(self) -> str:
        percent = "" if self.percent is None else f"{self.percent} %"
        return "  ".join(filter(None, (self.phase or "no status yet", percent, self.moving)))


def progress_of(body: bytes, phase: str | None) -> Progress:
    """Return how far a record's execution is; only its phase where fields have other types than AOS's."""
    try:
        status = _decoder.decode(body).status or _Status()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        status = _Status()
    whole = status.object_status or _Object()
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
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started_s = time.monotonic()
        self._is_live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._line = ""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def show(self, progress: Progress | None, trouble: str = "") -> None:
        """Print the last record's progress, and why the last request brought none, if that has changed."""
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
        """Redraw the line each second, on a terminal; until cancelled."""
        while self._is_live:
            self._draw()
            await asyncio.sleep(_TICK_S)

    def close(self) -> None:
        """End the line that is redrawn."""
        if self._is_live and self._line:
            print(file=self._out, flush=True)

    def _timed(self) -> str:
        return f"{elapsed(self.elapsed_s):>8}  {self._line}"

    def _draw(self) -> None:
        if self._line:
            columns = os.get_terminal_size(self._out.fileno()).columns or 80
            print(f"{_AGAIN}{self._timed()[: columns - 1]}", end="", file=self._out, flush=True)


def elapsed(seconds: float) -> str:
    """Return a duration as 9s, 3m05s or 1h00m07s."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m{rest_s:02}s"
    return f"{minutes}m{rest_s:02}s" if minutes else f"{rest_s}s"


def _bounded(text: str | None) -> str:
    return one_line(text or "")[:_MAX_TEXT]
