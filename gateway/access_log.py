"""One line a request, without tokens, bodies or anything a caller could forge a line with."""

from __future__ import annotations

import logging
import time

import orjson

from gateway.core.incoming import loggable_path
from gateway.core.status import Verdict, outcome
from gateway.log_limit import LogLimit

_ERROR_STATUS = 400
# A line is short whatever a caller sends.
_MAX_TEXT_BYTES = 200
_log = logging.getLogger("gateway.access")
# Requests that the gateway refused or failed: anybody can make as many as he likes.
_refused_log = logging.getLogger("gateway.access.refused")
_LIMITED = ("gateway.access.refused", "aiohttp.server", "asyncio")


class AccessLog:
    """Writes access lines.

    Args:
        which: ``all``, ``errors`` (status 400 and above) or ``off``.

    Attributes:
        is_on: answers that are no errors get a line too.
    """

    def __init__(self, which: str) -> None:
        self.is_on = which == "all"
        self._least_status = {"all": 0, "errors": _ERROR_STATUS, "off": 1000}[which]

    def write(
        self,
        *,
        request_id: bytes,
        method: str,
        path: bytes,
        status: int,
        verdict: Verdict | None,
        took_s: float,
    ) -> None:
        """Write a line for an answered request; the query is left out, it may hold anything."""
        if status < self._least_status:
            return
        line = {
            "request_id": request_id[:_MAX_TEXT_BYTES].decode("ascii", "replace"),
            "method": method,
            "path": loggable_path(path)[:_MAX_TEXT_BYTES].decode("ascii", "replace"),
            "status": status,
            "cache": outcome(verdict) if verdict is not None else "none",
            "reason": verdict.reason.value if verdict is not None and verdict.reason is not None else "",
            "took_ms": round(took_s * 1000, 2),
        }
        log = _log if verdict is not None else _refused_log
        log.info("%s", orjson.dumps(line).decode("utf-8"))


def set_level(level: str) -> None:
    """Write lines that are at least this severe."""
    logging.getLogger().setLevel(level.upper())


def set_up_logging(level: str) -> None:
    """Send log lines to standard error, one line each, times in UTC; bound those that callers can cause."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for name in _LIMITED:
        logging.getLogger(name).filters[:] = [LogLimit()]
