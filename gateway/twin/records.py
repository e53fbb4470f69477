"""Execution records in the shapes of the published examples, field for field and in their order.

A single record has the shape of API page aos_02_0033, a listed one that of aos_02_0034.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gateway.twin.lifecycle import SubView, View
from gateway.twin.phases import FAILURES
from gateway.twin.profiles import Profile
from gateway.twin.stack import Execution, Stack
from gateway.twin.tokens import digest

Json = dict[str, Any]

API_VERSION: Final = "paas/v1alpha1"


def dump(value: Json | list[Json], *, compact: bool = True) -> bytes:
    """Return a value as JSON bytes, keys in their order; indented by two unless `compact`."""
    return orjson.dumps(value, option=None if compact else orjson.OPT_INDENT_2)


def json_text(value: Json) -> str:
    """Return a value as JSON text; "" when it is empty."""
    return dump(value).decode() if value else ""


def rfc3339(at_s: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(at_s: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def go_reference(stack: Stack, name: str) -> Json:
    """Return a reference to something of a stack, spelled as Go spells it."""
    return {
        "Kind": "",
        "Namespace": stack.project,
        "Name": name,
        "UID": stack.guid,
        "APIVersion": "",
        "ResourceVersion": "",
        "FieldPath": "",
    }


def single(stack: Stack, execution: Execution, now_s: float, profile: Profile) -> Json:
    """Return the answer to `GET /v2/stacks/{id}/actions/{id}`."""
    view = execution.view(now_s)
    labels = {"execution-hash": execution.name.rpartition("-")[2], "stackname": stack.new.name}
    record: Json = {"kind": "Execution", "apiVersion": API_VERSION} if profile.with_kind else {}
    record["metadata"] = {
        "name": execution.name,
        "namespace": stack.project,
        "selfLink": f"/apis/{API_VERSION}/namespaces/{stack.project}/executions/{execution.name}",
        "uid": execution.uid,
        "resourceVersion": str(execution.first_version + view.changes),
        "creationTimestamp": rfc3339(execution.plan.created_s),
        "labels": labels,
        "annotations": {
            "paas-iam.alpha.kubernetes.io/domain-id": digest(stack.project),
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
        "objectData": "*****",
        "location": execution.location,
    }
    if now_s - execution.plan.created_s >= profile.status_delay_s:
        record["status"] = last_status_listed(execution, view)
    return record


def listed(stack: Stack, execution: Execution, now_s: float, profile: Profile) -> Json:
    """Return one item of the answer to `GET /v2/stacks/{id}/actions`.

    It is the single record with its keys sorted, without `enable`, and with a few values of its own.
    """
    record = single(stack, execution, now_s, profile)
    metadata, spec = record["metadata"], record["spec"]
    del metadata["enable"], spec["metadata"]["enable"]
    metadata["annotations"] = _listed_annotations(stack, execution)
    spec["metadata"] = _sorted(spec["metadata"])
    spec["objectData"] = "******"
    spec["objectReference"] = _sorted(go_reference(stack, stack.new.name))
    if "status" in record:
        record["status"] = _sorted(_status(execution, execution.view(now_s), rfc3339_micro, _listed_sub))
    return _sorted({**record, "metadata": _sorted(metadata), "spec": _sorted(spec)})


def last_status(execution: Execution, view: View) -> Json:
    """Return the `lastExecutionStatus` of a single stack (API page aos_02_0027)."""
    return _status(execution, view, rfc3339_micro, action_status)


def last_status_listed(execution: Execution, view: View) -> Json:
    """Return the `lastExecutionStatus` of a listed stack, which has less detail (API page aos_02_0026)."""
    return _status(execution, view, rfc3339, lambda sub, _: _object_status(sub, rfc3339))


def action_status(sub: SubView, execution: Execution) -> Json:
    """Return a sub-object with its action's name and both times (`action_status`, page aos_02_0028)."""
    return {
        "subActionName": execution.order.lifecycle.value,
        **_object_status(sub, rfc3339_micro),
        "createAt": rfc3339_micro(sub.created_s),
    }


def _status(
    execution: Execution,
    view: View,
    timestamp: Callable[[float], str],
    sub_status: Callable[[SubView, Execution], Json],
) -> Json:
    return {
        "actionName": execution.order.lifecycle.value,
        "progress": view.progress,
        "objectStatus": _object_status(view, timestamp),
        "subObjectStatuses": {sub.name: sub_status(sub, execution) for sub in view.subs},
    }


def _listed_sub(sub: SubView, execution: Execution) -> Json:
    status = _object_status(sub, rfc3339_micro)
    updated_at = status.pop("updateAt")
    return {**status, "subActionName": execution.order.lifecycle.value, "updateAt": updated_at}


def _object_status(view: View | SubView, timestamp: Callable[[float], str]) -> Json:
    """Return table 8 of page aos_02_0033; the examples leave out a message and reason that are empty."""
    return {"phase": view.phase.value, **FAILURES.get(view.phase, {}), "updateAt": timestamp(view.updated_s)}


def _listed_annotations(stack: Stack, execution: Execution) -> Json:
    new, domain = stack.new, digest(stack.project)
    return {
        "aos.security.io/account": "******",
        "aosmeta.cluster.id": new.cluster_id,
        "aosmeta.cluster.name": "",
        "aosmeta.description": new.description,
        "aosmeta.domain.id": domain,
        "aosmeta.force": str(new.force).lower(),
        "aosmeta.labels": json_text(new.labels),
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


def _sorted(value: Json) -> Json:
    return dict(sorted(value.items()))
