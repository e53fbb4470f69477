"""What is stored and for how long: the rules of RFC 9111 and of AOS as tables.

The first rule that says no names the reason.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.core.aos.execution import RecordSummary, Unreadable, decode_deciding, second_reading
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.freshness import OriginFreshness, origin_freshness, unmet_vary, upstream_age_s
from gateway.core.caching.request_directives import entity_tag
from gateway.core.http.fields import end_to_end
from gateway.core.http.messages import Fields, Head, first

SUCCEEDED = "Succeeded"
FAILED = "Failed"
_SETTLED_STRATEGY = "DoNothing"
_KIND = "Execution"
DELETE = "delete"
IN_PROGRESS = frozenset({"Running", "Pending", "Pausing", "Cancelling", "ForceCancelling", "Retrying"})

# What is judged in well under a millisecond.
_HEAVY_BYTES = 65_536

# These tell that the caller may no longer see the record, or that it is gone.
DROPPING_STATUSES = frozenset({401, 403, 404, 410})


class Rules(msgspec.Struct, frozen=True):
    """The configured part of the rules; times in seconds, sizes in bytes, as in ``[cache]``.

    Attributes:
        shared: entries belong to all callers instead of one each.
        obey_origin: ``origin_cache_control = "obey"``.
        terminal_phases: phases, exactly spelled, that are stored.
        identity_headers: lower-case names of the fields that tell who a caller is.
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
        """Names of the fields that all who may get an entry have in common."""
        return frozenset() if self.shared else self.identity_headers

    @property
    def longest_ttl_s(self) -> float:
        """The longest time to live any entry can get, in seconds."""
        longest = max(self.ttl_succeeded_s, self.ttl_failed_s, self.ttl_unsettled_s)
        return longest if self.shared else min(longest, self.access_ttl_s)


class FetchedResponse(msgspec.Struct, frozen=True, gc=False):
    """A whole upstream response to the execution call.

    Attributes:
        head: as received, hop-by-hop fields included.
        body: body bytes as received.
        complete: its framing says that nothing is missing; a close-delimited body never is.
        request: the end-to-end fields of the request it answers.
        action_id: the execution asked for.
        fetched_s: wall clock at the start of the fetch.
        upstream_s: how long its head took, for the log; ``None`` when nobody measured it.
    """

    head: Head
    body: bytes
    complete: bool
    request: Fields
    action_id: bytes
    fetched_s: float
    upstream_s: float | None = None


class StoreDecision(msgspec.Struct, frozen=True, gc=False):
    """What becomes of an arrival.

    Attributes:
        refusal: why it is not stored; ``None`` when it is.
        ttl_s: seconds from the start of the fetch that it stays fresh; 0 when refused.
        is_record: the body decodes as a record, stored or not.
        phase: the record's phase; ``None`` when there is none.
        etag: the record's validator: the upstream's, or one made from the body; ``None`` without either.
    """

    refusal: Reason | None
    ttl_s: float
    is_record: bool
    phase: str | None = None
    etag: bytes | None = None


class _Case(msgspec.Struct, frozen=True):
    fetched_response: FetchedResponse
    rules: Rules
    origin: OriginFreshness
    plain: bytes
    record: RecordSummary | Reason


_UNREADABLE = {
    Unreadable.NOT_UTF8: Reason.NOT_UTF8,
    Unreadable.UNDECODABLE: Reason.UNDECODABLE,
    Unreadable.DUPLICATE_KEY: Reason.DUPLICATE_KEY,
}

_Rule = Callable[[_Case], Reason | None]


def _undecoded(case: _Case) -> Reason | None:
    return case.record if isinstance(case.record, Reason) else None


def _when(reason: Reason, refuses: Callable[[_Case], bool]) -> _Rule:
    return lambda case: reason if refuses(case) else None


def _record_rule(reason: Reason, refuses: Callable[[RecordSummary, _Case], bool]) -> _Rule:
    def rule(case: _Case) -> Reason | None:
        return reason if isinstance(case.record, RecordSummary) and refuses(case.record, case) else None

    return rule


def _reread(case: _Case) -> Reason | None:
    defect = second_reading(case.plain)
    return None if defect is None else _UNREADABLE[defect]


# The first no wins. Rules further down may rely on those above.
STORABLE: tuple[_Rule, ...] = (
    _when(Reason.STATUS, lambda case: case.fetched_response.head.status != 200),
    _when(
        Reason.SET_COOKIE, lambda case: first(case.fetched_response.head.fields, b"set-cookie") is not None
    ),
    lambda case: case.origin.refusal if case.rules.obey_origin else None,
    _when(Reason.VARY, lambda case: blocking_vary(case.fetched_response, case.rules) is not None),
    _when(Reason.INCOMPLETE, lambda case: not case.fetched_response.complete),
    _when(Reason.TOO_LARGE, lambda case: len(case.fetched_response.body) > case.rules.max_body_bytes),
    _undecoded,
    _record_rule(Reason.KIND, lambda record, _: record.kind not in (None, _KIND)),
    _record_rule(
        Reason.NAME,
        lambda record, case: (
            record.name is not None and record.name != case.fetched_response.action_id.decode()
        ),
    ),
    _record_rule(Reason.PHASE, lambda record, case: record.phase not in case.rules.terminal_phases),
    _record_rule(Reason.SUB_OBJECT, lambda record, _: bool(record.sub_phases & IN_PROGRESS)),
    _record_rule(Reason.DELETE, lambda record, _: DELETE in record.action_names),
    # Last, since it is the dearest: only a record that would be stored is read twice.
    _reread,
)


