"""The twin's bodies against the published examples: keys, their order, nesting and types."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from gateway.twin import element_records, records, replies, stack_records
from gateway.twin.model import Model
from gateway.twin.phases import Phase
from gateway.twin.profiles import DEMO, EPOCH_S
from gateway.twin.requests import read_new_stack
from gateway.twin.stack import Ending, Execution, Lifecycle, NewStack, Order, Stack
from tests.testbed.payloads import payload

# Maps whose keys are free text; what counts is the shape of their values.
FREE_MAPS = {"subObjectStatuses", "elementStatuses", "elements"}
# Maps whose values are free too.
FREE_VALUES = {"properties", "runtimeProperties", "runtime_properties", "runtimes", "inputs"}
SINGLE = "execution-single"
LISTED = "execution-list__aos_02_0034_zh"
LISTED_2023 = "execution-list__aos_02_0034_eu"
DONE_S = EPOCH_S + 60


def shape(value: Any, name: str = "") -> Any:
    """The keys of a JSON value in their order with the types of their values; of a list, those that occur."""
    if name in FREE_VALUES:
        return "free"
    if isinstance(value, list) or name in FREE_MAPS:
        members = value.values() if isinstance(value, dict) else value
        return sorted({repr(shape(member)) for member in members})
    if isinstance(value, dict):
        return [(key, shape(member, key)) for key, member in value.items()]
    return type(value).__name__


def example(name: str) -> Any:
    return json.loads(payload(name))


@pytest.fixture
def stack() -> Stack:
    return Model(DEMO, 1).create_stack("project-a", NewStack(name="web", template_id="template"), EPOCH_S)


@pytest.fixture
def execution(stack: Stack) -> Execution:
    order = Order(lifecycle=Lifecycle.CREATE, timeout_min=20)
    return Model(DEMO, 1).start(stack, order, EPOCH_S)


def failed(stack: Stack) -> Execution:
    order = Order(lifecycle=Lifecycle.UPGRADE, ending=Ending(outcome=Phase.FAILED))
    return Model(DEMO, 1).start(stack, order, DONE_S)


def moments(execution: Execution) -> Iterator[float]:
    yield from execution.plan.changes_s


def test_a_single_record_has_the_shape_of_the_published_one(stack: Stack, execution: Execution) -> None:
    assert shape(records.single(stack, execution, DONE_S, DEMO)) == shape(example(SINGLE))


def test_a_listed_record_has_the_shape_of_the_published_one(stack: Stack, execution: Execution) -> None:
    assert shape([records.listed(stack, execution, DONE_S, DEMO)]) == shape(example(LISTED))


def test_records_without_kind_have_the_newer_shape(stack: Stack, execution: Execution) -> None:
    profile = msgspec.structs.replace(DEMO, with_kind=False)
    assert shape([records.listed(stack, execution, DONE_S, profile)]) == shape(example(LISTED_2023))
    without = shape(example(SINGLE))[2:]
    assert shape(records.single(stack, execution, DONE_S, profile)) == without


def test_the_shape_is_the_same_at_every_moment(stack: Stack, execution: Execution) -> None:
    expected = dict(shape(example(SINGLE)))
    for now_s in moments(execution):
        found = dict(shape(records.single(stack, execution, now_s, DEMO)))
        subs = dict(found["status"])["subObjectStatuses"]
        assert subs in ([], dict(expected["status"])["subObjectStatuses"])
        assert found["metadata"] == expected["metadata"]
        assert found["spec"] == expected["spec"]
        assert [key for key, _ in found["status"]] == [key for key, _ in expected["status"]]


def test_a_record_repeats_what_the_stack_and_the_order_say(stack: Stack, execution: Execution) -> None:
    record = records.single(stack, execution, DONE_S, DEMO)
    number = execution.name.removeprefix("web-")
    assert number.isdecimal()
    assert record["metadata"]["name"] == execution.name
    assert record["metadata"]["namespace"] == "project-a"
    assert record["metadata"]["labels"] == {"execution-hash": number, "stackname": "web"}
    assert record["metadata"]["uid"] not in (stack.guid, execution.name)
    assert record["spec"]["objectReference"] == {"namespace": "project-a", "name": "web", "uid": stack.guid}
    assert record["spec"]["timeoutInMinutes"] == 20
    assert record["spec"]["actionName"] == record["status"]["actionName"] == "create"
    assert record["status"]["objectStatus"]["phase"] == "Succeeded"


def test_a_failure_brings_message_and_reason_as_documented(stack: Stack, execution: Execution) -> None:
    record = records.single(stack, failed(stack), DONE_S + 60, DEMO)
    assert list(record["status"]["objectStatus"]) == ["phase", "message", "reason", "updateAt"]
    assert record["status"]["objectStatus"]["phase"] == "Failed"
    assert record["metadata"]["annotations"]["stack.kubernetes.io/revision"] == "2"
    assert execution.name != record["metadata"]["name"]


def test_a_new_record_has_no_status_where_the_profile_says_so(stack: Stack, execution: Execution) -> None:
    profile = msgspec.structs.replace(DEMO, status_delay_s=0.5)
    for render in (records.single, records.listed):
        assert "status" not in render(stack, execution, EPOCH_S + 0.4, profile)
        assert "status" in render(stack, execution, EPOCH_S + 0.5, profile)


def test_compact_and_indented_bodies_say_the_same(stack: Stack, execution: Execution) -> None:
    record = records.single(stack, execution, DONE_S, DEMO)
    compact, indented = records.dump(record, compact=True), records.dump(record, compact=False)
    assert compact.count(b"\n") == 0
    assert indented.startswith(b'{\n  "kind": "Execution",\n')
    assert json.loads(compact) == json.loads(indented) == record


def test_times_are_written_as_in_the_published_records(stack: Stack, execution: Execution) -> None:
    single = records.single(stack, execution, DONE_S, DEMO)
    listed = records.listed(stack, execution, DONE_S, DEMO)
    assert single["metadata"]["creationTimestamp"] == "2024-01-01T00:00:00Z"
    assert re.fullmatch(r"2024-01-01T00:00:0[5-8]Z", single["status"]["objectStatus"]["updateAt"])
    assert re.fullmatch(r"2024-01-01T00:00:0[5-8]\.\d{6}Z", listed["status"]["objectStatus"]["updateAt"])


def test_a_created_stack_has_the_shape_of_the_published_one(stack: Stack) -> None:
    assert shape(stack_records.created(stack)) == shape(example("stack-create-response"))


def test_a_single_stack_has_the_shape_of_the_published_one(stack: Stack, execution: Execution) -> None:
    assert execution.plan.ends_s < DONE_S
    assert shape(stack_records.single_stack(stack, DONE_S)) == shape(
        example("stack-get__aos_02_0027_zh-cn-2020")
    )


def test_a_listed_stack_has_the_shape_of_the_published_one(stack: Stack, execution: Execution) -> None:
    assert execution.plan.ends_s < DONE_S
    assert shape(stack_records.listed_stack(stack, DONE_S)) == shape(example("stack-list-item"))


def test_a_stack_without_executions_can_be_shown(stack: Stack) -> None:
    for render in (stack_records.single_stack, stack_records.listed_stack):
        assert render(stack, EPOCH_S)["object"]["status"] == {"phase": ""}
    assert element_records.elements(stack, EPOCH_S) == []
    assert element_records.element(stack, "hello-app", EPOCH_S) is None
    assert element_records.outputs(stack, EPOCH_S) == {"outputs": {}}


@pytest.mark.parametrize(
    ("lifecycle", "outcome", "running", "ended"),
    [
        (Lifecycle.CREATE, Phase.SUCCEEDED, "Creating", "CreateSucceeded"),
        (Lifecycle.UPGRADE, Phase.FAILED, "Upgrading", "UpgradeFailed"),
        (Lifecycle.ROLLBACK, Phase.CANCELLED, "Rollbacking", "RollbackCancelled"),
        (Lifecycle.DELETE, Phase.PAUSED, "Deleting", "DeletePaused"),
        (Lifecycle.CREATE, Phase.CANCEL_FAILED, "Creating", "CancelFailed"),
        (Lifecycle.SCALE, Phase.FORCE_CANCELLED, "Scaling", "ForceCancelled"),
    ],
)
def test_the_phase_of_a_stack_is_its_action_and_how_it_went(
    stack: Stack, lifecycle: Lifecycle, outcome: Phase, running: str, ended: str
) -> None:
    order = Order(lifecycle=lifecycle, ending=Ending(outcome=outcome))
    execution = Model(DEMO, 1).start(stack, order, EPOCH_S)
    assert stack_records.stack_phase(stack, execution.plan.running_s) == running
    assert stack_records.stack_phase(stack, execution.plan.ends_s) == ended


def test_elements_have_the_shapes_of_the_published_ones(stack: Stack, execution: Execution) -> None:
    assert execution.plan.ends_s < DONE_S
    assert shape(element_records.elements(stack, DONE_S)) == shape(example("stack-elements"))
    assert shape(element_records.element(stack, "hello-app", DONE_S)) == shape(example("stack-element_"))


def test_inputs_with_secret_names_are_masked() -> None:
    inputs = {"mysql-Password": "hush", "count": 3, "API_TOKEN": {"a": 1}}
    assert element_records.masked(inputs) == {"mysql-Password": "******", "count": 3, "API_TOKEN": "******"}


def test_the_published_request_makes_a_stack() -> None:
    body = payload("stack-create-request")
    new, order = read_new_stack(body, json.loads(body)["project_id"])
    assert new.name == "aos-lm-verydows-t1"
    assert new.inputs == json.loads(body)["inputs_json"]
    assert order is None


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        (replies.NOT_FOUND, "error__404"),
        (replies.bad_request("why"), "error__404"),
        (replies.invalid_body("text"), "error__aos_02_0021"),
        (replies.throttled("0" * 32, "ip", 5, 1), "error__apigw-0308"),
        (replies.unknown_api("0" * 32), "error__apigw-0308"),
        (replies.unauthorized("0" * 32, "why"), "error__apigw-0308"),
    ],
)
def test_errors_have_the_shapes_of_published_ones(reply: replies.Reply, name: str) -> None:
    assert shape(json.loads(reply.body)) == shape(example(name))


def test_the_words_of_a_missing_stack_and_of_throttling_are_the_published_ones() -> None:
    assert json.loads(replies.NOT_FOUND.body) == example("error__404")
    found = json.loads(replies.throttled("id", "ip", 5, 1).body)
    assert found == {**example("error__apigw-0308"), "request_id": "id"}
