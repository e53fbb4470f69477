"""What of the execution record decides."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.aos.execution import (
    RecordSummary,
    Unreadable,
    decode_deciding,
    has_duplicate_key,
)
from tests.core.kit import BOUNDED, minimal
from tests.testbed.payloads import EXECUTION, payload, payload_names

LISTS = [name for name in payload_names() if name.startswith("execution-list")]
BODIES = [payload(EXECUTION)] + [
    json.dumps(item).encode() for name in LISTS for item in json.loads(payload(name))
]


def test_there_are_five_public_execution_records() -> None:
    assert len(LISTS) == 2
    assert len(BODIES) == 5


@pytest.mark.parametrize("body", BODIES)
def test_a_public_record_decides_as_it_reads(body: bytes) -> None:
    document = json.loads(body)
    found = decode_deciding(body)
    assert isinstance(found, RecordSummary)
    assert (found.kind, found.name) == (document.get("kind"), document["metadata"]["name"])
    assert (found.phase, found.on_failure_strategy) == ("Succeeded", "DoNothing")
    assert found.sub_phases == {"Succeeded"}
    assert found.action_names == {document["spec"]["actionName"]}
    assert found.progress == document["status"]["progress"]
    assert not has_duplicate_key(body)


@pytest.mark.parametrize("body", [b"{}", minimal(kind=None, metadata=None, spec=None, status=None)])
def test_every_field_is_optional(body: bytes) -> None:
    found = decode_deciding(body)
    assert isinstance(found, RecordSummary)
    assert (found.kind, found.name, found.phase, found.on_failure_strategy, found.progress) == (None,) * 5
    assert (found.sub_phases, found.action_names) == (frozenset(), frozenset())


def test_unknown_fields_are_ignored() -> None:
    document = {"later": [1], "status": {"later": {}, "objectStatus": {"phase": "Running", "later": 1}}}
    found = decode_deciding(minimal(**document))
    assert isinstance(found, RecordSummary)
    assert found.phase == "Running"


def test_sub_objects_without_a_phase_say_nothing() -> None:
    found = decode_deciding(
        minimal(status={"subObjectStatuses": {"a": None, "b": {}, "c": {"phase": None}, "d": {"phase": "X"}}})
    )
    assert isinstance(found, RecordSummary)
    assert found.sub_phases == {"X"}


def test_both_action_names_count() -> None:
    found = decode_deciding(minimal(spec={"actionName": "delete"}, status={"actionName": "retry"}))
    assert isinstance(found, RecordSummary)
    assert found.action_names == {"delete", "retry"}


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'{"later": "\xff"}',
        b'{"later": "\xed\xa0\x80"}',
        '{"metadata": {"name": "é"}}'.encode("latin-1"),
        b'{"kind": "Execution"}'.decode().encode("utf-16"),
    ],
)
def test_skipped_fields_must_be_utf8_too(body: bytes) -> None:
    assert decode_deciding(body) is Unreadable.NOT_UTF8


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"Succeeded"',
        b"{",
        b"{} {}",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b'{"later": NaN}',
        b'{"later": 01}',
        b'{"later": "\n"}',
        b'{"later": "\\q"}',
        b'{"later": tru}',
        b'{"kind": 1}',
        b'{"status": []}',
        b'{"status": {"objectStatus": "Succeeded"}}',
        b'{"status": {"subObjectStatuses": []}}',
        b'{"status": {"subObjectStatuses": {"a": "Running"}}}',
        b'{"status": {"objectStatus": {"phase": ["Succeeded"]}}}',
        b'{"status": {"objectStatus": {"phase": 1}}}',
        b'{"spec": {"actionName": {}}}',
        b'{"later": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"later": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_what_does_not_decode_is_named_so(body: bytes) -> None:
    assert decode_deciding(body) is Unreadable.UNDECODABLE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "metadata", "spec", "status", "objectStatus", "phase", "other"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@BOUNDED
@given(st.one_of(st.binary(max_size=60), json_values.map(lambda value: json.dumps(value).encode())))
def test_no_body_makes_the_readers_fail(body: bytes) -> None:
    found = decode_deciding(body)
    if isinstance(found, RecordSummary):
        assert not has_duplicate_key(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind": "Execution", "kind": "Execution"}',
        b'{"kind": "Execution", "k\\u0069nd": "Execution"}',
        b'{"metadata": {}, "metadata": {}}',
        b'{"metadata": {"name": "a", "name": "b"}}',
        b'{"spec": {"actionName": "delete", "actionName": "create"}}',
        b'{"spec": {"onFailureStrategy": "Rollback", "onFailureStrategy": "DoNothing"}}',
        b'{"status": {"objectStatus": {"phase": "Running"}}, "status": {}}',
        b'{"status": {"actionName": "delete", "actionName": "create"}}',
        b'{"status": {"objectStatus": {"phase": "Running"}, "objectStatus": {"phase": "Succeeded"}}}',
        b'{"status": {"objectStatus": {"phase": "Running", "phase": "Succeeded"}}}',
        b'{"status": {"subObjectStatuses": {}, "subObjectStatuses": {}}}',
        b'{"status": {"subObjectStatuses": {"a": {"phase": "Running"}, "a": {}}}}',
        b'{"status": {"subObjectStatuses": {"a": {"phase": "Running", "phase": "Succeeded"}}}}',
    ],
)
def test_a_key_twice_on_the_way_to_a_deciding_field_is_seen(body: bytes) -> None:
    assert has_duplicate_key(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"later": {"a": 1, "a": 2}, "later": 3}',
        b'{"metadata": {"uid": "a", "uid": "b", "kind": 1}}',
        b'{"metadata": {"annotations": {"name": "a"}, "name": "b"}}',
        b'{"status": {"subObjectStatuses": {"a": {"reason": "a", "reason": "b"}}}}',
        b'{"status": {"objectStatus": [{"phase": 1, "phase": 2}]}}',
        b'{"later": ' + b"9" * 5000 + b"}",
        b'{"later": "\\"kind\\":", "kind": "a", "more": "{", "\\\\": "}", "spec": {"a": ["spec", {"a": 1}]}}',
        b'{"spec": null, "status": {"objectStatus": {"a": {"phase": 1}, "phase": "x"}}, "later": ["spec"]}',
    ],
)
def test_repeats_elsewhere_change_nothing(body: bytes) -> None:
    assert not has_duplicate_key(body)


def test_megabytes_in_one_text_are_no_matter() -> None:
    body = b'{"spec": {"objectData": "' + b"x" * 4_000_000 + b'"}, "kind": "a", "kind": "b"}'
    assert has_duplicate_key(body)


def test_members_that_lead_nowhere_are_not_counted() -> None:
    body = b'{"kind": "Execution", "x": [%s]}' % b",".join([b'{"kind": 1, "kind": 2}'] * 30_000)
    assert not has_duplicate_key(body)


@pytest.mark.parametrize("progress", ["40", None, 101, -1, 40.5, True, {"a": 1}])
def test_a_progress_that_is_no_percentage_is_unknown_and_the_record_is_read(progress: object) -> None:
    found = decode_deciding(minimal(status={"progress": progress}))
    assert isinstance(found, RecordSummary)
    assert found.progress is None
