"""The faults that wait for requests, and their effects on each response; no I/O.

Several faults can act on one response: delays add up; of two replies the older fault's is sent.
"""

from collections import Counter
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from gateway.twin import faults, replies
from gateway.twin.faults import Fault
from gateway.twin.replies import Headers, Reply

MAX_FAULTS: Final = 64
# Bound of the callers that one throttle counts in one window.
_MAX_COUNTED: Final = 10_000


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The request, as faults see it; its user is the digest of the token's, "" without a token."""

    method: str
    path: str
    user: str
    peer: str
    request_id: str


class Effects(msgspec.Struct, kw_only=True):
    """What faults do to one response, as `faults` describes; `keep_share` is that of a truncated one."""

    delay_s: float = 0.0
    reply: Reply | None = None
    headers: Headers = ()
    keep_share: float | None = None
    cut_share: float | None = None
    cut_before_head: bool = False
    bytes_per_s: int | None = None


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

    def matches(self, facts: Facts, now_s: float) -> bool:
        return (
            not self.is_over(now_s)
            and fnmatchcase(facts.path, self.fault.path)
            and fnmatchcase(facts.method, self.fault.method)
        )


class FaultBook:
    """The faults that wait for requests, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(self, fault: Fault, now_s: float) -> None:
        """Add a fault, unless `MAX_FAULTS` wait already."""
        if len(self.waiting(now_s)) >= MAX_FAULTS:
            raise TooManyFaultsError
        ends_s = None if fault.duration_s is None else now_s + fault.duration_s
        self._waiting.append(_Waiting(fault=fault, ends_s=ends_s, left=fault.count))

    def clear(self) -> None:
        self._waiting.clear()

    def waiting(self, now_s: float) -> list[Fault]:
        """Return the faults whose count and time are not used up, oldest first; drop the others."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.is_over(now_s)]
        return [waiting.fault for waiting in self._waiting]

    def take(self, facts: Facts, now_s: float) -> Effects:
        """Return the effects on one response, and count it."""
        effects = Effects()
        for waiting in self._waiting:
            acts = waiting.matches(facts, now_s) and _apply(waiting, facts, effects, now_s)
            if acts and waiting.left is not None:
                waiting.left -= 1
        return effects


def _apply(waiting: _Waiting, facts: Facts, effects: Effects, now_s: float) -> bool:
    """Apply one fault to a response; False when it has no effect."""
    match waiting.fault:
        case faults.Latency(delay_s=delay_s):
            effects.delay_s += delay_s
        case faults.Header(name=name, value=value):
            effects.headers = (*effects.headers, (name, value))
        case faults.Truncated(share=share):
            effects.keep_share = share
        case faults.Cut(share=share, before_head=before_head):
            effects.cut_share, effects.cut_before_head = share, before_head
        case faults.SlowBody(bytes_per_s=bytes_per_s):
            effects.bytes_per_s = bytes_per_s
        case _ if effects.reply is not None:
            return False
        case faults.Throttle() as fault if not _is_over_limit(waiting, fault, facts, now_s):
            return False
        case faults.Status() | faults.RateLimited() | faults.Throttle() as fault:
            effects.reply = replies.retry_after(_reply_of(fault, facts.request_id), fault.retry_after_s)
    return True


def _reply_of(fault: faults.Status | faults.RateLimited | faults.Throttle, request_id: str) -> Reply:
    match fault:
        case faults.Status(status=status, shape="aos"):
            return replies.aos_error(status, f"SVCSTG.AOS.{status}1002", "Modelled failure of AOS.")
        case faults.Status(status=status, shape="apigw"):
            return replies.apigw_error(status, "APIGW.0202", "Backend unavailable", request_id)
        case faults.Status(status=status, shape="iam"):
            return replies.iam_error(status, "Modelled failure of IAM.")
        case faults.Status():
            return replies.html_error(fault.status)
        case faults.RateLimited():
            return replies.throttled(request_id, "user", 200, 1)
        case faults.Throttle():
            return replies.throttled(request_id, fault.per, fault.limit, fault.window_s)


def _is_over_limit(waiting: _Waiting, fault: faults.Throttle, facts: Facts, now_s: float) -> bool:
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