def decide_store(
    fetched_response: FetchedResponse, rules: Rules, *, settling: bool, uncertain: bool
) -> StoreDecision:
    """Decide whether an arrival is stored, and for how long.

    Args:
        arrival: the whole response.
        rules: the configured part.
        settling: a write to the stack was seen within ``settle_s``: AOS's writes take effect minutes
            after their answer.
        uncertain: writes may have gone unseen within ``settle_s`` (start, or a lost subscription).
    """
    plain = _plain(fetched_response, rules)
    record = plain if isinstance(plain, Reason) else _decoded(plain)
    origin = origin_freshness(fetched_response.head.fields, fetched_response.fetched_s)
    case = _Case(fetched_response, rules, origin, b"" if isinstance(plain, Reason) else plain, record)
    refusal = next((reason for rule in STORABLE if (reason := rule(case)) is not None), None)
    etag = first(end_to_end(fetched_response.head.fields), b"etag")
    if not isinstance(record, RecordSummary):
        return StoreDecision(refusal, 0.0, is_record=False, etag=etag)
    if etag is None:
        etag = entity_tag(fetched_response.body)
    if refusal is not None:
        return StoreDecision(refusal, 0.0, is_record=True, phase=record.phase, etag=etag)
    age_s = received_age_s(fetched_response.head) if rules.obey_origin else 0
    ttl_s = time_to_live_s(record, rules, age_s=age_s, settling=settling, uncertain=uncertain)
    if rules.obey_origin and case.origin.lifetime_s is not None:
        ttl_s = min(ttl_s, case.origin.lifetime_s)
    if ttl_s <= 0:
        return StoreDecision(Reason.EXPIRED, 0.0, is_record=True, phase=record.phase, etag=etag)
    return StoreDecision(None, ttl_s, is_record=True, phase=record.phase, etag=etag)


def blocking_vary(fetched_response: FetchedResponse, rules: Rules) -> bytes | None:
    """Return the name in ``Vary`` that keeps an arrival from being stored; ``None`` without one."""
    return unmet_vary(fetched_response.head.fields, fetched_response.request, rules.covered)


def is_heavy(fetched_response: FetchedResponse) -> bool:
    """Tell whether judging takes long enough to be felt by everybody else on the event loop."""
    sizes = [len(fetched_response.body)]
    if first(fetched_response.head.fields, b"content-encoding") is not None:
        # gzip tells at its end how long the plain bytes are (RFC 1952 §2.3.1); a lie does not decode.
        sizes.append(int.from_bytes(fetched_response.body[-4:], "little"))
    return max(sizes) > _HEAVY_BYTES


def time_to_live_s(
    record: RecordSummary, rules: Rules, *, age_s: int, settling: bool, uncertain: bool
) -> float:
    """Return how long a storable record stays fresh, the origin's word aside, in seconds.

    The Age it came with counts for what is said about the record (RFC 9111 §4.2), not for how long its
    caller may see it: that began with this fetch.
    """
    reopens = record.phase == FAILED and record.on_failure_strategy != _SETTLED_STRATEGY
    limits = (
        (True, (rules.ttl_succeeded_s if record.phase == SUCCEEDED else rules.ttl_failed_s) - age_s),
        (settling or reopens, rules.ttl_unsettled_s - age_s),
        (uncertain or not rules.shared, rules.access_ttl_s),
    )
    return min(limit_s for applies, limit_s in limits if applies)


def drops_own_entry(status: int, decision: StoreDecision | None) -> bool:
    """Tell whether an answer ends the caller's own stored entry for the execution.

    Args:
        status: the upstream's status.
        judgement: of a whole 200; ``None`` when the body was not judged.
    """
    if status == 200:
        return decision is None or decision.refusal is not None
    return status in DROPPING_STATUSES


def received_age_s(head: Head) -> int:
    """Return the Age an arrival came with, in seconds; unreadable counts as 0."""
    return upstream_age_s(head.fields) or 0


def _plain(fetched_response: FetchedResponse, rules: Rules) -> bytes | Reason:
    if fetched_response.head.status != 200 or not fetched_response.complete:
        return Reason.STATUS
    return plain_body(fetched_response.head.fields, fetched_response.body, rules.max_body_bytes)


def _decoded(plain: bytes) -> RecordSummary | Reason:
    found = decode_deciding(plain)
    return found if isinstance(found, RecordSummary) else _UNREADABLE[found]
