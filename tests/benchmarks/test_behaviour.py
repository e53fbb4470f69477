"""The behaviour scenarios: their files, and some of them played small, with real processes."""

import time
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest

from benchmarks.behaviour import play, table
from benchmarks.behaviour import scenario as scenarios
from benchmarks.behaviour.pollers import Counts, Poller
from benchmarks.behaviour.scenario import Group, Load, Mixed, Pollers, UnknownScenarioError, Variant
from benchmarks.behaviour.stage import targets
from benchmarks.report import polls
from tests.testbed.aos import TARGET, Answer, ScriptedAos, close_unanswered, record
from tests.testbed.tls import Authority


def test_every_scenario_can_be_read() -> None:
    kinds = Counter(type(scenarios.read(name)).__name__ for name in scenarios.names())
    kinds_of_one = ["Mixed", "ColdStart", "RedisDies", "SlowUpstream", "Throttled"]
    assert kinds == Counter(dict.fromkeys(kinds_of_one, 1) | {"Pollers": 4})


def test_quick_runs_play_the_pollers_alone() -> None:
    assert scenarios.names(quick=True) == ["pollers"]


def test_a_scenario_that_is_not_there_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownScenarioError, match="choose one of cold-start, fleet, herd"):
        scenarios.read("nothing")


def test_a_scenario_with_an_unknown_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typo.toml").write_text('kind = "pollers"\ntitle = "t"\ncalers = 3\n')
    monkeypatch.setattr(scenarios, "FOLDER", tmp_path)
    with pytest.raises(UnknownScenarioError, match=r"typo\.toml: .*calers"):
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


async def test_pollers_cost_a_call_an_interval_or_one_each_and_notice_the_end() -> None:
    bound = {"cache.ttl_running_s": "0.5", "wait.interval_s": "0.5"}
    pollers = Pollers(
        title="small",
        with_redis=False,
        callers=8,
        executions=2,
        interval_s=0.2,
        before_s=1.1,
        after_s=3,
        reads_after=1,
        groups=(Group(name="throttled", per_second=10), Group(name="a token each", tokens=8)),
        variants=(
            Variant(name="direct"),
            Variant(name="bounded age", settings=bound),
            Variant(name="waiting", settings=bound, wait_s=20),
        ),
    )
    result = await play("small", pollers)
    names = [(side.group, side.name) for side in result.sides]
    assert names == [(group.name, one.name) for group in pollers.groups for one in pollers.variants]
    direct, bounded, waiting, direct_each, bounded_each, waiting_each = result.sides
    for side in (direct, direct_each):
        assert side.upstream_calls == side.requests == side.answered
    # Sixteen pollers of two executions: a call at 0, 0.5, 1.0 and 1.5 s for each execution.
    assert 2 * 2 <= bounded.upstream_calls <= 2 * 4 < bounded.requests
    assert 2 * 2 <= waiting.upstream_calls <= 2 * 4
    # One that waits, and one that reads afterwards.
    assert waiting.requests == waiting_each.requests == 16 * 2
    assert direct.figures["refused"] > 0
    assert [side.errors for side in (bounded, waiting, direct_each, bounded_each, waiting_each)] == [{}] * 5
    assert bounded.upstream_calls < bounded_each.upstream_calls < direct_each.upstream_calls
    assert [side.figures["noticed"] for side in result.sides[1:]] == [16] * 5
    for side in result.sides:
        before_the_end = side.upstream_calls - side.figures["calls_after_the_end"]
        assert 0 < before_the_end < side.upstream_calls
        assert side.figures["calls_per_s"] <= before_the_end / pollers.before_s
    assert max(side.figures["noticed_max_s"] for side in (bounded, waiting)) < 1.5
    assert result.calls_without == direct.upstream_calls + direct_each.upstream_calls > result.calls_with
    assert "small" in table([result]).splitlines()[-1]
    assert msgspec.json.decode(msgspec.json.encode(result.as_json()))["saved"] == round(result.saved, 4)
    _, rows = polls.columns(result.as_json()["sides"])
    assert [row[:2] for row in rows] == [list(name) for name in names]


async def test_replicas_are_asked_in_turn_and_what_a_poll_costs_is_told_when_all_has_settled() -> None:
    pollers = Pollers(
        title="small",
        callers=8,
        interval_s=0.1,
        settling_s=0.8,
        before_s=2.3,
        after_s=3,
        settings={"cache.ttl_running_s": "0.5", "redis.timeout_s": "1.0"},
        groups=(Group(name="two tokens", tokens=2),),
        variants=(
            Variant(name="direct"),
            Variant(name="gateway", replicas=2),
            Variant(name="alone", replicas=2, with_redis=False),
            Variant(name="by user", with_redis=False, settings={"identity.by": "user"}),
        ),
    )
    result = await play("small", pollers)
    direct, shared, alone, by_user = result.sides
    # Two tokens, an interval of half a second: four calls a second at most, of all replicas or of each.
    assert [side.errors for side in result.sides] == [{}] * 4
    assert 1.2 * shared.figures["calls_per_s"] < alone.figures["calls_per_s"]
    assert shared.figures["calls_per_s"] < 5
    assert by_user.figures["calls_per_s"] < 3.5
    assert direct.figures["calls_per_s_each"] == direct.figures["calls_per_s"] / 2 > 20
    assert ["gateway_us" in side.figures for side in result.sides] == [False, True, True, True]
    assert ["redis_commands" in side.figures for side in result.sides] == [False, True, False, False]
    assert 0 < shared.figures["redis_commands"] < 10
    assert 0 <= shared.figures["gateway_us"] < 10_000
    # IAM is asked while it settles.
    assert by_user.figures["iam_questions"] == 2
    assert "iam_questions" not in shared.figures
    heads, rows = polls.columns(result.as_json()["sides"])
    assert heads[-3:] == ["gateway's CPU a poll", "Redis commands a poll", "questions to IAM"]
    assert rows[0][-3:] == ["–", "–", "–"]


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


