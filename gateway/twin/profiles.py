"""Named profiles of the twin: how long executions take, how they end, and the twin's bounds."""

from typing import Final

import msgspec

from gateway.twin.faults import Throttle
from gateway.twin.lifecycle import Pace
from gateway.twin.phases import Phase

# A fixed start makes timestamps repeat: 2024-01-01T00:00:00Z.
EPOCH_S: Final = 1_704_067_200.0


class TwinError(Exception):
    """The twin cannot start; the text is one line with the reason and the remedy."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """What exists before the first request.

    Attributes:
        project: the project that owns all of it; token "<project>:anything" sees it.
        executions_per_stack: finished executions of each stack.
        running_stacks: how many of the stacks have one more execution that is still running.
        running_s: how long those continue from the start of the twin, seconds.
    """

    project: str
    stacks: int
    executions_per_stack: int
    running_stacks: int
    running_s: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One named way for the twin to behave.

    Attributes:
        delete_pace: how long a delete takes until the stack is gone.
        cancel_s: from a cancel call to the end of the execution, seconds.
        outcome_shares: how executions end; the shares need not add up to 1.
        sub_objects: least and greatest number of elements of a stack.
        latency_s: added to every response, drawn uniformly from this range, seconds.
        status_delay_s: a record younger than this has no `status` yet, seconds.
        with_kind: whether records have `kind` and `apiVersion` (published examples differ).
        compact: JSON without white space; otherwise indented by two.
        max_stacks: bound of stacks over all projects.
        max_executions_per_stack: bound of records kept for a stack; the oldest go first.
        throttles: limits of the API gateway from the start, faults like any other.
    """

    name: str
    pace: Pace
    delete_pace: Pace
    cancel_s: float = 1.0
    outcome_shares: tuple[tuple[Phase, float], ...] = ((Phase.SUCCEEDED, 1.0),)
    sub_objects: tuple[int, int] = (3, 3)
    latency_s: tuple[float, float] = (0.0, 0.0)
    status_delay_s: float = 0.0
    with_kind: bool = True
    compact: bool = False
    max_stacks: int = 1_000
    max_executions_per_stack: int = 100
    throttles: tuple[Throttle, ...] = ()
    preset: Preset | None = None


DEMO: Final = Profile(
    name="demo",
    # 6.1 to 7.9 s in all: long enough to watch, short enough to wait for.
    pace=Pace(pending_s=(0.9, 1.2), running_s=(5.2, 6.7)),
    delete_pace=Pace(pending_s=(0.3, 0.5), running_s=(2.0, 3.0)),
)

LOAD: Final = Profile(
    name="load",
    pace=Pace(pending_s=(0.2, 0.5), running_s=(2.0, 5.0)),
    delete_pace=Pace(pending_s=(0.1, 0.2), running_s=(0.5, 1.0)),
    outcome_shares=((Phase.SUCCEEDED, 0.9), (Phase.FAILED, 0.07), (Phase.CANCELLED, 0.03)),
    compact=True,
    max_stacks=5_000,
    # Six days: in a long measurement a running record must not settle by itself.
    preset=Preset(
        project="load", stacks=200, executions_per_stack=10, running_stacks=20, running_s=518_400.0
    ),
)

REALISTIC: Final = Profile(
    name="realistic",
    pace=Pace(pending_s=(1.0, 5.0), running_s=(30.0, 180.0)),
    delete_pace=Pace(pending_s=(1.0, 5.0), running_s=(20.0, 120.0)),
    cancel_s=10.0,
    outcome_shares=((Phase.SUCCEEDED, 0.9), (Phase.FAILED, 0.07), (Phase.CANCELLED, 0.03)),
    sub_objects=(2, 6),
    latency_s=(0.04, 0.12),
    status_delay_s=0.5,
    with_kind=False,
    compact=True,
)

# Limits of the real API gateways, which send no Retry-After: those of AOS, and IAM's.
THROTTLED: Final = msgspec.structs.replace(
    DEMO,
    name="throttled",
    throttles=(
        Throttle(path="/v2*", limit=200, window_s=300),
        Throttle(path="/v2*", limit=5, per="ip"),
        Throttle(path="/v3/*", limit=5, per="ip"),
    ),
)

PROFILES: Final = {profile.name: profile for profile in (DEMO, LOAD, REALISTIC, THROTTLED)}


def profile_named(name: str) -> Profile:
    """Return the profile of that name; raise `TwinError` when there is none."""
    profile = PROFILES.get(name)
    if profile is None:
        raise TwinError(f"unknown twin profile {name[:80]!r}; choose one of {', '.join(PROFILES)}")
    return profile
