"""What is stored, and for how long."""

import gzip
import json
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.aos.execution import decode_deciding
from gateway.core.caching import policy
from gateway.core.caching.cache_status import Reason
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.identity import Identity
from gateway.core.caching.policy import (
    DROPPING_STATUSES,
    StoreDecision,
    drops_own_entry,
    is_heavy,
    is_running,
    received_age_s,
    running_ttl_s,
)
from gateway.core.caching.request_directives import entity_tag
from gateway.core.http.messages import Fields, Head
from tests.core.kit import BOUNDED, SHARED, TERMINAL, decided, fetched_response, minimal, reason_not_stored
from tests.testbed.payloads import ABSENT, ACTION_ID, EXECUTION, payload, payload_names, record

IN_PROGRESS = ["Running", "Pending", "Pausing", "Cancelling", "ForceCancelling", "Retrying"]


def test_the_public_example_is_stored() -> None:
    body = payload(EXECUTION)
    decision = decided(fetched_response(body))
    assert decision.record == decode_deciding(body)
    assert msgspec.structs.replace(decision, record=None) == StoreDecision(
        None, SHARED.ttl_succeeded_s, is_record=True, phase="Succeeded", etag=entity_tag(body)
    )


def test_the_public_example_without_kind_is_stored() -> None:
    assert reason_not_stored(record(kind=ABSENT, apiVersion=ABSENT)) is None


@pytest.mark.parametrize("name", [name for name in payload_names() if name != EXECUTION])
def test_no_other_public_payload_is_stored(name: bytes) -> None:
    decision = decided(fetched_response(payload(str(name))))
    assert decision.reason in {Reason.UNDECODABLE, Reason.PHASE}
    assert decision.ttl_s == 0


@pytest.mark.parametrize("phase", TERMINAL)
def test_a_terminal_phase_is_stored(phase: str) -> None:
    decision = decided(fetched_response(record(phase)))
    assert (decision.reason, decision.phase) == (None, phase)


@pytest.mark.parametrize(
    "phase",
    [
        *IN_PROGRESS,
        "Paused",
        "CancelFailed",
        "Unknown",
        "",
        None,
        ABSENT,
        "succeeded",
        "SUCCEEDED",
        "Succeeded ",
        " Failed",
        "Canceled",
        "forcecancelled",
        "SucceededPartly",
        "S\u0443cceeded",
    ],
)
def test_any_other_phase_is_never_stored(phase: object) -> None:
    decision = decided(fetched_response(record(phase)))
    assert decision.reason is Reason.PHASE
    assert decision.ttl_s == 0
    assert decision.is_record
    assert decision.phase == (None if phase is ABSENT else phase)


@pytest.mark.parametrize("phase", [1, True, [], ["Succeeded"], {}, {"phase": "Succeeded"}])
def test_a_phase_of_another_type_is_never_stored(phase: object) -> None:
    assert reason_not_stored(record(phase)) is Reason.UNDECODABLE


@BOUNDED
@given(st.text(max_size=20), st.integers(0, 100))
def test_a_phase_that_is_not_in_the_list_is_never_stored(phase: str, progress: int) -> None:
    expected = None if phase in TERMINAL else Reason.PHASE
    assert reason_not_stored(record(phase, status__progress=progress)) is expected


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"status": None},
        {"status": {}},
        {"status": {"objectStatus": None}},
        {"status": {"objectStatus": {}}},
    ],
)
def test_a_record_without_status_is_never_stored(document: dict[str, object]) -> None:
    assert reason_not_stored(minimal(**document)) is Reason.PHASE


def test_a_phase_elsewhere_decides_nothing() -> None:
    document = {"phase": "Succeeded", "status": {"phase": "Succeeded", "progress": 100}}
    assert reason_not_stored(minimal(**document)) is Reason.PHASE


