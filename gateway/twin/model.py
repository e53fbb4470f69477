"""Projects, stacks and executions of the twin: no I/O and no clock, all chance from the seed."""

from collections import OrderedDict
from random import Random
from typing import Final
from uuid import UUID

import msgspec

from gateway.twin.lifecycle import Plan, cancelled, draw_plan, view_at
from gateway.twin.phases import Phase
from gateway.twin.profiles import EPOCH_S, Preset, Profile
from gateway.twin.stack import Ending, Execution, Lifecycle, NewStack, Order, Stack
from gateway.twin.tokens import digest

# How many names of deleted stacks are kept, so that a new stack of the same name gets another id.
_MAX_REMEMBERED_NAMES: Final = 100_000
# Elements a modelled template may consist of; the first ones are those of the published record.
ELEMENT_NAMES: Final = (
    "hello-app",
    "hello-component",
    "hello-package",
    "vpc",
    "subnet",
    "redis-app",
    "mysql-app",
)
_BUSY: Final = "The stack is executing another lifecycle."
# A forced delete ends a moment after its answer.
_AT_ONCE: Final = Ending(outcome=Phase.SUCCEEDED, duration_s=0.001)


class RefusedError(Exception):
    """The model rejects a request in its present state; the text says why."""


class NameTakenError(RefusedError):
    """The project has a stack of that name."""


