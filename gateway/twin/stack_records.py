"""Stacks in the shapes of the published examples, field for field.

A created stack has the shape of API page aos_02_0021, a single one that of aos_02_0027, a listed one that of
aos_02_0026.
"""

from collections.abc import Callable
from typing import Final

from gateway.twin.element_records import masked, runtime_properties
from gateway.twin.phases import Phase
from gateway.twin.records import API_VERSION, Json, domain_id, dump, last_status, last_status_listed
from gateway.twin.stack import Execution, Lifecycle, Stack
from gateway.twin.timestamps import rfc3339, rfc3339_china

_DSL_VERSION: Final = "huaweicloud_tosca_version_1_0"
_GERUNDS: Final = {
    Lifecycle.CREATE: "Creating",
    Lifecycle.START: "Starting",
    Lifecycle.STOP: "Stopping",
    Lifecycle.DELETE: "Deleting",
    Lifecycle.SCALE: "Scaling",
    Lifecycle.UPGRADE: "Upgrading",
    Lifecycle.ROLLBACK: "Rollbacking",
    Lifecycle.RECONFIG: "Reconfiging",
    Lifecycle.RETRY: "Retrying",
}
# The stack's phase is the same word whatever was cancelled (page aos_02_0026, table 9).
_BARE_PHASES: Final = (Phase.FORCE_CANCELLED, Phase.CANCEL_FAILED)


def stack_phase(stack: Stack, now_s: float) -> str:
    """Return the stack's own phase, such as "Creating" or "CreateSucceeded"; "" before any execution."""
    last = stack.last
    if last is None:
        return ""
    phase = last.view(now_s).phase
    if phase in (Phase.PENDING, Phase.RUNNING):
        return _GERUNDS[last.order.lifecycle]
    if phase in _BARE_PHASES:
        return phase.value
    return last.order.lifecycle.value.capitalize() + phase.value


def created(stack: Stack) -> Json:
    """Return the answer to `POST /v2/stacks`."""
    new = stack.new
    return {
        **_identity(stack),
        "status": "",
        "template_id": new.template_id,
        "previous_template_id": "",
        "template_name": "tosca-hello",
        "healthy": True,
        "healthy_message": "",
        "inputs_json": _text(masked(new.inputs)),
        "previous_inputs_json": "",
        "create_at": "",
        "update_at": "",
        "labels": _text(new.labels),
        "template_version": "1.0",
        "dsl_version": _DSL_VERSION,
    }


def single_stack(stack: Stack, now_s: float) -> Json:
    """Return the answer to `GET /v2/stacks/{id}`."""
    new = stack.new
    reference = f"{new.name}-{stack.guid}"
    return {
        **_identity(stack),
        "status": _status(stack, now_s),
        "template_id": new.template_id,
        "template_name": "tosca-hello",
        "inputs_json": _text(masked(new.inputs)),
        "create_at": rfc3339(stack.created_s),
        "update_at": rfc3339(stack.updated_s(now_s)),
        "labels": _text(new.labels),
        "dsl_version": _DSL_VERSION,
        "object": {
            "kind": "Stack",
            "apiVersion": API_VERSION,
            "metadata": {
                "name": new.name,
                "namespace": stack.project,
                "selfLink": _self_link(stack),
                "uid": stack.guid,
                "resourceVersion": str(stack.version(now_s)),
                "labels": {"stackname": new.name},
                "annotations": {
                    "cluster-id": new.cluster_id,
                    "namespace": new.namespace,
                    "paas-iam.alpha.kubernetes.io/domain-id": domain_id(stack.project),
                },
            },
            "spec": {
                "selector": {"matchLabels": {"stackname": new.name}},
                "template": {
                    "type": "Aos",
                    "reference": {"namespace": stack.project, "name": reference, "uid": reference},
                },
            },
            "status": {**_object_status(stack, now_s, last_status), **_healthy_status(stack, now_s)},
        },
        "health": {"message": "", "healthy": True},
    }


def listed_stack(stack: Stack, now_s: float) -> Json:
    """Return one item of the answer to `GET /v2/stacks`."""
    new = stack.new
    last = stack.last
    return {
        **_identity(stack),
        "status": _status(stack, now_s),
        "template_id": new.template_id,
        "previous_template_id": "",
        "template_name": "tosca-hello",
        "healthy": True,
        "healthy_message": "",
        "inputs_json": _text(masked(new.inputs)),
        "previous_inputs_json": "",
        "create_at": rfc3339(stack.created_s),
        "update_at": rfc3339(stack.updated_s(now_s)),
        "labels": _text(new.labels),
        "object": {
            "metadata": {
                "name": new.name,
                "namespace": stack.project,
                "selfLink": _self_link(stack),
                "uid": stack.guid,
                "resourceVersion": str(stack.version(now_s)),
                "creationTimestamp": rfc3339(stack.created_s),
                "labels": {"stackname": new.name},
                "annotations": {
                    "cluster-id": new.cluster_id,
                    "namespace": new.namespace,
                    "paas-iam.alpha.kubernetes.io/domain-id": domain_id(stack.project),
                    "stack.kubernetes.io/revision": str(last.revision if last is not None else 0),
                },
            },
            "spec": {
                "selector": {"matchLabels": {"stackname": new.name}},
                "template": {"type": "Aos", "data": "******"},
            },
            "status": _object_status(stack, now_s, last_status_listed),
        },
        "health": {"message": "", "healthy": True},
    }


def _identity(stack: Stack) -> Json:
    """Return the members that all three shapes begin with."""
    new = stack.new
    return {
        "force": new.force,
        "guid": stack.guid,
        "namespace": new.namespace,
        "project_id": stack.project,
        "cluster_name": "",
        "cluster_id": new.cluster_id,
        "domain_id": domain_id(stack.project),
        "name": new.name,
        "description": new.description,
    }


def _status(stack: Stack, now_s: float) -> str:
    phase = stack_phase(stack, now_s)
    return "Running" if phase.endswith(Phase.SUCCEEDED) else phase


def _object_status(stack: Stack, now_s: float, last_status_of: Callable[[Execution, float], Json]) -> Json:
    last = stack.last
    if last is None:
        return {"phase": ""}
    return {
        "phase": stack_phase(stack, now_s),
        "elementStatuses": {
            sub.name: {"runtimeProperties": runtime_properties(stack, sub.name)}
            for sub in last.view(now_s).subs
        },
        "lastExecutionStatus": last_status_of(last, now_s),
    }


def _healthy_status(stack: Stack, now_s: float) -> Json:
    last = stack.last
    if last is None:
        return {}
    checked_at = rfc3339_china(now_s)
    runtimes = {"fatigue": "1", "instanceCount": "1", "timestamp": checked_at}
    return {
        "healthyStatus": {
            "healthyCheckTimestamp": checked_at,
            "status": "Running",
            "elements": {
                sub.name: {"status": "healthy", "runtimes": runtimes}
                for sub in last.view(now_s).subs
                if sub.phase is Phase.SUCCEEDED
            },
            "elementsReference": {
                "Kind": "",
                "Namespace": stack.project,
                "Name": f"{stack.new.name}-health-{stack.guid}",
                "UID": stack.guid,
                "APIVersion": "",
                "ResourceVersion": "",
                "FieldPath": "",
            },
        }
    }


def _self_link(stack: Stack) -> str:
    return f"/apis/{API_VERSION}/namespaces/{stack.project}/stacks/{stack.new.name}"


def _text(value: Json) -> str:
    return dump(value, compact=True).decode() if value else ""
