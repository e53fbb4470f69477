"""The behaviour scenarios: their files, and two of them played small, with real processes."""

import time
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest

from benchmarks.behaviour import play, table
from benchmarks.behaviour import scenario as scenarios
from benchmarks.behaviour.pollers import Counts, Poller
from benchmarks.behaviour.scenario import Herd, Load, Mixed, UnknownScenarioError
from benchmarks.behaviour.stage import targets
from tests.testbed.aos import TARGET, Answer, ScriptedAos, close_unanswered, record


def test_every_scenario_can_be_read() -> None:
    kinds = Counter(type(scenarios.read(name)).__name__ for name in scenarios.names())
    assert kinds == Counter(["Mixed", "Herd", "ColdStart", "RedisDies", "SlowUpstream", "Throttled"])


def test_a_scenario_that_is_not_there_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownScenarioError, match="choose one of cold-start, herd"):
        scenarios.read("nothing")


def test_a_scenario_with_an_unknown_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typo.toml").write_text('kind = "herd"\ntitle = "t"\npolers = 3\n')
    monkeypatch.setattr(scenarios, "FOLDER", tmp_path)
    with pytest.raises(UnknownScenarioError, match=r"typo\.toml: .*polers"):
        scenarios.read("typo")


def test_a_load_is_spread_over_callers_and_keeps_its_shares() -> None:
    load = Load(rate_per_s=1, duration_s=1, callers=3, records=50, zipf=1.0, running_share=0.1)
    asked = targets(load)
    weights: Counter[str | None] = Counter()
    for target in asked:
        weights[target.token] += target.weight  # type: ignore[assignment]
    assert list(weights.values()) == pytest.approx([1.0, 1.0, 1.0])
    one = [target.weight for target in asked if target.token == asked[0].token]
    assert len(one) == 50 + 20
    assert one[0] == pytest.approx(2 * one[1])
    assert sum(one[50:]) == pytest.approx(0.1)


async def test_a_herd_reaches_the_upstream_once_for_each_caller_at_most() -> None:
    herd = Herd(
        title="small",
        with_redis=False,
        pollers=12,
        callers=2,
        interval_s=0.2,
        before_s=0.4,
        reads_after=3,
    )
    result = await play("small", herd)
    direct, gateway = result.sides
    assert (direct.upstream_calls, direct.answered) == (direct.requests, direct.requests)
    # Beside one for each caller: what was answered between the count and the end.
    assert direct.figures["answers_after_the_end"] >= 12 * 4
    assert gateway.figures["answers_after_the_end"] <= 2 + 2
    assert gateway.figures["noticed"] == direct.figures["noticed"] == 12
    assert (direct.errors, gateway.errors) == ({}, {})
    assert result.calls_with < result.calls_without
    assert "small" in table([result]).splitlines()[-1]
    assert msgspec.json.decode(msgspec.json.encode(result.as_json()))["saved"] == round(result.saved, 4)


async def test_a_mixed_load_is_offered_by_a_process_of_its_own_with_and_without_the_gateway() -> None:
    load = Load(rate_per_s=300, duration_s=0.25, records=5, running_share=0.2)
    result = await play("small", Mixed(title="small", with_redis=False, load=load))
    direct, gateway = result.sides
    assert direct.upstream_calls == direct.requests == direct.answered == gateway.answered > 40
    assert gateway.by_outcome["hit"] > 0
    # Misses that shared a fetch are no calls.
    assert gateway.upstream_calls <= gateway.by_outcome["miss"]
    assert gateway.by_outcome["hit"] + gateway.by_outcome["miss"] == gateway.answered
    assert 0 < result.calls_with < result.calls_without


async def poll(aos: ScriptedAos, *, interval_s: float, for_s: float) -> tuple[Poller, Counts]:
    """Have one poller wait for the end of an execution, for a while."""
    counts = Counts()
    poller = Poller(aos.url, [TARGET], "t", counts)
    until_s = time.monotonic() + for_s
    await poller.poll(interval_s, Random(1), until_s=until_s, stops_at_end=True)
    poller.close()
    return poller, counts


async def test_a_poller_that_was_refused_obeys_retry_after(aos: ScriptedAos) -> None:
    aos.answer(Answer(429, headers=[("Retry-After", "1")], body=b"{}"))
    poller, counts = await poll(aos, interval_s=0.01, for_s=0.3)
    assert len(aos.received) == counts.asked == 1
    assert counts.errors == {"status-4xx": 1}
    assert poller.noticed_s is None


async def test_a_poller_goes_on_until_the_phase_is_terminal(aos: ScriptedAos) -> None:
    aos.queue(
        Answer(body=record("Running")),
        close_unanswered,
        Answer(503, headers=[("Connection", "close")], body=b"{}"),
        Answer(body=record("Running"), framing="close"),
        Answer(body=record("Succeeded"), headers=[("Cache-Status", "aos-gateway; hit; ttl=1")]),
    )
    poller, counts = await poll(aos, interval_s=0.01, for_s=10.0)
    assert len(aos.received) == counts.asked == 5
    assert counts.by_status == {200: 3, 503: 1}
    assert counts.errors == {"EOFError": 1, "status-5xx": 1}
    assert counts.by_outcome == {"none": 3, "hit": 1}
    assert poller.noticed_s == poller.answered_s[-1]
    began_s, *_, ended_s = poller.answered_s
    assert 0 < poller.longest_silence_s(began_s, ended_s) < ended_s - began_s