class Model:
    """All stacks of all projects.

    The same seed and the same calls with the same times give the same results, and a stack's values depend on
    its project, name and own history alone, so that unrelated calls may come in any order.

    Attributes:
        forced: how the next executions of any stack end, unless their requests choose an end; last one first.
    """

    def __init__(self, profile: Profile, seed: int) -> None:
        self._profile = profile
        self._seed = seed
        self._stacks: dict[str, Stack] = {}
        self._by_name: dict[tuple[str, str], Stack] = {}
        self._times_made: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.forced: list[Ending] = []
        if profile.preset is not None:
            self._make_preset(profile.preset)

    def create_stack(self, project: str, new: NewStack, now_s: float) -> Stack:
        """Make a stack without any execution, unless the name is taken or there are too many."""
        key = (project, new.name)
        holder = self._by_name.get(key)
        if holder is not None and self.stack(project, holder.guid, now_s) is not None:
            raise NameTakenError("The stack name is already existed.")
        if len(self._stacks) >= self._profile.max_stacks:
            for stack in [stack for stack in self._stacks.values() if stack.is_gone(now_s)]:
                self._remove(stack)
        if len(self._stacks) >= self._profile.max_stacks:
            raise RefusedError("The number of stacks has reached its limit.")
        times_made = self._times_made.pop(key, 0) + 1
        self._times_made[key] = times_made
        if len(self._times_made) > _MAX_REMEMBERED_NAMES:
            self._times_made.popitem(last=False)
        rng = Random(f"{self._seed}/{project}/{new.name}/{times_made}")
        first_version = rng.randrange(1_000_000, 100_000_000)
        stack = Stack(
            project=project,
            guid=_uuid(rng),
            created_s=now_s,
            new=new,
            element_names=ELEMENT_NAMES[: rng.randint(*self._profile.sub_objects)],
            first_version=first_version,
            next_version=first_version + 1,
        )
        self._stacks[stack.guid] = stack
        self._by_name[key] = stack
        return stack

    def stack(self, project: str, guid: str, now_s: float) -> Stack | None:
        """Return a project's stack; None when it has none of that id (any more)."""
        stack = self._stacks.get(guid)
        if stack is None or stack.project != project:
            return None
        if stack.is_gone(now_s):
            self._remove(stack)
            return None
        return stack

    def stacks(self, project: str, now_s: float) -> list[Stack]:
        return [stack for stack in self.all_stacks(now_s) if stack.project == project]

    def all_stacks(self, now_s: float) -> list[Stack]:
        """Return the stacks of all projects, oldest first."""
        return [stack for stack in self._stacks.values() if not stack.is_gone(now_s)]

    def start(self, stack: Stack, order: Order, now_s: float) -> Execution:
        """Start an execution, unless another one is running."""
        if stack.last is not None and stack.last.is_under_way(now_s):
            raise RefusedError(_BUSY)
        return self._start(stack, order, now_s)

    def cancel(self, stack: Stack, now_s: float) -> Execution:
        """Cancel the running execution, if there is one; it keeps its record."""
        last = stack.last
        if last is None or not last.is_under_way(now_s):
            raise RefusedError("The stack executes no lifecycle.")
        if last.view(now_s).phase in (Phase.CANCELLING, Phase.FORCE_CANCELLING):
            # A repeated cancel must not postpone the end.
            return last
        return self._replan(stack, last, cancelled(last.plan, now_s, self._profile.cancel_s), now_s)

    def delete(self, stack: Stack, order: Order, now_s: float, *, force: bool) -> Execution:
        """Start to delete a stack that is not gone; a running execution is cancelled first.

        With `force` a running delete ends at once, without it another one is refused.
        """
        last = stack.last
        if last is not None and last.is_under_way(now_s):
            if last.order.lifecycle is Lifecycle.DELETE:
                if not force:
                    raise RefusedError(_BUSY)
                order = msgspec.structs.replace(order, ending=_AT_ONCE)
            self._replan(stack, last, cancelled(last.plan, now_s, 0.0), now_s)
        return self._start(stack, order, now_s)

    def _replan(self, stack: Stack, execution: Execution, plan: Plan, now_s: float) -> Execution:
        # The version continues, although the new plan counts its changes from the start.
        past = view_at(plan, now_s).changes
        first_version = execution.version(now_s) + 1 - past
        changed = msgspec.structs.replace(execution, plan=plan, first_version=first_version)
        stack.executions[execution.name] = changed
        stack.next_version = max(stack.next_version, first_version + len(plan.changes_s) + 1)
        return changed

    def _start(self, stack: Stack, order: Order, now_s: float) -> Execution:
        rng = Random(f"{stack.guid}/{stack.started}")
        while (name := f"{stack.new.name}-{rng.getrandbits(32)}") in stack.executions:
            pass
        # Drawn even if not needed, so that a forced end changes nothing else.
        phases, shares = zip(*self._profile.outcome_shares, strict=True)
        drawn = rng.choices(phases, shares)[0]
        ending = self.forced.pop() if self.forced and order.ending.outcome is None else order.ending
        pace = self._profile.delete_pace if order.lifecycle is Lifecycle.DELETE else self._profile.pace
        plan = draw_plan(
            rng,
            pace,
            ending.outcome or drawn,
            stack.element_names,
            created_s=now_s,
            total_s=ending.duration_s,
        )
        last = stack.last
        execution = Execution(
            name=name,
            uid=_uuid(rng),
            location=f"172.16.{rng.randrange(256)}.{rng.randrange(1, 255)}",
            revision=stack.started + 1,
            first_version=stack.next_version,
            last_action_id=last.name if last is not None else "",
            order=order,
            plan=plan,
        )
        stack.started += 1
        stack.next_version += len(plan.changes_s) + 1
        stack.executions[execution.name] = execution
        while len(stack.executions) > self._profile.max_executions_per_stack:
            stack.executions.popitem(last=False)
        return execution

    def _remove(self, stack: Stack) -> None:
        del self._stacks[stack.guid]
        del self._by_name[stack.project, stack.new.name]

    def _make_preset(self, preset: Preset) -> None:
        """Make the history before the start: each execution ends before the next begins."""
        longest_s = 2 * (self._profile.pace.pending_s[1] + self._profile.pace.running_s[1])
        begin_s = EPOCH_S - longest_s * (preset.executions_per_stack + 1)
        template_id = str(UUID(digest(preset.project)))
        for i in range(preset.stacks):
            new = NewStack(name=f"{preset.project}-{i:04d}", template_id=template_id)
            stack = self.create_stack(preset.project, new, begin_s)
            for k in range(preset.executions_per_stack):
                lifecycle = Lifecycle.UPGRADE if k else Lifecycle.CREATE
                self._start(stack, Order(lifecycle=lifecycle), begin_s + longest_s * k)
            if i < preset.running_stacks:
                ending = Ending(outcome=Phase.SUCCEEDED, duration_s=preset.running_s)
                self._start(stack, Order(lifecycle=Lifecycle.UPGRADE, ending=ending), EPOCH_S)


def _uuid(rng: Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
