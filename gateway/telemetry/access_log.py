"""One log line per request, without tokens and bodies, and safe against log injection."""

import logging
import random
import time

import msgspec

from gateway.config.model import LogConfig
from gateway.core.aos.route import route_name
from gateway.core.caching.cache_status import BYPASS, ERROR, HIT, MISS, CacheStatus, outcome
from gateway.core.caching.identity import Identity
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Fields
from gateway.core.http.request import loggable_path
from gateway.core.http.trace_context import Parent
from gateway.telemetry.caller_digest import CallerDigest
from gateway.telemetry.line_writer import standard_error
from gateway.telemetry.log_format import FIELDS, LineHandler, formatter
from gateway.telemetry.log_rate_limit import LogLimit, TokenBucket

ABORTED = 499
"""The status of a request without a response: the caller left, or the drain deadline passed."""
_ANSWERED_BY = {HIT: "cache", MISS: "aos", BYPASS: "aos", ERROR: "gateway"}
# Bounds what a caller puts into a line.
_MAX_TEXT_BYTES = 128
_PRINTABLE = bytes(number if 0x20 <= number < 0x7F else ord("?") for number in range(256))
_log = logging.getLogger("gateway.access")
# Requests rejected or failed by the gateway, rate limited: anybody can cause any number.
_refused_log = logging.getLogger("gateway.access.refused")
_LINES_PER_S = 20.0
_BURST = 100.0
_LIMITED = ("gateway.access.refused", "gateway.downstream.proxy_protocol", "aiohttp.server", "asyncio")


class Begun(msgspec.Struct, frozen=True):
    """What was read of a request that was rejected before it was parsed.

    Attributes:
        method: the method token; empty when the request line is malformed or incomplete.
        target: as received; empty likewise.
        received_bytes: bytes read.
        since_s: monotonic time of its first byte; ``None`` when unknown.
    """

    method: bytes = b""
    target: bytes = b""
    received_bytes: int = 0
    since_s: float | None = None


class AccessLog:
    """Writes access lines; while it ``is_on``, hits may get one."""

    def __init__(self, settings: LogConfig, caller_digest: CallerDigest) -> None:
        self._caller_digest = caller_digest
        self.change(settings)

    def change(self, settings: LogConfig) -> None:
        self._sample, self._names_callers = settings.sample, settings.caller
        self.is_on = settings.access == "all" and settings.sample > 0
        self._least_status = {"all": 0, "errors": 400, "off": 1000}[settings.access]

    def wants_hit(self) -> bool:
        return self.is_on and (self._sample >= 1 or random.random() < self._sample)

    def wants(self, status: int, cache_status: CacheStatus | None) -> bool:
        if status < self._least_status:
            return False
        if status >= 400 or outcome(cache_status) != HIT:
            return True
        return self.wants_hit()

    def refused(
        self, error: GatewayError, request_id: bytes, peer: bytes, begun: Begun, sent_bytes: int
    ) -> None:
        """Log a request that was rejected before it reached the handler."""
        if self.wants(error.status, None):
            self.write(
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

    def write(
        self,
        *,
        request_id: bytes,
        peer: bytes,
        method: str,
        path: bytes,
        status: int,
        took_s: float,
        received_bytes: int,
        sent_bytes: int,
        caller: Identity | Fields = (),
        user_agent: bytes = b"",
        parent: Parent | None = None,
        cache_status: CacheStatus | None = None,
        error: GatewayError | None = None,
        upstream_s: float | None = None,
        waited_s: float | None = None,
    ) -> None:
        """Log a request that has ended, without its query, which may hold secrets.

        Args:
            method: the method token; empty when the request line was malformed.
            path: the target as received.
            took_s: from the parsed request to the last byte of the response.
            received_bytes: head and body as far as read, without chunk framing.
            sent_bytes: head and body as far as written.
            caller: identity or fields of its request; its digest is logged, if callers are.
            parent: the caller's span; ``None`` when it sent none.
            cache_status: what the cache did; ``None`` for a response of the gateway itself.
            error: of a response of the gateway itself; ``None`` for others.
            upstream_s: to the upstream's response head; ``None`` without an upstream request.
            waited_s: part of it because its caller asked to wait; ``None`` when it did not wait.
        """
        how = outcome(cache_status)
        log = _log if how != ERROR else _refused_log
        level = logging.WARNING if status >= 500 or status == 429 else logging.INFO
        if not log.isEnabledFor(level):
            return
        path = loggable_path(path)
        reason = cache_status.reason if cache_status is not None else None
        line: dict[str, object] = {
            "request_id": _text(request_id),
            "trace_id": _text(parent.trace_id) if parent is not None else "",
            "peer": _text(peer),
            "method": method[:_MAX_TEXT_BYTES],
            "path": _text(path),
            "route": route_name(path),
            "status": status,
            "cache": how if how != ERROR else "none",
            "reason": reason.value if reason is not None else "",
            "answered_by": "" if cache_status is None and error is None else _ANSWERED_BY[how],
            "upstream_ms": None if upstream_s is None else round(upstream_s * 1000, 2),
            "duration_ms": round(took_s * 1000, 2),
            "received_bytes": received_bytes,
            "sent_bytes": sent_bytes,
        }
        if waited_s is not None:
            line["waited_ms"] = round(waited_s * 1000, 2)
        if self._names_callers and (digest := self._caller_digest.of(caller)):
            line["caller"] = digest
        if user_agent:
            line["user_agent"] = _text(user_agent)
        if error is not None:
            line |= {"error": error.proxy_error, "code": error.code}
        # Not by `Logger.log`, which searches the stack for its caller.
        record = logging.LogRecord(log.name, level, "", 0, "request", (), None)
        setattr(record, FIELDS, line)
        log.handle(record)


def set_level(level: str) -> None:
    logging.getLogger().setLevel(level.upper())


def set_up_logging(level: str, which: str = "auto") -> None:
    """Log to standard error as `formatter` says, and rate limit the lines that callers can cause."""
    root = logging.getLogger()
    root.handlers[:] = [LineHandler(standard_error(), formatter(which))]
    set_level(level)
    for name in _LIMITED:
        logging.getLogger(name).filters[:] = [LogLimit(TokenBucket(_LINES_PER_S, _BURST, time.monotonic))]


def dropped_lines() -> int:
    """Return the number of lines dropped by the rate limit, or because nobody read them in time."""
    limits = (limit for name in _LIMITED for limit in logging.getLogger(name).filters)
    return standard_error().lost + sum(limit.dropped for limit in limits if isinstance(limit, LogLimit))


def _text(raw: bytes) -> str:
    return raw[:_MAX_TEXT_BYTES].translate(_PRINTABLE).decode("ascii")
