"""One line a request, without tokens, bodies or anything a caller could forge a line with."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import msgspec

from gateway.core.incoming import loggable_path
from gateway.core.route import route_name
from gateway.core.status import HIT, Verdict, outcome
from gateway.core.trace import Parent
from gateway.log_limit import LogLimit
from gateway.log_lines import FIELDS, formatter

UNANSWERED = 499
"""The status of a line where no answer was sent: the caller left first, or a drain's time was over."""
_ERROR_STATUS = 400
_NEVER = 1000
# A line is short whatever a caller sends.
_MAX_TEXT_BYTES = 200
_log = logging.getLogger("gateway.access")
# Requests that the gateway refused or failed: anybody can make as many as he likes.
_refused_log = logging.getLogger("gateway.access.refused")
_LIMITED = ("gateway.access.refused", "gateway.proxy_protocol", "aiohttp.server", "asyncio")


class Answered(msgspec.Struct, frozen=True):
    """An answered request.

    Attributes:
        request_id: its id.
        parent: the caller's span; ``None`` when it told none.
        method: the method token.
        path: the target as received; what stands behind a ``?`` is never logged.
        status: of the answer; `UNANSWERED` where none was sent.
        verdict: what the cache did; ``None`` when the gateway answered for itself.
        upstream_s: to the head of the upstream's answer; ``None`` when none was waited for.
        took_s: from the parsed request to the last byte of the answer.
        sent_bytes: head and body, as far as they were written.
    """

    request_id: bytes
    parent: Parent | None
    method: str
    path: bytes
    status: int
    verdict: Verdict | None
    upstream_s: float | None
    took_s: float
    sent_bytes: int


class AccessLog:
    """Writes access lines.

    Args:
        which: ``all``, ``errors`` (status 400 and above) or ``off``.
        sample: which part of the hits gets a line, 0 to 1; everything else gets one always.
        pick: returns a number from 0 to below 1.

    Attributes:
        is_on: hits may get a line.
    """

    def __init__(self, which: str, sample: float = 1.0, pick: Callable[[], float] = random.random) -> None:
        self._pick = pick
        self.change(which, sample)

    def change(self, which: str, sample: float) -> None:
        """Write other lines from now on."""
        self.is_on = which == "all" and sample > 0
        self._least_status = {"all": 0, "errors": _ERROR_STATUS, "off": _NEVER}[which]
        self._sample = sample

    def wants_hit(self) -> bool:
        """Tell whether this hit gets a line."""
        return self.is_on and (self._sample >= 1 or self._pick() < self._sample)

    def wants(self, status: int, verdict: Verdict | None) -> bool:
        """Tell whether an answer gets a line."""
        if status < self._least_status:
            return False
        if verdict is None or status >= _ERROR_STATUS or outcome(verdict) != HIT:
            return True
        return self.wants_hit()

    def write(self, answered: Answered) -> None:
        """Write a line; the query is left out, it may hold anything."""
        verdict = answered.verdict
        upstream_s = answered.upstream_s
        path = loggable_path(answered.path)
        line = {
            "request_id": _text(answered.request_id),
            "trace_id": _text(answered.parent.trace_id) if answered.parent is not None else "",
            "method": answered.method[:_MAX_TEXT_BYTES],
            "path": _text(path),
            "route": route_name(path),
            "status": answered.status,
            "cache": outcome(verdict) if verdict is not None else "none",
            "reason": verdict.reason.value if verdict is not None and verdict.reason is not None else "",
            "upstream_ms": None if upstream_s is None else round(upstream_s * 1000, 2),
            "took_ms": round(answered.took_s * 1000, 2),
            "sent_bytes": answered.sent_bytes,
        }
        log = _log if verdict is not None else _refused_log
        log.info("request", extra={FIELDS: line})


def set_level(level: str) -> None:
    """Write lines that are at least this severe."""
    logging.getLogger().setLevel(level.upper())


def set_up_logging(level: str, which: str = "auto") -> None:
    """Send log lines to standard error; bound those that callers can cause.

    Args:
        level: least severe level that is written.
        which: how lines look, see `log_lines.formatter`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(which))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    for name in _LIMITED:
        logging.getLogger(name).filters[:] = [LogLimit()]


def dropped_lines() -> int:
    """Return how many lines were left out because callers caused too many."""
    limits = (limit for name in _LIMITED for limit in logging.getLogger(name).filters)
    return sum(limit.dropped for limit in limits if isinstance(limit, LogLimit))


def _text(raw: bytes) -> str:
    return raw[:_MAX_TEXT_BYTES].decode("ascii", "replace")
