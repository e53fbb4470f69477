"""The life of one execution as a plan: what it looks like at any moment is a pure function of time."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Final

import msgspec

from gateway.twin.phases import BEFORE_END, SUB_OUTCOMES, Phase

_PROGRESS_STEPS: Final = 10
# The object ends this share of its running time after its last sub-object.
_TAIL_SHARE: Final = (0.06, 0.14)
# An execution that does not succeed stops at this share of its way.
_STOP_SHARE: Final = (0.3, 0.9)


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long an execution is pending, and then runs to a successful end: each drawn evenly from a range."""

    pending_s: tuple[float, float]
    running_s: tuple[float, float]


class SubPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one sub-object goes through; it is not listed before `starts_s`."""

    name: str
    starts_s: float
    settles_s: float
    outcome: Phase


class Plan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What one execution goes through, in modelled Unix seconds.

    Attributes:
        created_s: when the record appears, as Pending.
        running_s: when it turns to Running.
        winding_down_s: when it turns to Cancelling or Pausing; None when it does not.
        ends_s: when it reaches `outcome`; later than every sub-object's end.
        progress: pairs of a time and the percentage reached then, both growing.
    """

    created_s: float
    running_s: float
    winding_down_s: float | None
    ends_s: float
    outcome: Phase
    progress: tuple[tuple[float, int], ...]
    subs: tuple[SubPlan, ...]

    @cached_property
    def changes_s(self) -> tuple[float, ...]:
        """Every moment at which something visible changes, growing."""
        moments = {self.created_s, self.running_s, self.ends_s, *(at_s for at_s, _ in self.progress)}
        for sub in self.subs:
            moments.update((sub.starts_s, sub.settles_s))
        if self.winding_down_s is not None:
            moments.add(self.winding_down_s)
        return tuple(sorted(moments))


class SubView(msgspec.Struct, frozen=True, kw_only=True):
    """A sub-object at one moment."""

    name: str
    phase: Phase
    created_s: float
    updated_s: float


class View(msgspec.Struct, frozen=True, kw_only=True):
    """An execution at one moment; `changes`, how often it has changed since its creation, never shrinks."""

    phase: Phase
    progress: int
    updated_s: float
    subs: tuple[SubView, ...]
    changes: int


def draw_plan(
    rng: Random,
    pace: Pace,
    outcome: Phase,
    names: Sequence[str],
    *,
    created_s: float,
    total_s: float | None = None,
) -> Plan:
    """Draw how an execution will go.

    Args:
        rng: the source of all chance; the same state gives the same plan.
        pace: how long a successful execution takes; others stop on the way.
        outcome: a key of `SUB_OUTCOMES`.
        names: the sub-objects in the order in which they start.
        total_s: time from creation to a successful end, seconds; None to draw it.
    """
    pending, running = rng.uniform(*pace.pending_s), rng.uniform(*pace.running_s)
    scale = 1.0 if total_s is None else total_s / (pending + running)
    running_s = created_s + pending * scale
    tail = running * scale * rng.uniform(*_TAIL_SHARE)
    work = running * scale - tail
    stop_s = running_s + work * (1.0 if outcome is Phase.SUCCEEDED else rng.uniform(*_STOP_SHARE))
    winding_down_s = running_s + (stop_s - running_s) * 0.8 if outcome in BEFORE_END else None
    steps = [
        (running_s + work * k / _PROGRESS_STEPS, 100 * k // _PROGRESS_STEPS)
        for k in range(1, _PROGRESS_STEPS + 1)
    ]
    steps[-1] = (running_s + work, 100)
    last_step_s = stop_s if winding_down_s is None else winding_down_s
    return Plan(
        created_s=created_s,
        running_s=running_s,
        winding_down_s=winding_down_s,
        ends_s=stop_s + tail,
        outcome=outcome,
        progress=tuple(step for step in steps if step[0] <= last_step_s),
        subs=_draw_subs(rng, names, outcome, running_s=running_s, work_s=work, stop_s=stop_s),
    )


def cancelled(plan: Plan, now_s: float, linger_s: float) -> Plan:
    """Return the plan of an execution that has not ended and is cancelled: `linger_s` later it has ended."""
    return msgspec.structs.replace(
        plan,
        running_s=min(plan.running_s, now_s),
        winding_down_s=now_s,
        ends_s=now_s + linger_s,
        outcome=Phase.CANCELLED,
        progress=tuple(step for step in plan.progress if step[0] <= now_s),
        subs=tuple(
            sub
            if sub.settles_s <= now_s
            else msgspec.structs.replace(sub, settles_s=now_s + linger_s / 2, outcome=Phase.CANCELLED)
            for sub in plan.subs
            if sub.starts_s <= now_s
        ),
    )


def view_at(plan: Plan, now_s: float) -> View:
    """Return what an execution looks like at a moment not before its creation."""
    changes = bisect_right(plan.changes_s, now_s)
    reached = bisect_right(plan.progress, now_s, key=lambda step: step[0])
    return View(
        phase=_phase_at(plan, now_s),
        progress=plan.progress[reached - 1][1] if reached else 0,
        updated_s=plan.changes_s[max(changes - 1, 0)],
        subs=tuple(_sub_at(sub, now_s) for sub in plan.subs if sub.starts_s <= now_s),
        changes=changes,
    )


def _phase_at(plan: Plan, now_s: float) -> Phase:
    if now_s >= plan.ends_s:
        return plan.outcome
    if plan.winding_down_s is not None and now_s >= plan.winding_down_s:
        return BEFORE_END[plan.outcome]
    return Phase.RUNNING if now_s >= plan.running_s else Phase.PENDING


def _sub_at(sub: SubPlan, now_s: float) -> SubView:
    has_settled = now_s >= sub.settles_s
    return SubView(
        name=sub.name,
        phase=sub.outcome if has_settled else Phase.RUNNING,
        created_s=sub.starts_s,
        updated_s=sub.settles_s if has_settled else sub.starts_s,
    )


def _draw_subs(
    rng: Random, names: Sequence[str], outcome: Phase, *, running_s: float, work_s: float, stop_s: float
) -> tuple[SubPlan, ...]:
    """Draw sub-objects that start one after another, overlapping; the last settles with the execution."""
    subs = []
    for i, name in enumerate(names):
        starts_s = running_s + work_s * i / (len(names) + 1)
        if starts_s >= stop_s:
            break
        is_last = i == len(names) - 1
        settles_s = running_s + work_s * (1.0 if is_last else (i + rng.uniform(1.5, 2.0)) / (len(names) + 1))
        is_done = settles_s < stop_s
        subs.append(
            SubPlan(
                name=name,
                starts_s=starts_s,
                settles_s=settles_s if is_done else stop_s,
                outcome=Phase.SUCCEEDED if is_done else SUB_OUTCOMES[outcome],
            )
        )
    return tuple(subs)
