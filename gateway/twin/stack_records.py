"""Stacks in the shapes of the published examples, field for field.

A created stack has the shape of API page aos_02_0021, a single one that of aos_02_0027, a listed one that of
aos_02_0026.
"""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Final

from gateway.twin import records
from gateway.twin.element_records import masked, runtime_properties
from gateway.twin.lifecycle import View
from gateway.twin.phases import Phase
from gateway.twin.records import API_VERSION, Json, json_text, rfc3339
from gateway.twin.stack import Execution, Lifecycle, Stack
from gateway.twin.tokens import digest

# Where health checks take their time from.
_CHINA: Final = timezone(timedelta(hours=8))
_DSL_VERSION: Final = "huaweicloud_tosca_version_1_0"
_GERUNDS: Final = {each: f"{each.removesuffix('e').capitalize()}ing" for each in Lifecycle} | {
    Lifecycle.STOP: "Stopping"
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
    return {**_summary(stack, "", "", ""), "template_version": "1.0", "dsl_version": _DSL_VERSION}


def single_stack(stack: Stack, now_s: float) -> Json:
    """Return the answer to `GET /v2/stacks/{id}`."""
    summary = _shown_summary(stack, now_s).items()
    reference = f"{stack.new.name}-{stack.guid}"
    return {
        **{name: value for name, value in summary if not name.startswith(("healthy", "previous_"))},
        "dsl_version": _DSL_VERSION,
        "object": {
            "kind": "Stack",
            "apiVersion": API_VERSION,
            "metadata": _metadata(stack, now_s, {}, {}),
            "spec": {
                "selector": {"matchLabels": {"stackname": stack.new.name}},
                "template": {
                    "type": "Aos",
                    "reference": {"namespace": stack.project, "name": reference, "uid": reference},
                },
            },
            "status": {**_object_status(stack, now_s, records.last_status), **_healthy_status(stack, now_s)},
        },
        "health": {"message": "", "healthy": True},
    }


def listed_stack(stack: Stack, now_s: float) -> Json:
    """Return one item of the answer to `GET /v2/stacks`."""
    revision = stack.last.revision if stack.last is not None else 0
    return {
        **_shown_summary(stack, now_s),
        "object": {
            "metadata": _metadata(
                stack,
                now_s,
                {"creationTimestamp": rfc3339(stack.created_s)},
                {"stack.kubernetes.io/revision": str(revision)},
            ),
            "spec": {
                "selector": {"matchLabels": {"stackname": stack.new.name}},
                "template": {"type": "Aos", "data": "******"},
            },
            "status": _object_status(stack, now_s, records.last_status_listed),
        },
        "health": {"message": "", "healthy": True},
    }


def _shown_summary(stack: Stack, now_s: float) -> Json:
    phase = stack_phase(stack, now_s)
    status = "Running" if phase.endswith(Phase.SUCCEEDED) else phase
    return _summary(stack, status, rfc3339(stack.created_s), rfc3339(stack.updated_s(now_s)))


def _summary(stack: Stack, status: str, created_at: str, updated_at: str) -> Json:
    """Return the members that all three shapes begin with."""
    new = stack.new
    return {
        "force": new.force,
        "guid": stack.guid,
        "namespace": new.namespace,
        "project_id": stack.project,
        "cluster_name": "",
        "cluster_id": new.cluster_id,
        "domain_id": digest(stack.project),
        "name": new.name,
        "description": new.description,
        "status": status,
        "template_id": new.template_id,
        "previous_template_id": "",
        "template_name": "tosca-hello",
        "healthy": True,
        "healthy_message": "",
        "inputs_json": json_text(masked(new.inputs)),
        "previous_inputs_json": "",
        "create_at": created_at,
        "update_at": updated_at,
        "labels": json_text(new.labels),
    }


def _metadata(stack: Stack, now_s: float, creation: Json, revision: Json) -> Json:
    new = stack.new
    return {
        "name": new.name,
        "namespace": stack.project,
        "selfLink": f"/apis/{API_VERSION}/namespaces/{stack.project}/stacks/{new.name}",
        "uid": stack.guid,
        "resourceVersion": str(stack.version(now_s)),
        **creation,
        "labels": {"stackname": new.name},
        "annotations": {
            "cluster-id": new.cluster_id,
            "namespace": new.namespace,
            "paas-iam.alpha.kubernetes.io/domain-id": digest(stack.project),
            **revision,
        },
    }


def _object_status(stack: Stack, now_s: float, last_status_of: Callable[[Execution, View], Json]) -> Json:
    last = stack.last
    if last is None:
        return {"phase": ""}
    view = last.view(now_s)
    return {
        "phase": stack_phase(stack, now_s),
        "elementStatuses": {
            sub.name: {"runtimeProperties": runtime_properties(stack, sub.name)} for sub in view.subs
        },
        "lastExecutionStatus": last_status_of(last, view),
    }


def _healthy_status(stack: Stack, now_s: float) -> Json:
    last = stack.last
    if last is None:
        return {}
    checked_at = datetime.fromtimestamp(now_s, _CHINA).isoformat(timespec="seconds")
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
            "elementsReference": records.go_reference(stack, f"{stack.new.name}-health-{stack.guid}"),
        }
    }
