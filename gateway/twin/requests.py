"""The request bodies of the twin's API, checked against the documented tables."""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import orjson

from gateway.twin.phases import SUB_OUTCOMES, Phase
from gateway.twin.stack import Ending, Lifecycle, NewStack, Order

_T = TypeVar("_T")

# 53 characters leave room for "-<number>" in an action id of at most 64.
_StackName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]([-A-Za-z0-9_]{0,51}[A-Za-z0-9])?$")]
_ShortText = Annotated[str, msgspec.Meta(max_length=64)]
_Description = Annotated[str, msgspec.Meta(max_length=1_024)]
_TemplateId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Label = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][-.A-Za-z0-9_]{0,63}$")]
_TimeoutMin = Annotated[int, msgspec.Meta(ge=0, le=1_440)]
_FailureStrategy = Literal["DoNothing", "Rollback"]
_Inputs = dict[str, Any] | str | None

# Inputs with these names choose how the execution ends; AOS does not know them.
OUTCOME_INPUT: Final = "twin_outcome"
DURATION_INPUT: Final = "twin_duration_s"
MAX_DURATION_S: Final = 604_800.0
CANCEL: Final = "cancel"


class BadBodyError(ValueError):
    """A body that AOS would reject; the text says why."""


class _ActionParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What follows the creation (API page aos_02_0021, table 2)."""

    auto_create: bool = False
    failure_strategy: _FailureStrategy = "DoNothing"
    timeout: _TimeoutMin = 60


class _CreateStack(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v2/stacks` (API page aos_02_0021, table 1)."""

    name: _StackName
    template_id: _TemplateId
    project_id: str = ""
    description: _Description = ""
    namespace: _ShortText = "default"
    cluster_id: _ShortText = ""
    force: bool = False
    labels: dict[_Label, _Label] = {}
    inputs_json: _Inputs = None
    action_parameters: _ActionParameters = _ActionParameters()


class _RunLifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `PUT /v2/stacks/{id}/actions` (API page aos_02_0025, table 2)."""

    lifecycle: str
    timeout: _TimeoutMin = 60
    failure_strategy: _FailureStrategy = "DoNothing"
    inputs: _Inputs = None
    template_id: _TemplateId | None = None


_CREATE_STACK: Final = msgspec.json.Decoder(_CreateStack)
_RUN_LIFECYCLE: Final = msgspec.json.Decoder(_RunLifecycle)


def read_new_stack(body: bytes, project: str) -> tuple[NewStack, Order | None]:
    """Read a stack to create in the caller's project, and the create execution to start with it.

    The order is None unless `action_parameters.auto_create` is true: AOS then leaves the stack idle.
    Raises `BadBodyError` for what AOS would reject.
    """
    wanted = _decoded(_CREATE_STACK, body)
    if wanted.project_id not in ("", project):
        raise BadBodyError("project_id must be the project that the token belongs to")
    values = _inputs_of(wanted.inputs_json)
    new = msgspec.convert(wanted, NewStack, from_attributes=True)
    new = msgspec.structs.replace(new, inputs=values)
    if not wanted.action_parameters.auto_create:
        return new, None
    return new, Order(
        lifecycle=Lifecycle.CREATE,
        timeout_min=wanted.action_parameters.timeout,
        failure_strategy=wanted.action_parameters.failure_strategy,
        ending=_ending_of(values),
    )


def read_order(body: bytes) -> Order | None:
    """Read what lifecycle to run; None for "cancel", which starts no execution but ends the running one."""
    wanted = _decoded(_RUN_LIFECYCLE, body)
    if wanted.lifecycle == CANCEL:
        return None
    if wanted.lifecycle not in set(Lifecycle):
        raise BadBodyError(f"lifecycle must be one of {', '.join(Lifecycle)} or {CANCEL}")
    lifecycle = Lifecycle(wanted.lifecycle)
    if wanted.failure_strategy == "Rollback" and lifecycle is not Lifecycle.CREATE:
        raise BadBodyError("failure_strategy can be Rollback for the lifecycle create only")
    return Order(
        lifecycle=lifecycle,
        timeout_min=wanted.timeout,
        failure_strategy=wanted.failure_strategy,
        ending=_ending_of(_inputs_of(wanted.inputs)),
    )


def read_flag(name: str, text: str | None) -> bool:
    """Read a query parameter, true or false; absent means false."""
    if text is None or re.fullmatch("true|false", text):
        return text == "true"
    raise BadBodyError(f"{name} must be true or false")


def outcome_of(text: object) -> Phase:
    """Return the phase of that name in which an execution can end."""
    for phase in SUB_OUTCOMES:
        if text == phase.value:
            return phase
    raise BadBodyError(f"the outcome must be one of {', '.join(SUB_OUTCOMES)}")


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadBodyError(str(exc)) from exc


def _inputs_of(inputs: _Inputs) -> dict[str, Any]:
    """Return the inputs as a dict; documented as text, shown as an object, both accepted."""
    try:
        values = (
            msgspec.json.decode(inputs or "{}", type=dict[str, Any])
            if isinstance(inputs, str)
            else inputs or {}
        )
        # They are shown again later: numbers beyond 64 bits and deep nesting cannot be.
        orjson.dumps(values)
    except (msgspec.DecodeError, orjson.JSONEncodeError, RecursionError) as exc:
        raise BadBodyError(f"the inputs are not a plain JSON object: {exc}") from exc
    return values


def _ending_of(values: dict[str, Any]) -> Ending:
    outcome, duration_s = values.get(OUTCOME_INPUT), values.get(DURATION_INPUT)
    if duration_s is not None and not (
        isinstance(duration_s, int | float) and 0 < duration_s <= MAX_DURATION_S
    ):
        raise BadBodyError(f"{DURATION_INPUT} must be a number of seconds up to {MAX_DURATION_S:.0f}")
    return Ending(outcome=None if outcome is None else outcome_of(outcome), duration_s=duration_s)
