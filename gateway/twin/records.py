"""Execution records in the shapes of the published examples, field for field and in their order.

A single record has the shape of API page aos_02_0033, a listed one that of aos_02_0034; they differ in the
order of keys, in annotations, in `objectReference` and in the precision of times.
"""

from hashlib import blake2b
from typing import Any, Final

import orjson

from gateway.twin.lifecycle import SubView, View
from gateway.twin.profiles import Profile
from gateway.twin.stack import Execution, Stack
from gateway.twin.timestamps import rfc3339, rfc3339_micro

Json = dict[str, Any]

API_VERSION: Final = "paas/v1alpha1"
_KIND: Final = {"kind": "Execution", "apiVersion": API_VERSION}
_KIND_LISTED: Final = {"apiVersion": API_VERSION, "kind": "Execution"}


def dump(value: Json | list[Json], *, compact: bool) -> bytes:
    """Return a value as JSON bytes, keys in their order; indented by two unless `compact`."""
    return orjson.dumps(value) if compact else orjson.dumps(value, option=orjson.OPT_INDENT_2)


def domain_id(project: str) -> str:
    """Return the made-up domain a project belongs to: 32 hex digits."""
    return blake2b(project.encode(), digest_size=16).hexdigest()


def single(stack: Stack, execution: Execution, now_s: float, profile: Profile) -> Json:
    """Return the answer to `GET /v2/stacks/{id}/actions/{id}`."""
    view = execution.view(now_s)
    labels = {"execution-hash": str(execution.number), "stackname": stack.new.name}
    record: Json = dict(_KIND) if profile.with_kind else {}
    record["metadata"] = {
        "name": execution.name,
        "namespace": stack.project,
        "selfLink": _self_link(stack, execution),
        "uid": execution.uid,
        "resourceVersion": str(execution.first_version + view.changes),
        "creationTimestamp": rfc3339(execution.plan.created_s),
        "labels": labels,
        "annotations": {
            "paas-iam.alpha.kubernetes.io/domain-id": domain_id(stack.project),
            "stack.kubernetes.io/revision": str(execution.revision),
        },
        "enable": True,
    }
    record["spec"] = {
        "metadata": {
            "namespace": stack.project,
            "creationTimestamp": None,
            "labels": labels,
            "enable": True,
        },
        "objectReference": {"namespace": stack.project, "name": stack.new.name, "uid": stack.guid},
        "actionName": execution.order.lifecycle.value,
        "timeoutInMinutes": execution.order.timeout_min,
        "onFailureStrategy": execution.order.failure_strategy,
        "disableStrategy": "Cancel",
        "source": "User",
        "objectData": _object_data(profile.object_data_bytes),
        "location": execution.location,
    }
    if now_s - execution.plan.created_s >= profile.status_delay_s:
        record["status"] = _status(execution, view)
    return record


def listed(stack: Stack, execution: Execution, now_s: float, profile: Profile) -> Json:
    """Return one item of the answer to `GET /v2/stacks/{id}/actions`."""
    view = execution.view(now_s)
    labels = {"execution-hash": str(execution.number), "stackname": stack.new.name}
    record: Json = dict(_KIND_LISTED) if profile.with_kind else {}
    record["metadata"] = {
        "annotations": _listed_annotations(stack, execution),
        "creationTimestamp": rfc3339(execution.plan.created_s),
        "labels": labels,
        "name": execution.name,
        "namespace": stack.project,
        "resourceVersion": str(execution.first_version + view.changes),
        "selfLink": _self_link(stack, execution),
        "uid": execution.uid,
    }
    record["spec"] = {
        "actionName": execution.order.lifecycle.value,
        "disableStrategy": "Cancel",
        "location": execution.location,
        "metadata": {"creationTimestamp": None, "labels": labels, "namespace": stack.project},
        "objectData": "******",
        "objectReference": {
            "APIVersion": "",
            "FieldPath": "",
            "Kind": "",
            "Name": stack.new.name,
            "Namespace": stack.project,
            "ResourceVersion": "",
            "UID": stack.guid,
        },
        "onFailureStrategy": execution.order.failure_strategy,
        "source": "User",
        "timeoutInMinutes": execution.order.timeout_min,
    }
    if now_s - execution.plan.created_s >= profile.status_delay_s:
        record["status"] = {
            "actionName": execution.order.lifecycle.value,
            "objectStatus": _object_status(view, rfc3339_micro(view.updated_s)),
            "progress": view.progress,
            "subObjectStatuses": {sub.name: _listed_sub(sub, execution) for sub in view.subs},
        }
    return record


