"""Elements, inputs and outputs of a stack in the shapes of the published examples, field for field.

Elements follow the API pages aos_02_0028 and aos_02_0029, outputs aos_02_0031, inputs aos_02_0032.
"""

from typing import Any, Final

from gateway.twin.lifecycle import SubView
from gateway.twin.phases import Phase
from gateway.twin.records import Json, action_status, rfc3339
from gateway.twin.stack import Execution, Stack

_SECRET_WORDS: Final = ("password", "passwd", "secret", "token")
_ELEMENT_TYPES: Final = {"vpc": "HuaweiCloud.VPC.VPC", "subnet": "HuaweiCloud.VPC.Subnet"}
_APPLICATION: Final = "HuaweiCloud.AOS.StatelessApplication"
_DEPENDS_ON: Final = "HuaweiCloud.Relationships.DependsOn"


def elements(stack: Stack, now_s: float) -> list[Json]:
    """Return the answer to `GET /v2/stacks/{id}/elements`: as far as the newest execution has come."""
    last = stack.last
    if last is None:
        return []
    subs = last.view(now_s).subs
    return [_element(stack, last, sub, subs[i - 1].name if i else None) for i, sub in enumerate(subs)]


def element(stack: Stack, name: str, now_s: float) -> Json | None:
    """Return the answer to `GET /v2/stacks/{id}/elements/{name}`; None when there is no such element."""
    if stack.last is None or all(sub.name != name for sub in stack.last.view(now_s).subs):
        return None
    return {
        "create_at": rfc3339(stack.created_s),
        "description": "",
        "id": name,
        "properties": {},
        "relationships": [],
        "runtime_properties": {},
        "stack_id": stack.guid,
        "type": _ELEMENT_TYPES.get(name, _APPLICATION),
        "update_at": rfc3339(stack.updated_s(now_s)),
        "instances": {"items": []},
    }


def outputs(stack: Stack, now_s: float) -> Json:
    """Return the answer to `GET /v2/stacks/{id}/outputs`: nothing unless the newest execution succeeded."""
    if stack.last is None or stack.last.view(now_s).phase is not Phase.SUCCEEDED:
        return {"outputs": {}}
    return {"outputs": {"stack_name": {"value": stack.new.name, "description": "name of the stack"}}}


def inputs(stack: Stack) -> Json:
    """Return the answer to `GET /v2/stacks/{id}/inputs`."""
    return {"inputs": masked(stack.new.inputs)}


def masked(values: dict[str, Any]) -> Json:
    """Return inputs as AOS shows them: secrets, by their names, as "******"."""
    return {
        name: "******" if any(word in name.lower() for word in _SECRET_WORDS) else value
        for name, value in values.items()
    }


def _element(stack: Stack, execution: Execution, sub: SubView, before: str | None) -> Json:
    kind = _ELEMENT_TYPES.get(sub.name, _APPLICATION)
    relationship: Json = {
        "name": "dependsOn",
        "type": _DEPENDS_ON,
        "type_hierarchy": ["HuaweiCloud.Relationships.Root", _DEPENDS_ON],
        "properties": {},
        "target_id": before,
    }
    return {
        "id": sub.name,
        "stack_id": stack.guid,
        "relationships": [] if before is None else [relationship],
        "type_hierarchy": ["HuaweiCloud.Node.Root", kind],
        "properties": {"name": sub.name},
        "type": kind,
        "runtime_properties": runtime_properties(stack, sub.name),
        "action_status": action_status(sub, execution),
        "create_at": rfc3339(sub.created_s),
        "update_at": rfc3339(sub.updated_s),
    }


def runtime_properties(stack: Stack, name: str) -> Json:
    """Return the run-time properties of an element, made up from the names."""
    return {"refID": f"{name}-{stack.guid}", "refName": f"{stack.new.name}-{name}"}
