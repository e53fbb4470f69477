"""The faults that wait for requests, and their effects on each response; no I/O.

Several faults can act on one response: delays add up; of two replies the older fault's is sent.
"""

from collections import Counter
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from gateway.twin.effects import Effects, Facts
from gateway.twin.faults import (
    Cut,
    Fault,
    Header,
    Latency,
    RateLimited,
    SlowBody,
    Status,
    Throttle,
    Truncated,
)
from gateway.twin.replies import Reply, aos_error, apigw_error, html_error, throttled

# Bound of the callers that one throttle counts in one window.
_MAX_COUNTED: Final = 10_000


class TooManyFaultsError(Exception):
    """No more faults can wait at the same time."""


class _Waiting(msgspec.Struct, kw_only=True):
    """A fault with what it has done so far; `window` and `calls` are a throttle's."""

    fault: Fault
    ends_s: float | None
    left: int | None
    window: int = 0
    calls: Counter[str] = msgspec.field(default_factory=Counter)

    def is_over(self, now_s: float) -> bool:
        return self.left == 0 or (self.ends_s is not None and now_s >= self.ends_s)


class FaultBook:
    """The faults that wait for requests, oldest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[_Waiting] = []

    def add(self, fault: Fault, now_s: float) -> None:
        """Add a fault.

        Raises:
            TooManyFaultsError: when `limit` faults wait already.
        """
        self.drop_expired(now_s)
        if len(self._waiting) >= self._limit:
            raise TooManyFaultsError
        ends_s = None if fault.duration_s is None else now_s + fault.duration_s
        self._waiting.append(_Waiting(fault=fault, ends_s=ends_s, left=fault.count))

    def clear(self) -> None:
        """Remove all faults."""
        self._waiting.clear()

    def drop_expired(self, now_s: float) -> None:
        """Remove the faults whose count or time is used up."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.is_over(now_s)]

    def waiting(self, now_s: float) -> list[Fault]:
        """Return the faults that can still act, oldest first."""
        self.drop_expired(now_s)
        return [waiting.fault for waiting in self._waiting]

    def take(self, facts: Facts, now_s: float) -> Effects:
        """Return the effects on one response, and count it.

        Args:
            facts: the request.
            now_s: modelled Unix seconds.
        """
        effects = Effects()
        if not self._waiting:
            return effects
        self.drop_expired(now_s)
        for waiting in self._waiting:
            fault = waiting.fault
            matches = fnmatchcase(facts.path, fault.path) and fnmatchcase(facts.method, fault.method)
            if matches and _apply(waiting, facts, effects, now_s) and waiting.left is not None:
                waiting.left -= 1
        return effects


def _apply(waiting: _Waiting, facts: Facts, effects: Effects, now_s: float) -> bool:
    """Apply one fault to a response; False when it has no effect."""
    match waiting.fault:
        case Latency(delay_s=delay_s):
            effects.delay_s += delay_s
        case Header(name=name, value=value):
            effects.headers = (*effects.headers, (name, value))
        case Truncated(share=share):
            effects.keep_share = share
        case Cut(share=share, before_head=before_head):
            effects.cut_share, effects.cut_before_head = share, before_head
        case SlowBody(bytes_per_s=bytes_per_s):
            effects.bytes_per_s = bytes_per_s
        case Status() | RateLimited() | Throttle() if effects.reply is not None:
            return False
        case Status() as fault:
            effects.reply = _status_reply(fault, facts.request_id)
        case RateLimited(retry_after_s=retry_after_s):
            effects.reply = throttled(facts.request_id, retry_after_s, "user", 200, 1)
        case Throttle() as fault:
            if not _is_over_limit(waiting, fault, facts, now_s):
                return False
            effects.reply = throttled(
                facts.request_id, fault.retry_after_s, fault.per, fault.limit, fault.window_s
            )
    return True


def _status_reply(fault: Status, request_id: str) -> Reply:
    match fault.shape:
        case "aos":
            reply = aos_error(fault.status, f"SVCSTG.AOS.{fault.status}1002", "Modelled failure of AOS.")
        case "apigw":
            reply = apigw_error(fault.status, "APIGW.0202", "Backend unavailable", request_id)
        case "html":
            reply = html_error(fault.status)
    if fault.retry_after_s is None:
        return reply
    return msgspec.structs.replace(reply, headers=(("Retry-After", str(fault.retry_after_s)),))


def _is_over_limit(waiting: _Waiting, fault: Throttle, facts: Facts, now_s: float) -> bool:
    """Count a call in the current window."""
    window = int(now_s // fault.window_s)
    if window != waiting.window:
        waiting.window = window
        waiting.calls.clear()
    counted = {"user": facts.user, "ip": facts.peer, "api": ""}[fault.per]
    if counted not in waiting.calls and len(waiting.calls) >= _MAX_COUNTED:
        return True
    waiting.calls[counted] += 1
    return waiting.calls[counted] > fault.limit
