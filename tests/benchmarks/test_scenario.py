"""Scenarios are read strictly, and those in the repository can all be used."""

import pytest

from benchmarks.harness.catalogue import KINDS
from benchmarks.harness.origin import answer
from benchmarks.load.targets import make_targets
from benchmarks.scenarios.scenario import Load, ScenarioError, choose, parse, read_all

SMALL = """
title = "t"
about = "a"
[[contestant]]
kind = "gateway"
[[contestant]]
kind = "gateway"
name = "fast path off"
settings = { "server.fast_lane" = false }
"""
SERIES = "[series]\nkey = 'connections'\nvalues = [1, 10]\nlabel = 'connections'\n"


def test_every_scenario_of_the_repository_can_be_used() -> None:
    scenarios = read_all()
    assert {"hit", "spread", "redis-hit", "forwarded", "collapse", "start"} <= scenarios.keys()
    assert all(one.about and one.rounds >= 5 for one in scenarios.values())
    used = {entry.kind for one in scenarios.values() for entry in one.contestant}
    assert used == KINDS.keys()


def with_goals(*, series: bool) -> set[str]:
    return {name for name, one in read_all().items() if one.goal and (one.series is not None) == series}


def test_the_paths_that_have_goals_are_part_of_a_quick_run_with_their_peers() -> None:
    quick = choose(read_all(), [], quick=True)
    for one in quick:
        names = {entry.name for entry in one.contestant}
        assert all(goal.contestant in names and goal.peer in {"", *names} for goal in one.goal)
    # A series takes too long for a quick run.
    assert with_goals(series=False) <= {one.name for one in quick}
    assert with_goals(series=True) == {"passed-through", "forwarded-connections"}


def test_no_two_of_many_callers_share_a_fetch_in_a_quick_run() -> None:
    (one,) = [each for each in choose(read_all(), [], quick=True) if each.name == "forwarded-callers"]
    assert [entry.kind for entry in one.contestant] == ["gateway", "bare-proxy", "nginx-pass", "gateway"]
    assert [entry.redis for entry in one.contestant] == [False, False, False, True]
    targets = make_targets(one.load)
    assert len(targets) == len({token for _, token in targets}) == 4000
    assert one.load.running
    assert not one.hits


def test_a_contestant_is_named_after_its_kind_and_may_have_settings_of_its_own() -> None:
    scenario = parse(SMALL, "small")
    assert [one.name for one in scenario.contestant] == ["gateway", "fast path off"]
    assert scenario.contestant[1].settings == {"server.fast_lane": False}


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("[load]\nconections = 3", "conections"),
        ("[load]\nconnections = 'three'", "connections"),
        ("[[contestant]]\nkind = 'squid'", "no kind 'squid'"),
        ("[[contestant]]\nkind = 'gateway'", "two contestants have one name"),
        ("[[goal]]\ncontestant = 'gateway'\npeer = 'nginx'\nat_most = 1", "about 'nginx'"),
        ("[series]\nkey = 'weather'\nvalues = [1]\nlabel = 'l'", "no load has 'weather'"),
        ("[load]\nseconds = 0", "at least one round"),
        ("[[goal]]\ncontestant = 'gateway'\nat = 5\nat_most = 1", "the goal is at 5"),
        (f"{SERIES}[[goal]]\ncontestant = 'gateway'\nat = 1\npeer_at = 7\nat_most = 1", "the goal is at 7"),
        (f"{SERIES}[[goal]]\ncontestant = 'gateway'\nat_most = 1", "needs a value of the series"),
        ("title = 'again'", "small.toml"),
    ],
)
def test_a_mistake_is_named_with_its_file(more: str, problem: str) -> None:
    with pytest.raises(ScenarioError, match=r"^small\.toml: ") as caught:
        parse(f"{SMALL}{more}\n", "small")
    assert problem in str(caught.value)


def test_a_series_gives_one_load_for_each_of_its_values() -> None:
    assert parse(f"{SMALL}{SERIES}[load]\nrecords = 3\n", "small").loads() == [
        (1.0, Load(connections=1, records=3)),
        (10.0, Load(connections=10, records=3)),
    ]


def test_what_is_chosen_by_name_is_measured_in_that_order() -> None:
    assert [one.name for one in choose(read_all(), ["start", "hit"], quick=False)] == ["start", "hit"]
    with pytest.raises(ScenarioError, match="no scenario 'hot'; there are hit"):
        choose(read_all(), ["hot"], quick=False)


def test_every_caller_asks_for_every_record_once_in_an_order_that_stays() -> None:
    load = Load(records=30, callers=4, body_bytes=5000, token_bytes=100)
    targets = make_targets(load)
    assert len(set(targets)) == 120
    assert targets != sorted(targets)
    assert targets == make_targets(load)
    assert {len(token) for _, token in targets} == {100}
    assert all(path.startswith("/v2/stacks/stack-") and path.endswith(".5000") for path, _ in targets)
    assert len(make_targets(load, at_most=7)) == 7


def test_calls_of_another_route_are_answered_in_their_size_too() -> None:
    ((path, _),) = make_targets(Load(elements=True, body_bytes=5000))
    assert path == "/v2/stacks/stack-0000000/elements/element-0000000.5000"
    assert len(answer(path.encode(), 1).partition(b"\r\n\r\n")[2]) == 5000
