"""What each reason means, for people."""

from typing import Final

from gateway.core.caching.cache_status import Reason

REASONS: Final = {
    Reason.ROUTE: "Not the execution call: passed through",
    Reason.QUERY: "The call has a query: passed through",
    Reason.RANGE: "Range request: passed through",
    Reason.BODY: "GET with a body: passed through",
    Reason.METHOD: "Not a GET or HEAD: passed through",
    Reason.IDENTITY: "No token, or more than one: the caller can't be identified",
    Reason.SIGNED: "Signed request: the caller can't be identified",
    Reason.VARIANT: "Accept or language field too long",
    Reason.PRECONDITION: "If-Match or If-Unmodified-Since: AOS has to evaluate it",
    Reason.REQUEST_NO_STORE: "The caller sent no-store",
    Reason.REQUEST_NO_CACHE: "The caller sent no-cache",
    Reason.REQUEST_MAX_AGE: "Older than the caller's max-age",
    Reason.REQUEST_MIN_FRESH: "Fresh for less than the caller's min-fresh",
    Reason.STORE_FAILED: "Redis failed",
    Reason.RUNNING: "Still running: the record of a moment ago was given again",
    Reason.WAITED: "The caller asked to wait until there was something new",
    Reason.REQUEST_ONLY_IF_CACHED: "The caller sent only-if-cached, and nothing is stored",
    Reason.THROTTLED: "AOS throttles this caller, or all",
    Reason.HELD_BACK: "AOS throttles this caller: it got AOS's 429 again",
    Reason.UPSTREAM_BUSY: "Too many requests wait for AOS",
    Reason.UNREACHABLE: "AOS could not be reached",
    Reason.CREDENTIALS: "The gateway's own credentials could not be used",
    Reason.STATUS: "The status is not 200",
    Reason.SET_COOKIE: "The response sets a cookie",
    Reason.NO_STORE: 'AOS said no-store; see cache.origin_cache_control = "ignore"',
    Reason.PRIVATE: 'AOS said private; see cache.origin_cache_control = "ignore"',
    Reason.NO_CACHE: 'AOS said no-cache; see cache.origin_cache_control = "ignore"',
    Reason.UNREADABLE_FRESHNESS: "AOS sent a malformed Cache-Control",
    Reason.EXPIRED: "Stale on arrival",
    Reason.VARY: "Vary names a field that callers send differently",
    Reason.INCOMPLETE: "The body may be incomplete",
    Reason.TOO_LARGE: "Larger than cache.max_body_bytes",
    Reason.CONTENT_CODING: "Unsupported content coding",
    Reason.NOT_UTF8: "The body is not UTF-8",
    Reason.UNDECODABLE: "The body is not an execution record",
    Reason.DUPLICATE_KEY: "A key is there twice",
    Reason.KIND: "The body is another kind of object",
    Reason.NAME: "The record is of another execution",
    Reason.PHASE: "Still running: stored once it has ended",
    Reason.SUB_OBJECT: "A part of it is still running",
    Reason.DELETE: "The stack is being deleted",
    Reason.HEAD: "HEAD: no body to store",
    Reason.INVALIDATED: "The stack was changed meanwhile",
    Reason.NOT_KEPT: "Neither memory nor Redis could store it",
}


def words(reason: str) -> str:
    """Return what a reason means; an unknown one as it is."""
    return next((text for known, text in REASONS.items() if known.value == reason), reason)
