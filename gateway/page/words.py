"""Each reason in words that say what it means and whether somebody should act."""

from __future__ import annotations

from typing import Final

from gateway.core.caching.cache_status import Reason

REASONS: Final[dict[Reason, str]] = {
    Reason.ROUTE: "Not the execution call: passed through",
    Reason.QUERY: "The call has a query: passed through",
    Reason.RANGE: "Asks for a part: passed through",
    Reason.BODY: "A reading call with a body: passed through",
    Reason.METHOD: "Not a reading call: passed through",
    Reason.IDENTITY: "No token, or more than one: nobody to keep it for",
    Reason.SIGNED: "Signed request: the caller can't be recognised again",
    Reason.VARIANT: "Accept or language field too long",
    Reason.PRECONDITION: "If-Match or If-Unmodified-Since: AOS has to judge it",
    Reason.REQUEST_NO_STORE: "The caller sent no-store",
    Reason.REQUEST_NO_CACHE: "The caller wants it fresh from AOS",
    Reason.REQUEST_MAX_AGE: "Older than the caller allows",
    Reason.REQUEST_MIN_FRESH: "Not fresh for as long as the caller asks",
    Reason.STORE_FAILED: "Redis could not be asked",
    Reason.REQUEST_ONLY_IF_CACHED: "The caller wants a stored record only, and there is none",
    Reason.THROTTLED: "AOS has asked this caller to wait",
    Reason.UPSTREAM_BUSY: "Too many requests wait for AOS",
    Reason.UNREACHABLE: "AOS could not be reached",
    Reason.STATUS: "AOS did not answer 200",
    Reason.SET_COOKIE: "The answer sets a cookie",
    Reason.NO_STORE: 'AOS said no-store; see cache.origin_cache_control = "ignore"',
    Reason.PRIVATE: 'AOS said private; see cache.origin_cache_control = "ignore"',
    Reason.NO_CACHE: 'AOS said no-cache; see cache.origin_cache_control = "ignore"',
    Reason.UNREADABLE_FRESHNESS: "AOS sent a Cache-Control that can't be read",
    Reason.EXPIRED: "Out of date when it arrived",
    Reason.VARY: "Depends on a field that callers send differently",
    Reason.INCOMPLETE: "Could not be seen to be whole",
    Reason.TOO_LARGE: "Larger than cache.max_body_bytes",
    Reason.CONTENT_CODING: "In a coding that is not understood",
    Reason.NOT_UTF8: "The body is not UTF-8",
    Reason.UNDECODABLE: "The body is not an execution record",
    Reason.DUPLICATE_KEY: "A deciding key stands there twice",
    Reason.KIND: "The body is another kind of object",
    Reason.NAME: "The record is of another execution",
    Reason.PHASE: "Still under way: will be kept when it has ended",
    Reason.SUB_OBJECT: "A part of it still moves",
    Reason.DELETE: "The stack is being deleted",
    Reason.HEAD: "HEAD: there is no body to keep",
    Reason.INVALIDATED: "The stack was written to meanwhile",
    Reason.NOT_KEPT: "Neither memory nor Redis could take it",
}


def words(reason: str) -> str:
    """Return what a reason's name means; the name itself when it is not known here."""
    try:
        return REASONS[Reason(reason)]
    except (KeyError, ValueError):
        return reason
