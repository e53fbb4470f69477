"""The scenarios as they stand in ``benchmarks/scenarios/behaviour``."""

from pathlib import Path
from typing import Annotated, Final

import msgspec

FOLDER: Final = Path(__file__).parent.parent / "scenarios" / "behaviour"

DIRECT: Final = "direct"
GATEWAY: Final = "gateway"

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class UnknownScenarioError(ValueError):
    """There is no scenario of that name, or its file cannot be read; the text is one line."""


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the open-loop generator offers.

    Attributes:
        rate_per_s: requests a second.
        duration_s: length of the schedule.
        connections: open at most so many.
        callers: tokens; each caller's entries are its own, and requests are spread evenly over callers.
        records: settled records that are asked for.
        zipf: exponent of their popularity; 0 asks for all alike.
        running_share: share of the requests that ask for running executions.
    """

    rate_per_s: _Positive
    duration_s: _Positive
    connections: _Count = 64
    callers: _Count = 1
    records: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 1000
    zipf: _Seconds = 0.0
    running_share: _Share = 0.0


class _Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all scenarios have.

    Attributes:
        title: what is to be seen.
        quick: part of quick runs.
        with_redis: whether the gateway has a Redis.
        settings: configuration of the gateway by ``section.key``, beside the defaults.
        upstream_delay_s: how long the upstream takes for each answer.
    """

    title: str
    quick: bool = False
    with_redis: bool = True
    upstream_delay_s: _Seconds = 0.0
    settings: dict[str, str] = {}


class Mixed(_Scenario, frozen=True, kw_only=True, tag="mixed"):
    """Settled and running executions, from an empty cache on."""

    load: Load


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The callers of one run of `Pollers`, all of one user.

    Attributes:
        name: in tables.
        tokens: that they share.
        per_second: calls of the user that the upstream answers in a second; beyond it comes 429 as from
            Huawei's gateway, without ``Retry-After``; 0 for no limit.
    """

    name: str
    tokens: _Count = 1
    per_second: Annotated[int, msgspec.Meta(ge=0)] = 0


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the callers of `Pollers` ask, and how.

    Attributes:
        name: in tables; `DIRECT` is the upstream itself.
        replicas: gateways, each a process of its own, that every caller asks in turn.
        with_redis: whether they have a Redis, where the scenario has one.
        settings: configuration of the gateway by ``section.key``, beside the scenario's.
        wait_s: callers send ``Prefer: wait`` with so many seconds; 0 polls.
    """

    name: str
    replicas: _Count = 1
    with_redis: bool = True
    settings: dict[str, str] = {}
    wait_s: Annotated[int, msgspec.Meta(ge=0, le=600)] = 0


class Pollers(_Scenario, frozen=True, kw_only=True, tag="pollers"):
    """Callers poll executions until these have ended: each group in each variant, on executions of its own.

    Attributes:
        callers: pollers of each execution.
        executions: that run at the same time.
        interval_s: of each poller.
        settling_s: at the beginning, left out of what is told of a second and of a poll.
        before_s: until the executions end; longer than `settling_s`.
        after_s: how long the pollers then have to notice.
        reads_after: how often each reads the record again at once.
        groups: played one after the other.
        variants: played at the same time, each with an upstream of its own.
    """

    callers: _Count
    executions: _Count = 1
    interval_s: _Positive
    settling_s: _Seconds = 0.0
    before_s: _Positive
    after_s: _Positive
    reads_after: Annotated[int, msgspec.Meta(ge=0)] = 0
    groups: Annotated[tuple[Group, ...], msgspec.Meta(min_length=1)]
    variants: Annotated[tuple[Variant, ...], msgspec.Meta(min_length=1)] = (
        Variant(name=DIRECT),
        Variant(name=GATEWAY),
    )


class ColdStart(_Scenario, frozen=True, kw_only=True, tag="cold-start"):
    """Many distinct records from an empty cache, and the same load once more.

    Attributes:
        load: what is offered twice.
    """

    load: Load


class RedisDies(_Scenario, frozen=True, kw_only=True, tag="redis-dies"):
    """Redis is killed in mid-run, and started again, empty, in the next run.

    Attributes:
        load: offered three times: before, while Redis dies, while it comes back.
        at_s: when in its run it is killed or started.
    """

    load: Load
    at_s: _Positive


class SlowUpstream(_Scenario, frozen=True, kw_only=True, tag="slow-upstream"):
    """The upstream becomes slow once the cache is warm.

    Attributes:
        load: offered once to warm the cache, and once with the slow upstream.
        slower_by_s: what is then added to each of the upstream's answers.
    """

    load: Load
    slower_by_s: _Positive


class Throttled(_Scenario, frozen=True, kw_only=True, tag="throttled"):
    """The upstream refuses what one user asks beyond its limit: dashboards and waiters share it.

    Attributes:
        per_second: calls of the user that are answered; beyond it comes 429 with ``Retry-After: 1``.
        dashboards: pollers that read settled records, one after the other.
        records: how many records all of them go round, each from another one on.
        dashboard_interval_s: of their reads.
        waiters: pollers of a running execution each.
        waiter_interval_s: of their polls.
        before_s: until the executions end; progress is assessed in its second half.
        after_s: how long the waiters then have to notice.
    """

    per_second: _Count
    dashboards: _Count
    records: _Count
    dashboard_interval_s: _Positive
    waiters: _Count
    waiter_interval_s: _Positive
    before_s: _Positive
    after_s: _Positive


Scenario = Mixed | Pollers | ColdStart | RedisDies | SlowUpstream | Throttled


def names(*, quick: bool = False) -> list[str]:
    """Return the names of all scenarios, or of those of quick runs.

    Raises:
        UnknownScenarioError: one cannot be read.
    """
    all_names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    return [name for name in all_names if read(name).quick] if quick else all_names


def read(name: str) -> Scenario:
    """Read one scenario.

    Raises:
        UnknownScenarioError: there is none of that name, or it cannot be read.
    """
    if name not in (known := names()):
        raise UnknownScenarioError(f"unknown scenario {name[:80]!r}; choose one of {', '.join(known)}")
    path = FOLDER / f"{name}.toml"
    try:
        scenario: Scenario = msgspec.toml.decode(path.read_bytes(), type=Scenario)
    except msgspec.DecodeError as exc:
        raise UnknownScenarioError(f"{path.name}: {exc}") from exc
    return scenario
