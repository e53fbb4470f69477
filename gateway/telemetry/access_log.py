"""One line a request, without tokens, bodies or anything a caller could forge a line with."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import msgspec

from gateway.core.aos.route import route_name
from gateway.core.caching.cache_status import HIT, CacheStatus, outcome
from gateway.core.caching.identity import Identity
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Fields
from gateway.core.http.request import loggable_path
from gateway.core.http.trace_context import Parent
from gateway.telemetry.caller_digest import CallerDigest
from gateway.telemetry.line_writer import standard_error
from gateway.telemetry.log_format import FIELDS, LineHandler, formatter
from gateway.telemetry.log_rate_limit import LogLimit

ABORTED = 499
"""The status of a line where no answer was sent: the caller left first, or a drain's time was over."""
_ERROR_STATUS = 400
_THROTTLED = 429
_FAILED_STATUS = 500
_NEVER = 1000
# A line is short whatever a caller sends.
_MAX_TEXT_BYTES = 128
_PRINTABLE = bytes(number if 0x20 <= number < 0x7F else ord("?") for number in range(256))
_log = logging.getLogger("gateway.access")
# Requests that the gateway refused or failed: anybody can make as many as he likes.
_refused_log = logging.getLogger("gateway.access.refused")
_LIMITED = ("gateway.access.refused", "gateway.downstream.proxy_protocol", "aiohttp.server", "asyncio")


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An answered request.

    Attributes:
        request_id: its id.
        peer: the caller's address.
        method: the method token; empty when the request line was not understood.
        path: the target as received; what stands behind a ``?`` is never logged.
        status: of the answer; `ABORTED` where none was sent.
        took_s: from the parsed request to the last byte of the answer.
        received_bytes: head and body, as far as they were read, without the framing of chunks.
        sent_bytes: head and body, as far as they were written.
        caller: digest of its credential; empty when there is none, or none is to be logged.
        user_agent: the program that asks.
        parent: the caller's span; ``None`` when it told none.
        verdict: what the cache did; ``None`` when the gateway answered for itself.
        error: with which the gateway answered for itself; ``None`` when it did not.
        upstream_s: to the head of the upstream's answer; ``None`` when none was waited for.
    """

    request_id: bytes
    peer: bytes
    method: str
    path: bytes
    status: int
    took_s: float
    received_bytes: int
    sent_bytes: int
    caller: str = ""
    user_agent: bytes = b""
    parent: Parent | None = None
    cache_status: CacheStatus | None = None
    error: GatewayError | None = None
    upstream_s: float | None = None


class Begun(msgspec.Struct, frozen=True):
    """What was read of a request that the gateway refused or failed before it was understood.

    Attributes:
        method: the method token; empty when the request line is malformed or incomplete.
        target: as received; empty likewise.
        received_bytes: how much had come.
        since_s: monotonic time of its first byte; ``None`` when that is not known.
    """

    method: bytes = b""
    target: bytes = b""
    received_bytes: int = 0
    since_s: float | None = None


class AccessLog:
    """Writes access lines.

    Args:
        which: ``all``, ``errors`` (status 400 and above) or ``off``.
        sample: which part of the hits gets a line, 0 to 1; everything else gets one always.
        digest: names callers; ``None`` leaves them out.
        pick: returns a number from 0 to below 1.

    Attributes:
        is_on: hits may get a line.
    """

    def __init__(
        self,
        which: str,
        sample: float = 1.0,
        digest: CallerDigest | None = None,
        pick: Callable[[], float] = random.random,
    ) -> None:
        self._pick = pick
        self.change(which, sample, digest)

    def change(self, which: str, sample: float, digest: CallerDigest | None) -> None:
        """Write other lines from now on."""
        self._digest = digest
        self.is_on = which == "all" and sample > 0
        self._least_status = {"all": 0, "errors": _ERROR_STATUS, "off": _NEVER}[which]
        self._sample = sample

    def wants_hit(self) -> bool:
        """Tell whether this hit gets a line."""
        return self.is_on and (self._sample >= 1 or self._pick() < self._sample)

    def wants(self, status: int, cache_status: CacheStatus | None) -> bool:
        """Tell whether an answer gets a line."""
        if status < self._least_status:
            return False
        if cache_status is None or status >= _ERROR_STATUS or outcome(cache_status) != HIT:
            return True
        return self.wants_hit()

    def caller(self, shown: Identity | Fields) -> str:
        """Return what a line calls a caller: one that was recognised, or who sent these field lines."""
        if self._digest is None:
            return ""
        return self._digest.of_identity(shown) if isinstance(shown, Identity) else self._digest.of(shown)

    def refused(
        self, error: GatewayError, request_id: bytes, peer: bytes, begun: Begun, sent_bytes: int
    ) -> None:
        """Write a line for a request that did not get as far as a handler's answer."""
        if self.wants(error.status, None):
            self.write(
                AccessRecord(
                    request_id=request_id,
                    peer=peer,
                    method=_text(begun.method),
                    path=begun.target,
                    status=error.status,
                    error=error,
                    took_s=time.monotonic() - begun.since_s if begun.since_s is not None else 0.0,
                    received_bytes=begun.received_bytes,
                    sent_bytes=sent_bytes,
                )
            )

    def write(self, answered: AccessRecord) -> None:
        """Write a line; the query is left out, it may hold anything."""
        cache_status, status = answered.cache_status, answered.status
        error, upstream_s = answered.error, answered.upstream_s
        log = _log if cache_status is not None else _refused_log
        level = logging.WARNING if status >= _FAILED_STATUS or status == _THROTTLED else logging.INFO
        if not log.isEnabledFor(level):
            return
        path = loggable_path(answered.path)
        line: dict[str, object] = {
            "request_id": _text(answered.request_id),
            "trace_id": _text(answered.parent.trace_id) if answered.parent is not None else "",
            "peer": _text(answered.peer),
            "method": answered.method[:_MAX_TEXT_BYTES],
            "path": _text(path),
            "route": route_name(path),
            "status": status,
            "cache": outcome(cache_status) if cache_status is not None else "none",
            "reason": cache_status.reason.value
            if cache_status is not None and cache_status.reason is not None
            else "",
            "answered_by": _who(answered),
            "upstream_ms": None if upstream_s is None else round(upstream_s * 1000, 2),
            "took_ms": round(answered.took_s * 1000, 2),
            "received_bytes": answered.received_bytes,
            "sent_bytes": answered.sent_bytes,
        }
        if answered.caller:
            line["caller"] = answered.caller
        if answered.user_agent:
            line["user_agent"] = _text(answered.user_agent)
        if error is not None:
            line |= {"error": error.proxy_error, "code": error.code}
        # Not by `Logger.log`, which looks for the line of code that has called it.
        record = logging.LogRecord(log.name, level, "", 0, "request", (), None)
        setattr(record, FIELDS, line)
        log.handle(record)


def set_level(level: str) -> None:
    """Write lines that are at least this severe."""
    logging.getLogger().setLevel(level.upper())


def set_up_logging(level: str, which: str = "auto") -> None:
    """Send log lines to standard error; bound those that callers can cause.

    Args:
        level: least severe level that is written.
        which: how lines look, see `log_lines.formatter`.
    """
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(standard_error(), formatter(which))]
    set_level(level)
    for name in _LIMITED:
        logging.getLogger(name).filters[:] = [LogLimit()]


def dropped_lines() -> int:
    """Return how many lines were left out because callers caused too many, or because nobody read them."""
    limits = (limit for name in _LIMITED for limit in logging.getLogger(name).filters)
    return standard_error().lost + sum(limit.dropped for limit in limits if isinstance(limit, LogLimit))


def _who(answered: AccessRecord) -> str:
    """Return who made the answer; empty when there was none."""
    if answered.cache_status is None:
        return "gateway" if answered.error is not None else ""
    return "cache" if outcome(answered.cache_status) == HIT else "aos"


def _text(raw: bytes) -> str:
    return raw[:_MAX_TEXT_BYTES].translate(_PRINTABLE).decode("ascii")