def test_a_minimal_terminal_record_is_stored() -> None:
    assert reason_not_stored(minimal(status={"objectStatus": {"phase": "Cancelled"}})) is None


@pytest.mark.parametrize("status", [201, 203, 204, 206, 301, 304, 400, 401, 403, 404, 429, 500, 502, 503])
def test_only_a_200_is_stored(status: int) -> None:
    decision = decided(fetched_response(record(), status=status))
    assert decision == StoreDecision(Reason.STATUS, 0.0, is_record=False)


def test_a_response_that_sets_a_cookie_is_not_stored() -> None:
    assert reason_not_stored(b"", (b"set-cookie", b"a=b")) is Reason.SET_COOKIE


def test_a_response_that_varies_by_more_than_the_variant_is_not_stored() -> None:
    assert reason_not_stored(b"", (b"Vary", b"Accept, User-Agent")) is Reason.VARY
    assert reason_not_stored(b"", (b"Vary", b"*")) is Reason.VARY
    assert reason_not_stored(b"", (b"Vary", b"Accept, Origin")) is None
    assert reason_not_stored(b"", (b"Vary", b"Origin"), request=((b"Origin", b"https://a"),)) is Reason.VARY


def test_a_body_that_may_be_incomplete_is_not_stored() -> None:
    assert reason_not_stored(complete=False) is Reason.INCOMPLETE


def test_a_body_beyond_the_bound_is_not_stored() -> None:
    body = record()
    tight = msgspec.structs.replace(SHARED, max_body_bytes=len(body))
    assert reason_not_stored(body, rules=tight) is None
    assert reason_not_stored(body + b" ", rules=tight) is Reason.TOO_LARGE


def test_a_body_beyond_the_bound_after_decompression_is_not_stored() -> None:
    body = record(spec__objectData="0" * SHARED.max_body_bytes)
    assert reason_not_stored(gzip.compress(body), (b"Content-Encoding", b"gzip")) is Reason.TOO_LARGE


@pytest.mark.parametrize("coding", [b"gzip", b"X-GZIP", b"identity, gzip"])
def test_a_gzipped_record_is_stored(coding: bytes) -> None:
    assert reason_not_stored(gzip.compress(record()), (b"Content-Encoding", coding)) is None


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (record(), b"gzip"),
        (gzip.compress(record(), mtime=0)[:-1], b"gzip"),
        (gzip.compress(record(), mtime=0)[:-8], b"gzip"),
        (gzip.compress(record(), mtime=0) + b"x", b"gzip"),
        (gzip.compress(record(), mtime=0) + gzip.compress(b" ", mtime=0), b"gzip"),
        (gzip.compress(gzip.compress(record(), mtime=0), mtime=0), b"gzip, gzip"),
        (zlib.compress(record()), b"deflate"),
        (record(), b"br"),
    ],
)
def test_a_coding_that_is_unknown_broken_or_not_ended_is_not_stored(body: bytes, coding: bytes) -> None:
    decision = decided(fetched_response(body, (b"Content-Encoding", coding)))
    assert decision == StoreDecision(Reason.CONTENT_CODING, 0.0, is_record=False)


@BOUNDED
@given(st.binary(max_size=80), st.integers(0, 100))
def test_decompression_never_fails_and_never_exceeds_its_bound(data: bytes, bound: int) -> None:
    for body in (data, gzip.compress(data), gzip.compress(data)[:-4] + data):
        plain = plain_body(((b"Content-Encoding", b"gzip"),), body, bound)
        assert isinstance(plain, Reason) or len(plain) <= bound


