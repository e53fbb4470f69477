"""What is stored and for how long: the rules of RFC 9111 and of AOS."""

import msgspec

from gateway.core.aos.execution import RecordSummary, decode_deciding, has_duplicate_key
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.freshness import ORIGIN_FIELDS, origin_freshness, unmet_vary, upstream_age_s
from gateway.core.caching.identity import TOKEN_FIELD, Identity
from gateway.core.caching.request_directives import entity_tag
from gateway.core.http.fields import end_to_end
from gateway.core.http.messages import Fields, Head, first

SUCCEEDED = "Succeeded"
FAILED = "Failed"
_SETTLED_STRATEGY = "DoNothing"
_KIND = "Execution"
# Why a record may still change.
_UNSETTLED = (Reason.PHASE, Reason.SUB_OBJECT, Reason.DELETE)
DELETE = "delete"
IN_PROGRESS = frozenset({"Running", "Pending", "Pausing", "Cancelling", "ForceCancelling", "Retrying"})

# Decided in well under a millisecond.
_HEAVY_BYTES = 65_536

# The caller may no longer see the record, or it is gone.
DROPPING_STATUSES = frozenset({401, 403, 404, 410})

# Polled every second, a running record is mostly that of the second before. At most 8 MiB of bodies are kept.
_LATEST_MOST, _LATEST_BYTES = 4_096, 2_048

_CODING = frozenset({b"content-encoding"})
_DECIDING_FIELDS = ORIGIN_FIELDS | _CODING | {b"set-cookie", b"vary", b"etag"}