async def poll(
    aos: ScriptedAos, *, interval_s: float, for_s: float, wait_s: int = 0
) -> tuple[Poller, Counts]:
    """Have one poller wait for the end of an execution, for a while."""
    counts = Counts()
    poller = Poller([aos.url], [TARGET], "t", counts, wait_s=wait_s)
    until_s = time.monotonic() + for_s
    await poller.poll(interval_s, Random(1), until_s=until_s, stops_at_end=True)
    poller.close()
    return poller, counts


async def test_a_poller_takes_servers_and_targets_in_turn(aos: ScriptedAos) -> None:
    async with ScriptedAos() as other:
        counts = Counts()
        poller = Poller([aos.url, f"{other.url}/base"], ["/1", "/2", "/3"], None, counts)
        aos.queue(close_unanswered)
        for one in (aos, other):
            one.answer(Answer(body=record("Running")))
        for _ in range(6):
            await poller.ask()
        poller.close()
    assert [received.target for received in aos.received] == ["/1", "/3", "/2"]
    assert [received.target for received in other.received] == ["/base/2", "/base/1", "/base/3"]
    assert counts.errors == {"EOFError": 1}
    # The other server's connection was kept.
    assert len({received.connection for received in other.received}) == 1


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


async def test_a_caller_who_waits_names_what_it_has_and_asks_again_at_once(aos: ScriptedAos) -> None:
    applied = ("Preference-Applied", "wait=30")
    aos.queue(
        Answer(body=record("Running"), headers=[("ETag", '"a"'), applied]),
        Answer(304, headers=[("ETag", '"a"'), applied]),
        Answer(body=record("Succeeded"), headers=[("ETag", '"b"'), applied]),
    )
    # With the interval between the requests, the end would be far.
    poller, counts = await poll(aos, interval_s=0.5, for_s=1.2, wait_s=30)
    sent = [dict(received.headers) for received in aos.received]
    assert [fields.get(b"If-None-Match") for fields in sent] == [None, b'"a"', b'"a"']
    assert {fields[b"Prefer"] for fields in sent} == {b"wait=30"}
    assert (counts.by_status, counts.errors) == ({200: 2, 304: 1}, {})
    assert poller.noticed_s is not None


@pytest.mark.parametrize("applied", [[], [("Preference-Applied", "wait=0")]])
async def test_a_caller_whom_the_server_does_not_let_wait_polls(
    aos: ScriptedAos, applied: list[tuple[str, str]]
) -> None:
    aos.answer(Answer(body=record("Running"), headers=applied))
    _, counts = await poll(aos, interval_s=0.2, for_s=0.5, wait_s=30)
    assert len(aos.received) == counts.asked <= 3


async def test_a_poller_gives_up_in_time_also_while_it_waits_for_an_answer(aos: ScriptedAos) -> None:
    aos.answer(aos.gate().before(Answer(body=record("Running"))))
    began_s = time.monotonic()
    poller, counts = await poll(aos, interval_s=0.01, for_s=0.3, wait_s=30)
    assert time.monotonic() - began_s < 5
    assert (counts.asked, dict(counts.by_status), dict(counts.errors)) == (1, {}, {})
    assert poller.noticed_s is None


async def test_a_record_that_is_gone_is_the_end_of_a_delete_and_one_never_seen_is_not(
    aos: ScriptedAos,
) -> None:
    aos.answer(Answer(404, body=b"{}"))
    poller, counts = await poll(aos, interval_s=0.02, for_s=0.2)
    assert poller.noticed_s is None
    assert counts.errors["status-4xx"] == counts.asked > 1
    aos.queue(Answer(body=record("Running")))
    poller, _ = await poll(aos, interval_s=0.02, for_s=10.0)
    assert poller.noticed_s is not None


async def test_what_is_no_record_is_an_error_and_no_end(aos: ScriptedAos) -> None:
    aos.queue(Answer(body=b"<html>"), Answer(body=b"\xff"), Answer(body=record("Failed")))
    poller, counts = await poll(aos, interval_s=0.02, for_s=10.0)
    assert counts.errors == {"no-record": 2}
    assert poller.noticed_s is not None


async def test_calls_are_counted_by_what_cache_status_says(aos: ScriptedAos) -> None:
    said = {
        "aos-gateway; hit; ttl=0; detail=running": 0,
        "aos-gateway; fwd=uri-miss; fwd-status=200": 1,
        "aos-gateway; fwd=uri-miss; collapsed": 0,
        "aos-gateway; detail=held-back": 0,
        "aos-gateway; fwd=bypass; detail=no-store": 1,
        "": 1,
    }
    for cache_status in said:
        headers = [("Cache-Status", cache_status)] if cache_status else []
        aos.queue(Answer(body=record("Running"), headers=headers))
    aos.answer(Answer(body=record("Succeeded")))
    _, counts = await poll(aos, interval_s=0.01, for_s=10.0)
    assert counts.forwarded == sum(said.values()) + 1


async def test_a_poller_speaks_tls_and_trusts_what_the_environment_says(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    async with ScriptedAos(tls=authority.server_context()) as aos:
        aos.answer(Answer(body=record("Succeeded")))
        poller, counts = await poll(aos, interval_s=0.01, for_s=10.0)
    assert poller.noticed_s is not None
    assert counts.errors == {}