@pytest.mark.parametrize(
    "body",
    [
        record(spec__objectData="MARK").replace(b"MARK", b"\xff"),
        record(spec__objectData="MARK").replace(b"MARK", b"\xc0\xaf"),
        record().decode().encode("utf-16"),
    ],
)
def test_a_body_that_is_not_utf8_anywhere_is_not_stored(body: bytes) -> None:
    assert reason_not_stored(body) is Reason.NOT_UTF8


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + record(),
        record()[:-1],
        record() + b"}",
        record() * 2,
        record(x=1).replace(b'"x": 1', b'"x": NaN', 1),
        record(x=1).replace(b'"x": 1', b'"x": -Infinity', 1),
        b"[" + record() + b"]",
        b"[" * 90_000,
        b"<html>",
        b'{"status": {"objectStatus": {"phase": "Succeeded"}}, "later": '
        + b"[" * 40_000
        + b"]" * 40_000
        + b"}",
    ],
)
def test_a_body_that_does_not_decode_is_not_stored(body: bytes) -> None:
    assert reason_not_stored(body) is Reason.UNDECODABLE


def test_a_key_twice_on_the_way_to_a_deciding_field_is_not_stored() -> None:
    body = b'{"status": {"objectStatus": {"phase": "Running"}, "objectStatus": {"phase": "Succeeded"}}}'
    decision = decided(fetched_response(body))
    assert decision.reason is Reason.DUPLICATE_KEY
    assert decision.is_record


@pytest.mark.parametrize("kind", ["execution", "Stack", "", "ExecutionList"])
def test_another_kind_is_not_stored(kind: str) -> None:
    assert reason_not_stored(record(kind=kind)) is Reason.KIND


@pytest.mark.parametrize("name", ["", "other", ACTION_ID.upper(), ACTION_ID + "1"])
def test_a_record_of_another_name_is_not_stored(name: str) -> None:
    assert reason_not_stored(record(name=name)) is Reason.NAME


def test_a_record_without_a_name_is_stored() -> None:
    assert reason_not_stored(record(name=ABSENT)) is None


@pytest.mark.parametrize("phase", IN_PROGRESS)
@pytest.mark.parametrize("terminal", TERMINAL)
def test_a_record_with_a_sub_object_in_progress_is_not_stored(phase: str, terminal: str) -> None:
    subs = {"a": {"phase": "Succeeded"}, "b": {"phase": phase}}
    assert reason_not_stored(record(terminal, status__subObjectStatuses=subs)) is Reason.SUB_OBJECT


@pytest.mark.parametrize(
    "phase", ["Succeeded", "Failed", "Paused", "running", "RUNNING", "Unknown", "", None]
)
def test_a_sub_object_in_any_other_phase_changes_nothing(phase: str | None) -> None:
    assert reason_not_stored(record(status__subObjectStatuses={"a": {"phase": phase}, "b": None})) is None


@pytest.mark.parametrize("phase", TERMINAL)
@pytest.mark.parametrize("where", ["status__actionName", "spec__actionName"])
def test_a_delete_execution_is_never_stored(where: str, phase: str) -> None:
    changes: dict[str, Any] = {where: "delete"}
    assert reason_not_stored(record(phase, **changes)) is Reason.DELETE


@pytest.mark.parametrize("action", ["create", "upgrade", "rollback", "reconfig", "retry", "scale", ABSENT])
def test_any_other_lifecycle_is_stored(action: object) -> None:
    assert reason_not_stored(record(status__actionName=action, spec__actionName=action)) is None