class Rules(msgspec.Struct, frozen=True, cache_hash=True):
    """The configured part of the rules; times in seconds, sizes in bytes, as in ``[cache]``.

    Attributes:
        shared: entries belong to all callers instead of one each.
        obey_origin: ``origin_cache_control = "obey"``.
        terminal_phases: phases, exactly spelled, that are stored.
        identity_headers: lower-case names of the fields that identify a caller.
        by_user: entries belong to all tokens of a user.
    """

    shared: bool
    obey_origin: bool
    terminal_phases: frozenset[str]
    access_ttl_s: float
    ttl_succeeded_s: float
    ttl_failed_s: float
    ttl_unsettled_s: float
    max_body_bytes: int
    ttl_running_s: float = 0.0
    identity_headers: frozenset[bytes] = frozenset()
    by_user: bool = False

    @property
    def covered(self) -> frozenset[bytes]:
        """Lower-case names of the fields that are equal in all requests an entry may answer."""
        if self.shared:
            return frozenset()
        return self.identity_headers - {TOKEN_FIELD} if self.by_user else self.identity_headers

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
        is_settled: the record will not change; false only when one that may be is stored all the same.
        etag: the upstream's ``ETag``, or one made from a record's body; ``None`` without either.
        origin_s: freshness that the origin gives, seconds; ``None`` when it gives no time.
        record: what decided; ``None`` without one.
    """

    reason: Reason | None
    ttl_s: float
    is_record: bool
    phase: str | None = None
    etag: bytes | None = None
    is_settled: bool = True
    origin_s: float | None = None
    record: RecordSummary | None = None


# By action id: the latest whole 200 whose head says nothing, and what was decided about it.
_latest: dict[bytes, tuple[bytes, Rules, StoreDecision]] = {}


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
    decision = decide(fetched_response, rules)
    if decision.reason is not None or not decision.is_settled:
        return decision
    return limit(decision, fetched_response, rules, settling=settling, uncertain=uncertain)


def decide(fetched_response: FetchedResponse, rules: Rules) -> StoreDecision:
    """Decide all but the time to live of a settled record, which `limit` adds."""
    head, body = fetched_response.head, fetched_response.body
    fields = head.fields if head.has_any(_DECIDING_FIELDS) else ()
    decision = _decide(fetched_response, fields, rules)
    if len(body) <= _LATEST_BYTES and _is_plain(fetched_response):
        _latest[fetched_response.action_id] = body, rules, decision
        if len(_latest) > _LATEST_MOST:
            del _latest[next(iter(_latest))]
    return decision


def latest_decision(fetched_response: FetchedResponse, rules: Rules) -> StoreDecision | None:
    """Return what `decide` said of the latest response for the execution; ``None`` if this is another one."""
    latest = _latest.get(fetched_response.action_id)
    is_same = latest is not None and latest[0] == fetched_response.body and latest[1] is rules
    return latest[2] if latest is not None and is_same and _is_plain(fetched_response) else None


def _is_plain(fetched_response: FetchedResponse) -> bool:
    """Whether the body alone decides, as it mostly does."""
    head = fetched_response.head
    return head.status == 200 and fetched_response.complete and not head.has_any(_DECIDING_FIELDS)


def limit(
    decision: StoreDecision,
    fetched_response: FetchedResponse,
    rules: Rules,
    *,
    settling: bool,
    uncertain: bool,
) -> StoreDecision:
    """Return a decision to store a settled record with its time to live; see `decide_store`."""
    record = decision.record
    assert record is not None
    age_s = received_age_s(fetched_response.head) if rules.obey_origin else 0
    ttl_s = time_to_live_s(record, rules, age_s=age_s, settling=settling, uncertain=uncertain)
    if decision.origin_s is not None:
        ttl_s = min(ttl_s, decision.origin_s)
    if ttl_s <= 0:
        return msgspec.structs.replace(decision, reason=Reason.EXPIRED)
    return msgspec.structs.replace(decision, ttl_s=ttl_s)


def _decide(fetched_response: FetchedResponse, fields: Fields, rules: Rules) -> StoreDecision:
    origin: Reason | float | None = None
    etag = None
    if fields:
        etag = first(end_to_end(fields), b"etag")
        if rules.obey_origin:
            origin = origin_freshness(fields, fetched_response.fetched_s)
    read = _read(fetched_response, fields, rules)
    reason = _refusal(fetched_response, fields, rules, origin, read)
    if isinstance(read, Reason):
        return StoreDecision(reason, 0.0, is_record=False, etag=etag)
    plain, record = read
    ttl_s = 0.0
    is_settled = not (rules.ttl_running_s and reason in _UNSETTLED and not has_duplicate_key(plain))
    origin_s = None if isinstance(origin, Reason) else origin
    if not is_settled:
        ttl_s = min(rules.ttl_running_s, rules.access_ttl_s)
        ttl_s = ttl_s if origin_s is None else min(ttl_s, origin_s)
        reason = None
    if etag is None:
        etag = entity_tag(fetched_response.body)
    return StoreDecision(reason, ttl_s, True, record.phase, etag, is_settled, origin_s, record)


def _read(
    fetched_response: FetchedResponse, fields: Fields, rules: Rules
) -> tuple[bytes, RecordSummary] | Reason:
    """Return a record without its content coding, and what decides about it."""
    if fetched_response.head.status != 200 or not fetched_response.complete:
        return Reason.STATUS
    body = fetched_response.body
    plain = plain_body(fields, body, rules.max_body_bytes) if fields else body
    if isinstance(plain, Reason):
        return plain
    record = decode_deciding(plain)
    return (plain, record) if isinstance(record, RecordSummary) else Reason(record.value)


def _refusal(
    fetched_response: FetchedResponse,
    fields: Fields,
    rules: Rules,
    origin: Reason | float | None,
    read: tuple[bytes, RecordSummary] | Reason,
) -> Reason | None:
    """Return the first reason why a response is not stored; ``None`` without one."""
    if fetched_response.head.status != 200:
        return Reason.STATUS
    if fields:
        if first(fields, b"set-cookie") is not None:
            return Reason.SET_COOKIE
        if isinstance(origin, Reason):
            return origin
        if blocking_vary(fetched_response, rules) is not None:
            return Reason.VARY
    if not fetched_response.complete:
        return Reason.INCOMPLETE
    if len(fetched_response.body) > rules.max_body_bytes:
        return Reason.TOO_LARGE
    if isinstance(read, Reason):
        return read
    plain, record = read
    if record.kind not in (None, _KIND):
        return Reason.KIND
    if record.name not in (None, fetched_response.action_id.decode()):
        return Reason.NAME
    if record.phase not in rules.terminal_phases:
        return Reason.PHASE
    if record.sub_phases & IN_PROGRESS:
        return Reason.SUB_OBJECT
    if DELETE in record.action_names:
        return Reason.DELETE
    # Last, since it is the slowest.
    return Reason.DUPLICATE_KEY if has_duplicate_key(plain) else None


def blocking_vary(fetched_response: FetchedResponse, rules: Rules) -> bytes | None:
    """Return the name in ``Vary`` that prevents storing a response; ``None`` without one."""
    return unmet_vary(fetched_response.head.fields, fetched_response.request, rules.covered)


def is_heavy(fetched_response: FetchedResponse) -> bool:
    """Tell whether `decide` would block the event loop for a noticeable time."""
    body = fetched_response.body
    if not fetched_response.head.has_any(_CODING):
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


def may_be_given(decision: StoreDecision) -> bool:
    """Tell whether a 200 may be given to the same caller again, for a moment at least."""
    return decision.is_record and (decision.reason is None or decision.reason in _UNSETTLED)


def is_running(decision: StoreDecision, rules: Rules) -> bool:
    """Tell whether a response is the record of an execution that has not ended, or may still change."""
    if decision.reason in _UNSETTLED or not decision.is_settled:
        return True
    return decision.phase is not None and decision.phase not in rules.terminal_phases


def running_ttl_s(decision: StoreDecision, ttl_running_s: float) -> float:
    """Return how long a record not stored for being unsettled might be given again; 0 when it might not.

    Args:
        decision: made without ``ttl_running_s``.
        ttl_running_s: what it would be, seconds.
    """
    if decision.reason not in _UNSETTLED:
        return 0.0
    return ttl_running_s if decision.origin_s is None else max(0.0, min(ttl_running_s, decision.origin_s))


def drops_own_entry(status: int, decision: StoreDecision | None, identity: Identity) -> bool:
    """Tell whether a response invalidates the caller's own stored entry for the execution.

    Args:
        status: the upstream's status.
        decision: about a whole 200; ``None`` when the body was not read.
        identity: of the caller.
    """
    if status == 401 and identity.is_one_of_many:
        # The token is over, its user is not.
        return False
    if status == 200:
        return decision is None or decision.reason is not None or not decision.is_settled
    return status in DROPPING_STATUSES


def received_age_s(head: Head) -> int:
    """Return the received ``Age``, seconds; a malformed one counts as 0."""
    return upstream_age_s(head.fields) or 0