def last_status(execution: Execution, now_s: float) -> Json:
    """Return the `lastExecutionStatus` of a single stack (API page aos_02_0027)."""
    view = execution.view(now_s)
    return {
        "actionName": execution.order.lifecycle.value,
        "progress": view.progress,
        "objectStatus": _object_status(view, rfc3339_micro(view.updated_s)),
        "subObjectStatuses": {sub.name: action_status(sub, execution) for sub in view.subs},
    }


def last_status_listed(execution: Execution, now_s: float) -> Json:
    """Return the `lastExecutionStatus` of a listed stack, which has less detail (API page aos_02_0026)."""
    return _status(execution, execution.view(now_s))


def action_status(sub: SubView, execution: Execution) -> Json:
    """Return a sub-object with its action's name and both times (`action_status`, page aos_02_0028)."""
    status: Json = {"subActionName": execution.order.lifecycle.value}
    status.update(_object_status(sub, rfc3339_micro(sub.updated_s)))
    status["createAt"] = rfc3339_micro(sub.created_s)
    return status


def _status(execution: Execution, view: View) -> Json:
    return {
        "actionName": execution.order.lifecycle.value,
        "progress": view.progress,
        "objectStatus": _object_status(view, rfc3339(view.updated_s)),
        "subObjectStatuses": {sub.name: _object_status(sub, rfc3339(sub.updated_s)) for sub in view.subs},
    }


def _listed_sub(sub: SubView, execution: Execution) -> Json:
    status = _object_status(sub, rfc3339_micro(sub.updated_s))
    updated_at = status.pop("updateAt")
    return {**status, "subActionName": execution.order.lifecycle.value, "updateAt": updated_at}


def _object_status(view: View | SubView, updated_at: str) -> Json:
    """Return table 8 of page aos_02_0033; the examples leave out a message and reason that are empty."""
    if not view.reason:
        return {"phase": view.phase.value, "updateAt": updated_at}
    return {
        "phase": view.phase.value,
        "message": view.message,
        "reason": view.reason,
        "updateAt": updated_at,
    }


def _self_link(stack: Stack, execution: Execution) -> str:
    return f"/apis/{API_VERSION}/namespaces/{stack.project}/executions/{execution.name}"


def _object_data(length_bytes: int) -> str:
    """Return base64 text of that length, all zero bits; masked when 0, as in the example."""
    return "A" * length_bytes if length_bytes else "*****"


def _listed_annotations(stack: Stack, execution: Execution) -> Json:
    new, domain = stack.new, domain_id(stack.project)
    return {
        "aos.security.io/account": "******",
        "aosmeta.cluster.id": new.cluster_id,
        "aosmeta.cluster.name": "",
        "aosmeta.description": new.description,
        "aosmeta.domain.id": domain,
        "aosmeta.force": str(new.force).lower(),
        "aosmeta.labels": dump(new.labels, compact=True).decode() if new.labels else "",
        "aosmeta.namespace": new.namespace,
        "aosmeta.project.id": stack.project,
        "aosmeta.signature": "1",
        "aosmeta.template.id": new.template_id,
        "aosmeta.template.name": "tosca-hello",
        "aosmeta.template.version": "1.0",
        "cluster-id": new.cluster_id,
        "cluster-version": "v1.5.0-r000000",
        "namespace": new.namespace,
        "paas-iam.alpha.kubernetes.io/domain-id": domain,
        "stack.kubernetes.io/revision": str(execution.revision),
    }