def test_the_first_no_names_the_reason() -> None:
    deleting = {"status__subObjectStatuses": {"a": {"phase": "Running"}}, "spec__actionName": "delete"}
    fields: Fields = ((b"Set-Cookie", b"a"), (b"Cache-Control", b"no-store"), (b"Vary", b"*"))
    tight = msgspec.structs.replace(SHARED, max_body_bytes=10)
    body = record("Running", name="other", kind="Stack", **deleting)
    reasons = [
        reason_not_stored(body, *fields, rules=tight, status=500, complete=False),
        reason_not_stored(body, *fields, rules=tight, complete=False),
        reason_not_stored(body, *fields[1:], rules=tight, complete=False),
        reason_not_stored(body, *fields[2:], rules=tight, complete=False),
        reason_not_stored(body, rules=tight, complete=False),
        reason_not_stored(body, rules=tight),
        reason_not_stored(body[:-1]),
        reason_not_stored(body),
        reason_not_stored(record("Running", name="other", **deleting)),
        reason_not_stored(record("Running", **deleting)),
        reason_not_stored(record("Failed", **deleting)),
        reason_not_stored(record("Failed", spec__actionName="delete")),
    ]
    assert reasons == [
        Reason.STATUS,
        Reason.SET_COOKIE,
        Reason.NO_STORE,
        Reason.VARY,
        Reason.INCOMPLETE,
        Reason.TOO_LARGE,
        Reason.UNDECODABLE,
        Reason.KIND,
        Reason.NAME,
        Reason.PHASE,
        Reason.SUB_OBJECT,
        Reason.DELETE,
    ]


@pytest.mark.parametrize(("fields", "age_s"), [((), 0), (((b"Age", b"7"),), 7), (((b"Age", b"x"),), 0)])
def test_the_received_age_is_read(fields: Fields, age_s: int) -> None:
    assert received_age_s(Head(200, b"OK", fields)) == age_s


@pytest.mark.parametrize(
    ("status", "decision", "expected"),
    [
        (200, StoreDecision(None, 1.0, is_record=True), False),
        (200, StoreDecision(Reason.PHASE, 0.0, is_record=True), True),
        (200, None, True),
        (401, None, True),
        (403, None, True),
        (404, None, True),
        (410, None, True),
        (404, StoreDecision(Reason.STATUS, 0.0, is_record=False), True),
        (304, None, False),
        (400, None, False),
        (429, None, False),
        (500, None, False),
        (503, StoreDecision(Reason.STATUS, 0.0, is_record=False), False),
    ],
)
def test_an_answer_that_ends_the_callers_access_or_the_record_drops_his_entry(
    status: int, decision: StoreDecision | None, expected: bool
) -> None:
    assert drops_own_entry(status, decision, Identity(b"t", b"t", b"t")) is expected
    one_of_many = Identity(b"t", b"u", b"u")
    assert drops_own_entry(status, decision, one_of_many) is (expected and status != 401)


@pytest.mark.parametrize(
    ("decision", "running", "ttl_s"),
    [
        (StoreDecision(Reason.PHASE, 0.0, is_record=True, phase="Running"), True, 2.0),
        (StoreDecision(Reason.PHASE, 0.0, is_record=True), True, 2.0),
        (StoreDecision(Reason.SUB_OBJECT, 0.0, is_record=True, phase="Succeeded"), True, 2.0),
        (StoreDecision(Reason.DELETE, 0.0, is_record=True, phase="Succeeded"), True, 2.0),
        (StoreDecision(Reason.PHASE, 0.0, is_record=True, phase="Running", origin_s=1.0), True, 1.0),
        (StoreDecision(Reason.PHASE, 0.0, is_record=True, phase="Running", origin_s=-3.0), True, 0.0),
        (StoreDecision(Reason.NO_STORE, 0.0, is_record=True, phase="Running"), True, 0.0),
        (StoreDecision(None, 1.0, is_record=True, phase="Succeeded", is_settled=False), True, 0.0),
        (StoreDecision(None, 300.0, is_record=True, phase="Succeeded"), False, 0.0),
        (StoreDecision(Reason.NO_STORE, 0.0, is_record=True, phase="Succeeded"), False, 0.0),
        (StoreDecision(Reason.STATUS, 0.0, is_record=False), False, 0.0),
    ],
)
def test_it_is_known_what_still_runs_and_how_long_it_might_be_given_again(
    decision: StoreDecision, running: bool, ttl_s: float
) -> None:
    assert (is_running(decision, SHARED), running_ttl_s(decision, 2.0)) == (running, ttl_s)


