"""The scenarios, played with and without the gateway."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, assert_never

import msgspec

from benchmarks.behaviour import scenario as scenarios
from benchmarks.behaviour.pollers import Counts, Poller
from benchmarks.behaviour.result import Result, Side, errors_in_words
from benchmarks.behaviour.scenario import (
    ColdStart,
    Herd,
    Mixed,
    RedisDies,
    Scenario,
    SlowUpstream,
    Throttled,
)
from benchmarks.behaviour.stage import Stage, records, tokens
from benchmarks.openloop.report import Quantiles

# A poller without a good response for so many intervals makes no progress.
_SILENT_INTERVALS: Final = 3
_ENDS: Final = 15.0


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
        case Herd():
            sides, seen = await _herd(scenario)
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
    with_gateway = [side for side in sides if side.name != "direct"]
    direct = [side.upstream_calls for side in sides if side.name == "direct"]
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
    for name in ("direct", "gateway"):
        with Stage(scenario, has_gateway=name != "direct") as stage:
            report = await stage.offer(scenario.load)
            sides.append(Side.of(name, report, stage.calls()))
    hits = sides[1].by_outcome["hit"] / max(sides[1].answered, 1)
    return sides, f"{hits:.0%} hits from an empty cache on, {errors_in_words(sides[1].errors)}"


async def _cold_start(scenario: ColdStart) -> tuple[list[Side], str]:
    with Stage(scenario, has_gateway=True) as stage:
        sides = [await _offered(stage, name, scenario.load) for name in ("cold", "again")]
    cold, again = (side.by_outcome["hit"] / max(side.answered, 1) for side in sides)
    errors = errors_in_words(sides[0].errors)
    return sides, f"{cold:.0%} hits while it fills, {again:.0%} in the second run; {errors}"


async def _redis_dies(scenario: RedisDies) -> tuple[list[Side], str]:
    with Stage(scenario, has_gateway=True) as stage:
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
    for name in ("direct", "gateway"):
        with Stage(scenario, has_gateway=name != "direct") as stage:
            await _offered(stage, "warming", scenario.load)
            stage.fault(kind="latency", delay_s=scenario.slower_by_s)
            sides.append(await _offered(stage, name, scenario.load))
    hits = sides[1].by_outcome["hit"] / max(sides[1].answered, 1)
    return sides, f"{hits:.0%} hits wait for nothing, {errors_in_words(sides[1].errors)}"


async def _herd(scenario: Herd) -> tuple[list[Side], str]:
    sides = [await _herd_side(scenario, name) for name in ("direct", "gateway")]
    return sides, (
        f"upstream answers after the end {_both(sides, 'answers_after_the_end')};"
        f" noticed by {_both(sides, 'noticed')}, p50 after {_both(sides, 'noticed_p50_s', 2)} s,"
        f" the last after {_both(sides, 'noticed_max_s', 2)} s; {errors_in_words(sides[1].errors)}"
    )


async def _herd_side(scenario: Herd, name: str) -> Side:
    rng = Random("herd")
    counts = Counts()
    with Stage(scenario, has_gateway=name != "direct") as stage:
        callers = tokens(scenario.callers)
        pollers = [
            Poller(stage.url, records().running[:1], callers[number % len(callers)], counts)
            for number in range(scenario.pollers)
        ]
        until_s = time.monotonic() + scenario.before_s + _ENDS

        async def wait_and_read(poller: Poller) -> None:
            await poller.poll(scenario.interval_s, rng, until_s=until_s, stops_at_end=True)
            for _ in range(scenario.reads_after):
                await poller.ask()

        async with asyncio.TaskGroup() as group:
            for poller in pollers:
                group.create_task(wait_and_read(poller))
            await asyncio.sleep(scenario.before_s)
            # Calls under way at the end count too, by the time of their response.
            answers_before = stage.answers()
            stage.end_executions()
            ended_s = time.monotonic()
        calls, answers = stage.calls(), stage.answers()
    _close(pollers)
    return _side(
        name,
        counts,
        calls,
        answers_after_the_end=answers - answers_before,
        **_noticed(pollers, ended_s),
    )


async def _throttled(scenario: Throttled) -> tuple[list[Side], str]:
    sides = [await _throttled_side(scenario, name) for name in ("direct", "gateway")]
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
    known = records()
    with Stage(scenario, has_gateway=name != "direct") as stage:
        stage.fault(kind="throttle", limit=scenario.per_second, retry_after_s=1)
        shown = known.settled[: scenario.records]
        starts = [number % len(shown) for number in range(scenario.dashboards)]
        rounds = [[*shown[start:], *shown[:start]] for start in starts]
        dashboards = [Poller(stage.url, targets, token, counts) for targets in rounds]
        waiters = [Poller(stage.url, [target], token, counts) for target in known.running[: scenario.waiters]]
        began_s = time.monotonic()
        # The first half is for filling the cache.
        steady_s = began_s + scenario.before_s / 2
        until_s = began_s + scenario.before_s + scenario.after_s
        async with asyncio.TaskGroup() as group:
            for poller in dashboards:
                group.create_task(
                    poller.poll(scenario.dashboard_interval_s, rng, until_s=until_s, stops_at_end=False)
                )
            for poller in waiters:
                group.create_task(
                    poller.poll(scenario.waiter_interval_s, rng, until_s=until_s, stops_at_end=True)
                )
            await asyncio.sleep(scenario.before_s)
            stage.end_executions()
            ended_s = time.monotonic()
        calls = stage.calls()
    _close([*dashboards, *waiters])
    return _side(
        name,
        counts,
        calls,
        waiters_in_progress=_in_progress(waiters, scenario.waiter_interval_s, steady_s, ended_s),
        dashboards_in_progress=_in_progress(dashboards, scenario.dashboard_interval_s, steady_s, ended_s),
        refused_share=counts.by_status[429] / max(counts.asked, 1),
        **_noticed(waiters, ended_s),
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


def _noticed(pollers: Sequence[Poller], ended_s: float) -> dict[str, float]:
    delays_s = [poller.noticed_s - ended_s for poller in pollers if poller.noticed_s is not None]
    if not delays_s:
        return {"noticed": 0}
    return {
        "noticed": len(delays_s),
        "noticed_p50_s": statistics.median(delays_s),
        "noticed_max_s": max(delays_s),
    }


def _side(name: str, counts: Counts, calls: int, **figures: float) -> Side:
    return Side(
        name=name,
        requests=counts.asked,
        answered=sum(counts.by_status.values()),
        errors=dict(counts.errors),
        by_outcome={outcome: counts.by_outcome[outcome] for outcome in ("hit", "miss", "bypass", "none")},
        upstream_calls=calls,
        latency_ms=Quantiles.of(counts.latency),
        figures=figures,
    )


def _close(pollers: Sequence[Poller]) -> None:
    for poller in pollers:
        poller.close()
