"""Formats log lines: JSON for programs, text for people."""

import logging
import re
import sys
import time
from collections.abc import Mapping

import orjson

from gateway.telemetry.line_writer import LineWriter

_TIME = "%Y-%m-%dT%H:%M:%S"
_WORD = re.compile(r"[^\s\"=]*")
FIELDS = "fields"
"""Attribute of a log record: a mapping of names to plain values, logged beside the message."""


def formatter(which: str) -> logging.Formatter:
    """Return the formatter ``json`` or ``text``; ``auto`` is text if standard error is a terminal."""
    if which == "auto":
        which = "text" if sys.stderr.isatty() else "json"
    return JsonLines() if which == "json" else TextLines()


class JsonLines(logging.Formatter):
    """One JSON object a line; times in UTC."""

    def __init__(self) -> None:
        super().__init__()
        # Formatted once a second.
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        second, text = self._second
        if second != int(record.created):
            second = int(record.created)
            text = time.strftime(_TIME, time.gmtime(second))
            self._second = (second, text)
        line: dict[str, object] = {
            "time": f"{text}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # A library's message may have lone surrogates, which JSON can't.
        line["message"] = str(line["message"]).encode("utf-8", "replace").decode()
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """One line of text, times in UTC; fields follow the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", f"{_TIME}Z")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # overrides `logging.Formatter`
        fields = "".join(
            f" {name}={_word(value)}" for name, value in _fields(record).items() if value not in (None, "")
        )
        return super().formatMessage(record) + fields


class LineHandler(logging.Handler):
    """Hands lines to a writer that never blocks, and formats its line about lost lines."""

    def __init__(self, writer: LineWriter, form: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(form)
        self._writer = writer
        writer.lost_line = self._lost_line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:
            self.handleError(record)

    def _lost_line(self, lost: int) -> str:
        text = "%d log lines were lost: nobody read them in time, or they could not be written"
        record = logging.LogRecord("gateway", logging.WARNING, __file__, 0, text, (lost,), None)
        setattr(record, FIELDS, {"lost": lost})
        return self.format(record)


def _word(value: object) -> str:
    """Return a value as text, quoted where its end would be ambiguous."""
    text = str(value)
    return text if _WORD.fullmatch(text) else orjson.dumps(text).decode()


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    found = getattr(record, FIELDS, None)
    return found if isinstance(found, Mapping) else {}
