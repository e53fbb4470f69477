"""What the cache did with a request, and why: ``Cache-Status`` (RFC 9211)."""

import enum
import functools
from typing import Self

import msgspec

CACHE_NAME = b"aos-gateway"


_LOOKUP, _SERVE = "lookup", "serve"


class Reason(enum.Enum):
    """Why the cache was not used, by its name in ``Cache-Status``, metrics and log.

    Attributes:
        label: its name; quicker than ``value``.
        token: the same as bytes.
        stage: at which it was not used: ``lookup``, ``serve`` or ``store``; empty when it was.
    """

    _value_: str
    label: str
    token: bytes
    stage: str

    def __new__(cls, name: str, stage: str = "store") -> Self:
        """Make a member with its name as value."""
        reason = object.__new__(cls)
        reason._value_ = reason.label = name
        reason.token = name.encode("ascii")
        reason.stage = stage
        return reason

    # An enum's own hash is that of its name, by a function in Python.
    __hash__ = object.__hash__

    # Not looked up: the cache may not answer the request.
    ROUTE = "route", _LOOKUP
    QUERY = "query", _LOOKUP
    RANGE = "range", _LOOKUP
    BODY = "body", _LOOKUP
    METHOD = "method", _LOOKUP
    IDENTITY = "identity", _LOOKUP
    SIGNED = "signed", _LOOKUP
    VARIANT = "variant", _LOOKUP
    PRECONDITION = "precondition", _LOOKUP
    REQUEST_NO_STORE = "request-no-store", _LOOKUP
    REQUEST_NO_CACHE = "request-no-cache", _LOOKUP
    # Not served: the look-up gave nothing usable.
    REQUEST_MAX_AGE = "request-max-age", _SERVE
    REQUEST_MIN_FRESH = "request-min-fresh", _SERVE
    STORE_FAILED = "store-failed", _SERVE
    # Served though the record may still change, or after a wait for it.
    RUNNING = "running", ""
    WAITED = "waited", ""
    # Not forwarded either: the gateway answers for itself.
    REQUEST_ONLY_IF_CACHED = "request-only-if-cached", _SERVE
    THROTTLED = "throttled", _SERVE
    HELD_BACK = "held-back", _SERVE
    UPSTREAM_BUSY = "upstream-busy", _SERVE
    UNREACHABLE = "unreachable", _SERVE
    CREDENTIALS = "credentials", _SERVE
    # Not stored: the response forbids it, or is not a settled record.
    STATUS = "status"
    SET_COOKIE = "set-cookie"
    NO_STORE = "no-store"
    PRIVATE = "private"
    NO_CACHE = "no-cache"
    UNREADABLE_FRESHNESS = "unreadable-freshness"
    EXPIRED = "expired"
    VARY = "vary"
    INCOMPLETE = "incomplete"
    TOO_LARGE = "too-large"
    CONTENT_CODING = "content-coding"
    NOT_UTF8 = "not-utf8"
    UNDECODABLE = "undecodable"
    DUPLICATE_KEY = "duplicate-key"
    KIND = "kind"
    NAME = "name"
    PHASE = "phase"
    SUB_OBJECT = "sub-object"
    DELETE = "delete"
    HEAD = "head"
    # Not stored: invalidated during the fetch, or no tier could take it.
    INVALIDATED = "invalidated"
    NOT_KEPT = "not-kept"


class Forward(enum.Enum):
    """Why a request went upstream (RFC 9211 §2.2)."""

    __hash__ = object.__hash__

    BYPASS = b"bypass"
    METHOD = b"method"
    URI_MISS = b"uri-miss"
    VARY_MISS = b"vary-miss"
    STALE = b"stale"
    REQUEST = b"request"


class CacheStatus(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """What the cache did with one request.

    Attributes:
        forward: why it went upstream; ``None`` when it did not.
        fwd_status: the upstream's status; ``None`` without one, or when it is left out.
        ttl_s: time to live of the entry that answers, whole seconds; ``None`` when it is not a hit.
        stored: handed to at least one tier.
        collapsed: answered by the fetch of another request.
        reason: why it was not looked up, served or stored, or how; ``None`` when there is nothing to say.
    """

    forward: Forward | None = None
    fwd_status: int | None = None
    ttl_s: int | None = None
    stored: bool = False
    collapsed: bool = False
    reason: Reason | None = None

    def member(self) -> bytes:
        """Return the gateway's own member of ``Cache-Status`` (RFC 9211 §2)."""
        member = CACHE_NAME
        if self.ttl_s is not None:
            member += b"; hit"
        if self.forward is not None:
            member += b"; fwd=" + self.forward.value
        if self.fwd_status is not None:
            member += b"; fwd-status=%d" % self.fwd_status
        if self.ttl_s is not None:
            member += b"; ttl=%d" % self.ttl_s
        if self.stored:
            member += b"; stored"
        if self.collapsed:
            member += b"; collapsed"
        if self.reason is not None:
            member += b"; detail=" + self.reason.token
        return member


# Most responses are of a few kinds; equal ones are one object.
fetched_status = functools.lru_cache(512)(CacheStatus)


HIT = "hit"
MISS = "miss"
BYPASS = "bypass"
ERROR = "error"
OUTCOMES = (HIT, MISS, BYPASS, ERROR)


def outcome(cache_status: CacheStatus | None) -> str:
    """Return the one-word summary for logs and metrics; ``None`` is a response of the gateway itself.

    ``hit``, ``miss``, ``bypass``, or ``error`` for a refusal in the gateway's own or the upstream's words.
    """
    if cache_status is None or cache_status.reason is Reason.HELD_BACK:
        return ERROR
    if cache_status.ttl_s is not None:
        return HIT
    return BYPASS if cache_status.forward in (Forward.BYPASS, Forward.METHOD) else MISS
