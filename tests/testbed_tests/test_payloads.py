"""The example bodies and the records made from them."""

import json
from collections.abc import Callable

import pytest

from tests.testbed.aos import ABSENT, ACTION_ID, record
from tests.testbed.payloads import EXECUTION, payload_names


def test_a_payload_is_found_by_an_unambiguous_beginning(payload: Callable[[str], bytes]) -> None:
    assert payload("execution-single") == payload(EXECUTION)
    with pytest.raises(LookupError, match="2 payloads begin with 'stack-get'"):
        payload("stack-get")
    with pytest.raises(LookupError, match="0 payloads"):
        payload("nothing")


def test_every_payload_is_json(payload: Callable[[str], bytes]) -> None:
    assert len(payload_names()) >= 17
    for name in payload_names():
        json.loads(payload(name))


def test_a_record_without_changes_is_the_example(payload: Callable[[str], bytes]) -> None:
    assert json.loads(record()) == json.loads(payload(EXECUTION))


def test_a_record_takes_changes_by_path() -> None:
    made = json.loads(
        record(
            "Running",
            name="other",
            kind=ABSENT,
            status__progress=40,
            status__subObjectStatuses={"vm": {"phase": "Running"}},
            spec__new__deep=None,
            spec__actionName__below=ABSENT,
        )
    )
    assert made["metadata"]["name"] == "other"
    assert "kind" not in made
    assert made["status"]["objectStatus"]["phase"] == "Running"
    assert made["status"]["progress"] == 40
    assert made["status"]["subObjectStatuses"] == {"vm": {"phase": "Running"}}
    assert made["spec"]["new"] == {"deep": None}
    assert made["spec"]["actionName"] == "create"


def test_a_record_can_lack_phase_and_name() -> None:
    made = json.loads(record(ABSENT, name=ABSENT))
    assert "phase" not in made["status"]["objectStatus"]
    assert "name" not in made["metadata"]
    assert json.loads(record(None))["metadata"]["name"] == ACTION_ID
