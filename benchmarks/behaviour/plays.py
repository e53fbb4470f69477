"""The scenarios, played with and without the gateway."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random
from typing import Final, assert_never

import msgspec

from benchmarks.behaviour import scenario as scenarios
from benchmarks.behaviour.pollers import Counts, Poller, noticed, poll_until_end
from benchmarks.behaviour.result import Result, Side, errors_in_words
from benchmarks.behaviour.scenario import (
    DIRECT,
    GATEWAY,
    ColdStart,
    Group,
    Mixed,
    Pollers,
    RedisDies,
    Scenario,
    SlowUpstream,
    Throttled,
    Variant,
)
from benchmarks.behaviour.stage import Stage, records, tokens

# A poller without a good response for so many intervals makes no progress.
_SILENT_INTERVALS: Final = 3


async def run(names: Sequence[str] = ()) -> list[Result]:
    """Play scenarios one after the other.

    Args:
        names: of the scenarios; none plays all.

    Raises:
        UnknownScenarioError: there is none of a name.
    """
    wanted = [(name, scenarios.read(name)) for name in names or scenarios.names()]
    results = []
    for name, scenario in wanted:
        print(f"behaviour: {name}", file=sys.stderr, flush=True)
        results.append(await play(name, scenario))
    return results


async def play(name: str, scenario: Scenario) -> Result:
    """Play one scenario.

    Args:
        name: what it is called in the result.
        scenario: what to play.
    """
    match scenario:
        case Mixed():
            sides, seen = await _mixed(scenario)
        case Pollers():
            sides, seen = await _pollers(scenario)
        case ColdStart():
            sides, seen = await _cold_start(scenario)
        case RedisDies():
            sides, seen = await _redis_dies(scenario)
        case SlowUpstream():
            sides, seen = await _slow_upstream(scenario)
        case Throttled():
            sides, seen = await _throttled(scenario)
        case _:
            assert_never(scenario)
    direct = [side.upstream_calls for side in sides if side.name == DIRECT]
    # Of several variants of the gateway, that with the defaults counts.
    with_gateway = [side for side in sides if side.name == GATEWAY]
    with_gateway = with_gateway or [side for side in sides if side.name != DIRECT]
    # Without the gateway each request is a call: where nothing else can happen, that is not measured.
    without = direct or [side.requests for side in with_gateway]
    return Result(
        name=name,
        title=scenario.title,
        parameters=msgspec.to_builtins(scenario),
        calls_without=sum(without),
        calls_with=sum(side.upstream_calls for side in with_gateway),
        sides=sides,
        seen=seen,
    )


async def _mixed(scenario: Mixed) -> tuple[list[Side], str]:
    sides = []
    for name in (DIRECT, GATEWAY):
        with Stage(scenario, Variant(name=name)) as stage:
            report = await stage.offer(scenario.load)
            sides.append(Side.of(name, report, stage.calls()))
    hits = sides[1].by_outcome["hit"] / max(sides[1].answered, 1)
    return sides, f"{hits:.0%} hits from an empty cache on, {errors_in_words(sides[1].errors)}"


async def _cold_start(scenario: ColdStart) -> tuple[list[Side], str]:
    with Stage(scenario, Variant(name=GATEWAY)) as stage:
        sides = [await _offered(stage, name, scenario.load) for name in ("cold", "again")]
    cold, again = (side.by_outcome["hit"] / max(side.answered, 1) for side in sides)
    errors = errors_in_words(sides[0].errors)
    return sides, f"{cold:.0%} hits while it fills, {again:.0%} in the second run; {errors}"


async def _redis_dies(scenario: RedisDies) -> tuple[list[Side], str]:
    with Stage(scenario, Variant(name=GATEWAY)) as stage:
        await _offered(stage, "warming", scenario.load)
        before = await _offered(stage, "before", scenario.load)
        async with asyncio.TaskGroup() as both:
            dies = both.create_task(_offered(stage, "Redis dies", scenario.load))
            both.create_task(_later(scenario.at_s, stage.kill_redis))
        async with asyncio.TaskGroup() as both:
            back = both.create_task(_offered(stage, "Redis comes back", scenario.load))
            both.create_task(_later(scenario.at_s, stage.restart_redis))
    sides = [before, dies.result(), back.result()]
    hits = " → ".join(f"{side.by_outcome['hit'] / max(side.answered, 1):.0%}" for side in sides)
    errors: Counter[str] = sum((Counter(side.errors) for side in sides), Counter())
    return sides, f"hits {hits}; {errors_in_words(errors)}"


async def _slow_upstream(scenario: SlowUpstream) -> tuple[list[Side], str]:
    sides = []
    for name in (DIRECT, GATEWAY):
        with Stage(scenario, Variant(name=name)) as stage:
            await _offered(stage, "warming", scenario.load)
            stage.fault(kind="latency", delay_s=scenario.slower_by_s)
            sides.append(await _offered(stage, name, scenario.load))
    hits = sides[1].by_outcome["hit"] / max(sides[1].answered, 1)
    return sides, f"{hits:.0%} hits wait for nothing, {errors_in_words(sides[1].errors)}"


async def _pollers(scenario: Pollers) -> tuple[list[Side], str]:
    with ExitStack() as stack:
        stages = [stack.enter_context(Stage(scenario, one)) for one in scenario.variants]
        async with asyncio.TaskGroup() as together:
            played = [
                together.create_task(_variant(scenario, variant, stage))
                for variant, stage in zip(scenario.variants, stages, strict=True)
            ]
    by_group = list(zip(*(task.result() for task in played), strict=True))
    seen = (
        f"{sides[0].group}: {_both(sides, 'calls_per_s', 1)} calls/s, {_both(sides, 'refused')} refused,"
        f" noticed by {_both(sides, 'noticed')}"
        for sides in by_group
    )
    return [side for sides in by_group for side in sides], "; ".join(seen)


async def _variant(scenario: Pollers, variant: Variant, stage: Stage) -> list[Side]:
    return [
        await _group(scenario, variant, group, stage, user=f"group-{number}")
        for number, group in enumerate(scenario.groups)
    ]


async def _group(scenario: Pollers, variant: Variant, group: Group, stage: Stage, *, user: str) -> Side:
    # Calls to the twin's control are made in threads: the pollers of other variants must not wait for them.
    await asyncio.to_thread(stage.clear_faults)
    if group.per_second:
        await asyncio.to_thread(stage.fault, kind="throttle", limit=group.per_second)
    counts = Counts()
    first = since = await asyncio.to_thread(stage.used, counts)
    ends_s = await asyncio.to_thread(stage.start_executions, scenario.executions, scenario.before_s)
    all_ended_s = max(ends_s.values())
    shared = tokens(group.tokens, user)
    pollers = [
        Poller(
            # Callers of one token are at different replicas at a time.
            _from(stage.urls, number // len(shared)),
            [target],
            shared[number % len(shared)],
            counts,
            wait_s=variant.wait_s,
        )
        for number in range(scenario.callers)
        for target in ends_s
    ]
    async with asyncio.TaskGroup() as both:
        both.create_task(
            poll_until_end(
                pollers,
                scenario.interval_s,
                until_s=all_ended_s + scenario.after_s,
                reads_after=scenario.reads_after,
            )
        )
        if scenario.settling_s:
            await asyncio.sleep(scenario.settling_s)
            since = await asyncio.to_thread(stage.used, counts)
        await asyncio.sleep(all_ended_s - time.monotonic())
        ended = await asyncio.to_thread(stage.used, counts)
    calls = await asyncio.to_thread(stage.calls)
    per_s = (ended.calls - since.calls) / (all_ended_s - since.at_s)
    polls = max(ended.polls - since.polls, 1)
    figures = {
        "calls_per_s": per_s,
        "calls_per_s_each": per_s / group.tokens / scenario.executions,
        "calls_after_the_end": calls - ended.calls,
        **noticed(pollers, ends_s),
    }
    if variant.name != DIRECT:
        figures["gateway_us"] = (ended.gateway_s - since.gateway_s) / polls * 1e6
    if ended.redis_commands is not None and since.redis_commands is not None:
        figures["redis_commands"] = (ended.redis_commands - since.redis_commands) / polls
    if questions := ended.questions - first.questions:
        figures["iam_questions"] = questions
    return Side.of_pollers(variant.name, counts, calls - first.calls, figures, group.name)


def _from(urls: Sequence[str], first: int) -> Sequence[str]:
    place = first % len(urls)
    return [*urls[place:], *urls[:place]]


async def _throttled(scenario: Throttled) -> tuple[list[Side], str]:
    sides = [await _throttled_side(scenario, name) for name in (DIRECT, GATEWAY)]
    return sides, (
        f"in progress: waiters {_both(sides, 'waiters_in_progress')} of {scenario.waiters},"
        f" dashboards {_both(sides, 'dashboards_in_progress')} of {scenario.dashboards};"
        f" noticed the end {_both(sides, 'noticed')}, p50 after {_both(sides, 'noticed_p50_s', 2)} s,"
        f" the last after {_both(sides, 'noticed_max_s', 2)} s;"
        f" share of 429 {_both(sides, 'refused_share', 2)}"
    )


async def _throttled_side(scenario: Throttled, name: str) -> Side:
    rng = Random("throttled")
    counts = Counts()
    token = tokens(1)[0]
    with Stage(scenario, Variant(name=name)) as stage:
        stage.fault(kind="throttle", limit=scenario.per_second, retry_after_s=1)
        shown = records().settled[: scenario.records]
        rounds = [_from(shown, number) for number in range(scenario.dashboards)]
        dashboards = [Poller(stage.urls, targets, token, counts) for targets in rounds]
        ends_s = stage.start_executions(scenario.waiters, scenario.before_s)
        waiters = [Poller(stage.urls, [target], token, counts) for target in ends_s]
        began_s, ended_s = time.monotonic(), max(ends_s.values())
        # The first half is for filling the cache.
        steady_s = (began_s + ended_s) / 2
        until_s = ended_s + scenario.after_s
        async with asyncio.TaskGroup() as group:
            for poller in dashboards:
                group.create_task(
                    poller.poll(scenario.dashboard_interval_s, rng, until_s=until_s, stops_at_end=False)
                )
            group.create_task(poll_until_end(waiters, scenario.waiter_interval_s, until_s=until_s))
        calls = stage.calls()
    for poller in dashboards:
        poller.close()
    return Side.of_pollers(
        name,
        counts,
        calls,
        {
            "waiters_in_progress": _in_progress(waiters, scenario.waiter_interval_s, steady_s, ended_s),
            "dashboards_in_progress": _in_progress(
                dashboards, scenario.dashboard_interval_s, steady_s, ended_s
            ),
            **noticed(waiters, ends_s),
        },
    )


async def _offered(stage: Stage, name: str, load: scenarios.Load) -> Side:
    calls_before = stage.calls()
    report = await stage.offer(load)
    return Side.of(name, report, stage.calls() - calls_before)


def _both(sides: Sequence[Side], figure: str, digits: int = 0) -> str:
    """Return one figure of each side as text; a dash where there is none."""
    values = (side.figures.get(figure) for side in sides)
    return " → ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


async def _later(delay_s: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(delay_s)
    await asyncio.to_thread(act)


def _in_progress(pollers: Sequence[Poller], interval_s: float, began_s: float, ended_s: float) -> float:
    allowed_s = _SILENT_INTERVALS * interval_s
    return sum(poller.longest_silence_s(began_s, ended_s) <= allowed_s for poller in pollers)
