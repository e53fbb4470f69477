"""What the cache did with a request, and why: ``Cache-Status`` (RFC 9211)."""

from __future__ import annotations

import enum

import msgspec

CACHE_NAME = b"aos-gateway"


class Reason(enum.Enum):
    """Why the cache was not used, by its name in ``Cache-Status``, metrics and log.

    Attributes:
        label: that name; quicker than ``value``.
        token: the same as bytes.
    """

    def __init__(self, name: str) -> None:
        self.label = name
        self.token = name.encode("ascii")

    # Not looked up: the cache may not answer the request.
    ROUTE = "route"
    QUERY = "query"
    RANGE = "range"
    BODY = "body"
    METHOD = "method"
    IDENTITY = "identity"
    SIGNED = "signed"
    VARIANT = "variant"
    PRECONDITION = "precondition"
    REQUEST_NO_STORE = "request-no-store"
    REQUEST_NO_CACHE = "request-no-cache"
    # Not served: the look-up gave nothing usable.
    REQUEST_MAX_AGE = "request-max-age"
    REQUEST_MIN_FRESH = "request-min-fresh"
    STORE_FAILED = "store-failed"
    # Not forwarded either: the gateway answers for itself.
    REQUEST_ONLY_IF_CACHED = "request-only-if-cached"
    THROTTLED = "throttled"
    UPSTREAM_BUSY = "upstream-busy"
    UNREACHABLE = "unreachable"
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

    BYPASS = b"bypass"
    METHOD = b"method"
    URI_MISS = b"uri-miss"
    VARY_MISS = b"vary-miss"
    STALE = b"stale"
    REQUEST = b"request"


class CacheStatus(msgspec.Struct, frozen=True, gc=False):
    """What the cache did with one request.

    Attributes:
        forward: why it went upstream; ``None`` when it did not.
        fwd_status: the upstream's status; ``None`` without one, or when it is left out.
        ttl_s: time to live of the entry that answers, whole seconds; ``None`` when it is not a hit.
        stored: handed to at least one tier.
        collapsed: answered by the fetch of another request.
        reason: why it was not looked up, served or stored; ``None`` when it was.
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


HIT = "hit"
MISS = "miss"
BYPASS = "bypass"
OUTCOMES = (HIT, MISS, BYPASS)
_NOT_LOOKED_UP = frozenset(
    {
        Reason.ROUTE,
        Reason.QUERY,
        Reason.RANGE,
        Reason.BODY,
        Reason.METHOD,
        Reason.IDENTITY,
        Reason.SIGNED,
        Reason.VARIANT,
        Reason.PRECONDITION,
        Reason.REQUEST_NO_STORE,
        Reason.REQUEST_NO_CACHE,
    }
)
_NOT_SERVED = frozenset(
    {
        Reason.REQUEST_MAX_AGE,
        Reason.REQUEST_MIN_FRESH,
        Reason.STORE_FAILED,
        Reason.REQUEST_ONLY_IF_CACHED,
        Reason.THROTTLED,
        Reason.UPSTREAM_BUSY,
        Reason.UNREACHABLE,
    }
)


def stage(reason: Reason) -> str:
    """Return the stage at which the cache was not used: ``lookup``, ``serve`` or ``store``."""
    if reason in _NOT_LOOKED_UP:
        return "lookup"
    return "serve" if reason in _NOT_SERVED else "store"


def outcome(cache_status: CacheStatus) -> str:
    """Return ``hit``, ``miss`` or ``bypass``: the one-word summary for logs and metrics."""
    if cache_status.ttl_s is not None:
        return HIT
    return BYPASS if cache_status.forward in (Forward.BYPASS, Forward.METHOD) else MISS
