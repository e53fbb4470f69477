"""What is stored and for how long: the rules of RFC 9111 and of AOS, as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from gateway.core.aos.execution import RecordSummary, Unreadable, decode_deciding, has_duplicate_key
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.freshness import (
    SILENT,
    OriginFreshness,
    origin_freshness,
    unmet_vary,
    upstream_age_s,
)
from gateway.core.caching.request_directives import entity_tag
from gateway.core.http.fields import end_to_end
from gateway.core.http.messages import Fields, Head, first

SUCCEEDED = "Succeeded"
FAILED = "Failed"
_SETTLED_STRATEGY = "DoNothing"
_KINDS = (None, "Execution")
DELETE = "delete"
IN_PROGRESS = frozenset({"Running", "Pending", "Pausing", "Cancelling", "ForceCancelling", "Retrying"})

# Decided in well under a millisecond.
_HEAVY_BYTES = 65_536

# The caller may no longer see the record, or it is gone.
DROPPING_STATUSES = frozenset({401, 403, 404, 410})


class Rules(msgspec.Struct, frozen=True):
    """The configured part of the rules; times in seconds, sizes in bytes, as in ``[cache]``.

    Attributes:
        shared: entries belong to all callers instead of one each.
        obey_origin: ``origin_cache_control = "obey"``.
        terminal_phases: phases, exactly spelled, that are stored.
        identity_headers: lower-case names of the fields that identify a caller.
    """

    shared: bool
    obey_origin: bool
    terminal_phases: frozenset[str]
    access_ttl_s: float
    ttl_succeeded_s: float
    ttl_failed_s: float
    ttl_unsettled_s: float
    max_body_bytes: int
    identity_headers: frozenset[bytes] = frozenset()

    @property
    def covered(self) -> frozenset[bytes]:
        """Lower-case names of the fields that are equal in all requests an entry may answer."""
        return frozenset() if self.shared else self.identity_headers

    @property
    def longest_ttl_s(self) -> float:
        """The longest time to live that an entry can get, seconds."""
        longest = max(self.ttl_succeeded_s, self.ttl_failed_s, self.ttl_unsettled_s)
        return longest if self.shared else min(longest, self.access_ttl_s)


class FetchedResponse(msgspec.Struct, frozen=True, gc=False):
    """A whole upstream response to the execution call.

    Attributes:
        head: as received, hop-by-hop fields included.
        body: body bytes as received.
        complete: complete by its framing; never true of a close-delimited body.
        request: the end-to-end fields of the request it answers.
        action_id: the execution asked for.
        fetched_s: wall clock at the start of the fetch.
        upstream_s: seconds until its head arrived, for the log; ``None`` if not measured.
    """

    head: Head
    body: bytes
    complete: bool
    request: Fields
    action_id: bytes
    fetched_s: float
    upstream_s: float | None = None


class StoreDecision(msgspec.Struct, frozen=True, gc=False):
    """Whether a response is stored.

    Attributes:
        reason: why it is not stored; ``None`` when it is.
        ttl_s: seconds from the start of the fetch for which it stays fresh; 0 when it is not stored.
        is_record: the body decodes as a record, stored or not.
        phase: the record's phase; ``None`` without one.
        etag: the upstream's ``ETag``, or one made from a record's body; ``None`` without either.
    """

    reason: Reason | None
    ttl_s: float
    is_record: bool
    phase: str | None = None
    etag: bytes | None = None


class _Case(msgspec.Struct, frozen=True, gc=False):
    response: FetchedResponse
    fields: Fields
    rules: Rules
    origin: OriginFreshness
    plain: bytes
    undecoded: Reason | None
    # Without deciding fields when the body is none.
    record: RecordSummary


_UNREADABLE = {
    Unreadable.NOT_UTF8: Reason.NOT_UTF8,
    Unreadable.UNDECODABLE: Reason.UNDECODABLE,
}
_NO_RECORD = RecordSummary(None, None, None, frozenset(), frozenset(), None)

# The first rule that applies gives the reason, so each may rely on those above it.
STORABLE: tuple[tuple[Reason | None, Callable[[_Case], object]], ...] = (
    (Reason.STATUS, lambda case: case.response.head.status != 200),
    (Reason.SET_COOKIE, lambda case: first(case.fields, b"set-cookie") is not None),
    (None, lambda case: case.origin.reason),
    (Reason.VARY, lambda case: blocking_vary(case.response, case.rules) is not None),
    (Reason.INCOMPLETE, lambda case: not case.response.complete),
    (Reason.TOO_LARGE, lambda case: len(case.response.body) > case.rules.max_body_bytes),
    (None, lambda case: case.undecoded),
    (Reason.KIND, lambda case: case.record.kind not in _KINDS),
    (Reason.NAME, lambda case: case.record.name not in (None, case.response.action_id.decode())),
    (Reason.PHASE, lambda case: case.record.phase not in case.rules.terminal_phases),
    (Reason.SUB_OBJECT, lambda case: case.record.sub_phases & IN_PROGRESS),
    (Reason.DELETE, lambda case: DELETE in case.record.action_names),
    # Last, since it is the slowest.
    (Reason.DUPLICATE_KEY, lambda case: has_duplicate_key(case.plain)),
)
"""Rules against storing; one without a reason returns it, ``None`` when it does not apply."""


def decide_store(
    fetched_response: FetchedResponse, rules: Rules, *, settling: bool, uncertain: bool
) -> StoreDecision:
    """Decide whether a response is stored, and for how long.

    Args:
        fetched_response: the whole response.
        rules: the configured part.
        settling: the stack was written to within ``settle_s``; AOS's writes take effect up to minutes after
            their response.
        uncertain: writes within ``settle_s`` may have been missed (after a start or a lost subscription).
    """
    fields = fetched_response.head.fields
    plain, undecoded, record = _decoded(fetched_response, rules)
    origin = origin_freshness(fields, fetched_response.fetched_s) if rules.obey_origin else SILENT
    case = _Case(fetched_response, fields, rules, origin, plain, undecoded, record)
    reason: Reason | None = None
    for why, applies in STORABLE:
        if found := applies(case):
            reason = why or cast("Reason", found)
            break
    etag = first(end_to_end(fields), b"etag")
    if undecoded is not None:
        return StoreDecision(reason, 0.0, is_record=False, etag=etag)
    if etag is None:
        etag = entity_tag(fetched_response.body)
    ttl_s = 0.0
    if reason is None:
        age_s = received_age_s(fetched_response.head) if rules.obey_origin else 0
        ttl_s = time_to_live_s(record, rules, age_s=age_s, settling=settling, uncertain=uncertain)
        if origin.lifetime_s is not None:
            ttl_s = min(ttl_s, origin.lifetime_s)
        if ttl_s <= 0:
            reason, ttl_s = Reason.EXPIRED, 0.0
    return StoreDecision(reason, ttl_s, is_record=True, phase=record.phase, etag=etag)


def blocking_vary(fetched_response: FetchedResponse, rules: Rules) -> bytes | None:
    """Return the name in ``Vary`` that prevents storing a response; ``None`` without one."""
    return unmet_vary(fetched_response.head.fields, fetched_response.request, rules.covered)


def is_heavy(fetched_response: FetchedResponse) -> bool:
    """Tell whether `decide_store` would block the event loop for a noticeable time."""
    body = fetched_response.body
    if first(fetched_response.head.fields, b"content-encoding") is None:
        return len(body) > _HEAVY_BYTES
    # gzip ends with the decoded size (RFC 1952 §2.3.1); a wrong one fails to decode.
    return max(len(body), int.from_bytes(body[-4:], "little")) > _HEAVY_BYTES


def time_to_live_s(
    record: RecordSummary, rules: Rules, *, age_s: int, settling: bool, uncertain: bool
) -> float:
    """Return how long a storable record stays fresh, seconds, the origin's freshness not considered.

    The received Age counts against the life of the record (RFC 9111 §4.2), not against the caller's right to
    see it, which was checked by this fetch.
    """
    reopens = record.phase == FAILED and record.on_failure_strategy != _SETTLED_STRATEGY
    limits = (
        (True, (rules.ttl_succeeded_s if record.phase == SUCCEEDED else rules.ttl_failed_s) - age_s),
        (settling or reopens, rules.ttl_unsettled_s - age_s),
        (uncertain or not rules.shared, rules.access_ttl_s),
    )
    return min(limit_s for applies, limit_s in limits if applies)


def drops_own_entry(status: int, decision: StoreDecision | None) -> bool:
    """Tell whether a response invalidates the caller's own stored entry for the execution.

    Args:
        status: the upstream's status.
        decision: about a whole 200; ``None`` when the body was not read.
    """
    if status == 200:
        return decision is None or decision.reason is not None
    return status in DROPPING_STATUSES


def received_age_s(head: Head) -> int:
    """Return the received ``Age``, seconds; a malformed one counts as 0."""
    return upstream_age_s(head.fields) or 0


def _decoded(fetched_response: FetchedResponse, rules: Rules) -> tuple[bytes, Reason | None, RecordSummary]:
    """Return the body without content coding, why it is no record, and what of it decides."""
    if fetched_response.head.status != 200 or not fetched_response.complete:
        return b"", Reason.STATUS, _NO_RECORD
    plain = plain_body(fetched_response.head.fields, fetched_response.body, rules.max_body_bytes)
    if isinstance(plain, Reason):
        return b"", plain, _NO_RECORD
    summary = decode_deciding(plain)
    if isinstance(summary, RecordSummary):
        return plain, None, summary
    return plain, _UNREADABLE[summary], _NO_RECORD