def test_the_dropping_statuses_are_those_of_the_design() -> None:
    assert {401, 403, 404, 410} == DROPPING_STATUSES


@BOUNDED
@given(
    st.one_of(
        st.binary(max_size=80),
        st.dictionaries(
            st.sampled_from(["kind", "metadata", "spec", "status"]),
            st.recursive(
                st.none() | st.sampled_from(["Succeeded", "Running", "delete"]) | st.integers(),
                lambda inner: st.dictionaries(
                    st.sampled_from(["objectStatus", "phase", "actionName", "subObjectStatuses", "name"]),
                    inner,
                ),
                max_leaves=6,
            ),
        ).map(lambda document: json.dumps(document).encode()),
    ),
    st.sampled_from([200, 404, 500]),
    st.booleans(),
)
def test_no_response_raises_and_only_settled_records_are_stored(
    body: bytes, status: int, complete: bool
) -> None:
    decision = decided(fetched_response(body, status=status, complete=complete))
    if decision.reason is None:
        assert status == 200
        assert complete
        assert json.loads(body)["status"]["objectStatus"]["phase"] in TERMINAL


@pytest.mark.parametrize(
    ("body", "fields", "expected"),
    [
        (record(), ((b"ETag", b'W/"e"'),), b'W/"e"'),
        (record("Running"), (), entity_tag(record("Running"))),
        (b"no record", ((b"ETag", b'"e"'),), b'"e"'),
        (b"no record", (), None),
    ],
)
def test_a_record_has_a_validator_the_upstreams_or_one_of_its_own(
    body: bytes, fields: Fields, expected: bytes | None
) -> None:
    assert decided(fetched_response(body, *fields)).etag == expected


_MIB = 1_048_576


@pytest.mark.parametrize(
    ("body", "coding", "expected"),
    [
        (b"x" * 65_536, (), False),
        (b"x" * 65_537, (), True),
        (gzip.compress(b"x" * 65_536, mtime=0), ((b"Content-Encoding", b"gzip"),), False),
        (gzip.compress(b"x" * _MIB, mtime=0), ((b"Content-Encoding", b"gzip"),), True),
        (gzip.compress(b"x" * _MIB, mtime=0), (), False),
        (b"", ((b"Content-Encoding", b"gzip"),), False),
    ],
)
def test_slow_decisions_are_recognised_by_size(body: bytes, coding: Fields, expected: bool) -> None:
    assert is_heavy(fetched_response(body, *coding)) is expected


def test_a_body_that_lies_about_its_inflated_size_does_not_decode() -> None:
    lying = gzip.compress(record() + b" " * _MIB)[:-4] + b"\0\0\0\0"
    received = fetched_response(lying, (b"Content-Encoding", b"gzip"))
    assert not is_heavy(received)
    rules = msgspec.structs.replace(SHARED, max_body_bytes=2 * _MIB)
    assert decided(received, rules).reason is Reason.CONTENT_CODING


def test_what_was_decided_counts_again_for_the_same_response_under_the_same_rules_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = record("Running")
    first = fetched_response(body, action_id="first")
    decision = policy.decide(first, SHARED)
    assert policy.latest_decision(fetched_response(body, action_id="first"), SHARED) is decision
    for other in (
        fetched_response(body.replace(b"Running", b"Pending"), action_id="first"),
        fetched_response(body, action_id="second"),
        fetched_response(body, (b"Vary", b"X-A"), action_id="first"),
        fetched_response(body, status=404, action_id="first"),
        fetched_response(body, complete=False, action_id="first"),
    ):
        assert policy.latest_decision(other, SHARED) is None
    assert policy.latest_decision(first, msgspec.structs.replace(SHARED, ttl_running_s=1.0)) is None
    monkeypatch.setattr(policy, "_LATEST_MOST", len(policy._latest))
    policy.decide(fetched_response(body, action_id="third"), SHARED)
    assert len(policy._latest) == policy._LATEST_MOST
