"""A round counts only when the answers were what the scenario is about."""

import pytest

from benchmarks.harness.contestants import Contestant
from benchmarks.harness.processes import GatewayServer, Origin, Processes
from benchmarks.harness.run_context import turns
from benchmarks.load.generators import Outcome
from benchmarks.measure.rounds import flaw, objection
from benchmarks.profile import top_table
from benchmarks.scenarios.scenario import Entry

GOOD = Outcome(completed=1000, duration_s=1.0, latency_ms={})


@pytest.mark.parametrize(
    ("outcome", "upstream_calls", "counted", "hits", "reason"),
    [
        (GOOD, 0, 1000, True, ""),
        (GOOD, 0, None, True, ""),
        (GOOD, 1, None, True, ""),
        (GOOD, 2, None, True, "2 of 1000 were no hits"),
        (GOOD, 0, 500, True, "the gateway counted 500 hits for 1000 answers"),
        (GOOD, 1000, 0, False, ""),
        (GOOD, 400, 0, False, "only 400 of 1000 were forwarded"),
        (Outcome(0, 1.0, {}), 0, 0, True, "nothing was answered"),
        (
            Outcome(1000, 1.0, {}, {"timeout": 0, "status": 3}),
            0,
            1000,
            True,
            "not all were answered 200: status 3",
        ),
        (Outcome(9, 1.0, {}, {}, {"200": 7, "502": 2}), 0, 9, True, "not all were answered 200: 502 2"),
        (
            Outcome(9, 1.0, {}, why_not="the generator itself was late"),
            0,
            9,
            True,
            "the generator itself was late",
        ),
    ],
)
def test_what_stands_against_a_round_is_named(
    outcome: Outcome, upstream_calls: float, counted: float | None, hits: bool, reason: str
) -> None:
    assert objection(outcome, upstream_calls, counted, hits=hits) == reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({}, ""), ({"cache.scope": "shared"}, "gave one caller's record to another")],
)
def test_a_contestant_that_mixes_up_callers_does_not_take_part(settings: dict[str, str], reason: str) -> None:
    with Processes() as processes:
        upstream = Origin(processes)
        gateway = GatewayServer(processes, upstream.url, settings=settings)
        entry = Entry(kind="gateway", name="gateway")
        assert flaw(Contestant(entry, gateway.url, gateway.child, upstream, gateway)) == reason


def test_every_round_has_all_contestants_and_another_one_first() -> None:
    assert turns("abc", 3) == [
        *((1, who) for who in "abc"),
        *((2, who) for who in "bca"),
        *((3, who) for who in "cab"),
    ]


def test_a_profile_is_a_table_of_functions_whatever_the_line_in_them() -> None:
    raw = "main (a.py:1);work (a.py:5) 6\nmain (a.py:2);work (a.py:9);read (libc.so.6) 2\nnothing\n"
    lines = top_table(raw).splitlines()
    assert lines[0] == "| function (8 samples) | itself | with what it calls |"
    assert lines[2:] == ["| work (a.py) | 75.0% | 100.0% |", "| read (libc.so.6) | 25.0% | 25.0% |"]
    assert top_table("") == "no samples\n"
