"""The values of the model: stacks, executions and what requests say about them."""

from collections import OrderedDict
from enum import StrEnum
from itertools import islice
from typing import Any

import msgspec

from gateway.twin.lifecycle import Plan, View, view_at
from gateway.twin.phases import Phase


class Lifecycle(StrEnum):
    """What `PUT /v2/stacks/{id}/actions` can run, besides "cancel" (API page aos_02_0025)."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    DELETE = "delete"
    SCALE = "scale"
    UPGRADE = "upgrade"
    ROLLBACK = "rollback"
    RECONFIG = "reconfig"
    RETRY = "retry"


class NewStack(msgspec.Struct, frozen=True, kw_only=True):
    """A stack as requested (API page aos_02_0021, table 1)."""

    name: str
    template_id: str
    description: str = ""
    namespace: str = "default"
    cluster_id: str = ""
    force: bool = False
    labels: dict[str, str] = {}
    inputs: dict[str, Any] = {}


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How an execution has to end, and how long a successful run takes; None to draw it."""

    outcome: Phase | None = None
    duration_s: float | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An execution as requested; the time limit is copied to the record, the model never times out."""

    lifecycle: Lifecycle
    timeout_min: int = 60
    failure_strategy: str = "DoNothing"
    ending: Ending = Ending()


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One execution record.

    Attributes:
        name: the action id, "<stack name>-<number>".
        revision: its place in the stack's history, from 1.
        first_version: `resourceVersion` at its creation.
        last_action_id: the execution before it; "" for the first.
    """

    name: str
    uid: str
    location: str
    revision: int
    first_version: int
    last_action_id: str
    order: Order
    plan: Plan

    def view(self, now_s: float) -> View:
        return view_at(self.plan, now_s)

    def version(self, now_s: float) -> int:
        """Return the resourceVersion, which grows with every change."""
        return self.first_version + self.view(now_s).changes

    def is_under_way(self, now_s: float) -> bool:
        return now_s < self.plan.ends_s


class Stack(msgspec.Struct, kw_only=True, eq=False):
    """One stack; the only value of the model that changes.

    Attributes:
        element_names: the stack's elements, in the order in which they start.
        next_version: the resourceVersion that the next execution starts with.
        started: how many executions it has had, dropped ones included.
        executions: by action id, oldest first.
    """

    project: str
    guid: str
    created_s: float
    new: NewStack
    element_names: tuple[str, ...]
    first_version: int
    next_version: int
    started: int = 0
    executions: OrderedDict[str, Execution] = msgspec.field(default_factory=OrderedDict)

    @property
    def last(self) -> Execution | None:
        """The newest execution; None before the first."""
        return next(reversed(self.executions.values()), None)

    def newest(self, count: int) -> list[Execution]:
        return list(islice(reversed(self.executions.values()), count))

    def is_gone(self, now_s: float) -> bool:
        """Tell whether a delete has succeeded."""
        last = self.last
        return (
            last is not None
            and last.order.lifecycle is Lifecycle.DELETE
            and last.plan.outcome is Phase.SUCCEEDED
            and not last.is_under_way(now_s)
        )

    def version(self, now_s: float) -> int:
        """Return the stack's resourceVersion, which grows with every change of it or its executions."""
        return self.last.version(now_s) if self.last else self.first_version

    def updated_s(self, now_s: float) -> float:
        """Return when the stack or its newest execution last changed, modelled Unix seconds."""
        return self.last.view(now_s).updated_s if self.last is not None else self.created_s
