"""Goals, tables and comparisons."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.report import polls
from benchmarks.report.chart import bars, lines, short
from benchmarks.report.goals import assess
from benchmarks.report.results import Missing, Round, Row, load_result, save
from benchmarks.report.summary import Spread
from benchmarks.report.table import markdown, number, table, unit, with_spread
from benchmarks.scenarios.scenario import Goal

from .kit import measured, result, row

NGINX = Goal(contestant="gateway", peer="nginx", at_most=1.2, stretch=0.8)


@pytest.mark.parametrize(
    ("costs_us", "word"),
    [
        ([10.0, 12.0, 14.0], "yes"),
        ([5.0, 8.0, 9.0], "yes, and the stretch"),
        ([13.0, 14.0, 15.0], "no"),
        ([None, None, None], "not measured"),
    ],
)
def test_a_goal_is_measured_by_the_median_ratio_of_paired_rounds(
    costs_us: list[float | None], word: str
) -> None:
    assessment = assess(measured(row("gateway", costs_us), row("nginx", [10.0, 10.0, 10.0]), goals=[NGINX]))[
        0
    ]
    assert assessment.word == word


def test_what_disturbs_both_contestants_of_a_round_goes_out_of_the_ratio() -> None:
    assessment = assess(
        measured(row("gateway", [10.0, 50.0, None]), row("nginx", [10.0, 50.0, 10.0]), goals=[NGINX])
    )[0]
    assert assessment.value == Spread(1.0, 1.0, 1.0, 2)


def test_a_goal_may_be_about_a_figure_itself_or_another_of_the_same_contestant() -> None:
    calls = Row("gateway", None, [Round(1, {"upstream_calls": 41.0, "allowed_calls": 40.0, "rss_mb": 70.0})])
    goals = [
        Goal(contestant="gateway", figure="upstream_calls", peer_figure="allowed_calls", at_most=1.05),
        Goal(contestant="gateway", figure="rss_mb", at_most=60),
        Goal(contestant="gateway", figure="ready_s", peer="import", at_most=1.6),
    ]
    words = [assessment.word for assessment in assess(measured(calls, goals=goals, measure="collapse"))]
    assert words == ["yes", "no", "not measured"]


def test_a_goal_may_be_about_one_value_of_a_series_or_compare_two_of_them() -> None:
    rows = [
        *(row("gateway", [cost], x) for x, cost in ((100.0, 80.0), (10_000.0, 100.0))),
        *(row("nginx", [50.0], x) for x in (100.0, 10_000.0)),
    ]
    goals = [
        Goal(contestant="gateway", at=10_000, peer_at=100, at_most=1.2),
        Goal(contestant="gateway", peer="nginx", at=10_000, at_most=2.0, stretch=1.9),
        Goal(contestant="gateway", peer="nginx", at=10_000, peer_at=100, at_most=1.0),
        Goal(contestant="gateway", at=10_000, at_most=90),
    ]
    one = measured(*rows, goals=goals, x_key="connections")
    values = [(each.value.median, each.word) if each.value else None for each in assess(one)]
    assert values == [(1.25, "no"), (2.0, "yes"), (2.0, "no"), (100.0, "no")]
    told = [line for line in markdown(result(one)).splitlines() if line.startswith("| a hit; ")]
    assert told[0] == ("| a hit; 10,000 connections | ≤ 1.2 × that at 100 | 1.25 | 100 µs | 80.0 µs | no |")
    bounds = ["≤ 1.2 × that at 100", "≤ 2 × nginx, stretch ≤ 1.9", "≤ 1 × nginx at 100", "≤ 90 µs"]
    assert [line.split(" | ")[1] for line in told] == bounds


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_numbers_have_three_digits_or_are_whole(value: float, text: str) -> None:
    assert number(value) == text


def test_a_figure_has_the_unit_that_its_name_ends_in() -> None:
    assert [unit(name) for name in ("cost_us", "p99.9_ms", "ready_s", "rate_per_s", "polls")] == [
        "µs",
        "ms",
        "s",
        "",
        "",
    ]
    assert with_spread(Spread(12.0, 11.0, 13.0, 5), "µs") == "12.0 µs (11.0–13.0)"
    assert with_spread(Spread(12.0, 12.0, 12.0, 1), "µs") == "12.0 µs"
    assert with_spread(None) == "–"


def test_the_report_shows_goals_first_and_every_contestant_also_one_that_is_better() -> None:
    one = measured(row("gateway", [20.0, 22.0, None]), row("nginx", [10.0, 10.0, 10.0]), goals=[NGINX])
    run = result(one, is_partial=True)
    run.missing.append(Missing("Varnish", "hit", "install varnish"))
    text = markdown(run)
    assert "**Interrupted: these results are partial.**" in text
    goal = "| a hit | ≤ 1.2 × nginx, stretch ≤ 0.8 | 2.10 (2.00–2.20)"
    assert f"{goal} | 21.0 µs (20.0–22.0) | 10.0 µs (10.0–10.0) | no |" in text.splitlines()
    assert "| gateway | – | 21.0 µs (20.0–22.0) | 2 of 3; 3 of 9 were no hits |" in text.splitlines()
    assert "| nginx | 2.10 (2.00–2.20) × | 10.0 µs (10.0–10.0) | 3 of 3 |" in text.splitlines()
    assert "- Varnish (hit): install varnish" in text.splitlines()
    assert text.index("## Goals") < text.index("## a hit")


def test_what_was_played_stands_in_the_report() -> None:
    run = result()
    numbers = {"calls_without": 1590, "calls_with": 227, "saved": 0.857}
    run.behaviour.append({"name": "herd", "title": "a herd", "seen": "no errors", **numbers})
    assert "| herd: a herd | 1,590 | 227 | 86% | no errors |" in markdown(run).splitlines()


def test_each_way_of_pollers_stands_in_the_report_beside_aos_itself() -> None:
    def side(name: str, calls: int, per_s: float, **figures: float) -> dict[str, Any]:
        counted = {"callers": 50, "noticed": 0, "refused": 0, "refused_share": 0.0, "calls_per_s": per_s}
        return {
            "name": name,
            "group": "one token",
            "requests": 1200,
            "upstream_calls": calls,
            "figures": counted | figures,
        }

    few = {"noticed": 50, "noticed_p50_s": 0.5, "noticed_max_s": 1.25, "calls_after_the_end": 2}
    few |= {"calls_per_s_each": 1.0, "gateway_us": 123.4, "redis_commands": 1.5}
    sides = [side("direct", 1200, 50.0, refused=864, refused_share=0.72), side("gateway", 8, 2.0, **few)]
    numbers = {"calls_without": 1200, "calls_with": 8, "saved": 0.99}
    run = result()
    run.behaviour.append({"name": "pollers", "title": "many poll", "seen": "", "sides": sides, **numbers})
    lines_ = markdown(run).splitlines()
    assert lines_.index("### many poll") < lines_.index(
        "| one token | direct | 1,200 | 1,200 | – | 50.0 | – | – | 864 (72%) | 0 of 50 | – | – | – |"
    )
    calls = "8 | 2 | 2.0 | 1.00 | 96%"
    costs = "0.50 s; 1.25 s | 123 µs | 1.50"
    assert f"| one token | gateway | 1,200 | {calls} | 0 (0%) | 50 of 50 | {costs} |" in lines_
    # What nobody has is no column.
    assert not any("questions to IAM" in line for line in lines_)
    assert [polls.in_words(side["figures"]) for side in sides] == [
        "50.0, 72% refused, by 0 of 50",
        "2.0, end noticed after 0.50 s (1.25)",
    ]


def test_a_table_has_its_numbers_on_the_right() -> None:
    assert table(["a", "b"], [["x", "1"]]).splitlines() == ["| a | b |", "|---|---:|", "| x | 1 |"]


def test_a_difference_within_the_spread_is_called_none() -> None:
    before, near, far = Spread(10.0, 9.0, 11.0, 5), Spread(11.0, 10.5, 12.0, 5), Spread(5.0, 4.0, 6.0, 5)
    assert compare.change(before, near) == "× 1.10, within the spread"
    assert compare.change(before, far) == "× 0.50, better"
    assert compare.change(far, before) == "× 2.00, worse"
    assert compare.change(before, None) == "not in both"
    # One round each tells nothing about the spread.
    assert compare.change(Spread(10.0, 10.0, 10.0, 1), Spread(9.0, 9.0, 9.0, 1)) == "× 0.90"


def test_two_results_are_compared_by_the_ratio_to_the_peer_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, cost_us in (("a", 20.0), ("b", 10.0)):
        one = measured(row("gateway", [cost_us] * 3), row("nginx", [10.0] * 3), goals=[NGINX])
        files.append(str(tmp_path / f"{name}.json"))
        save(result(one, processor=name), Path(files[-1]))
    monkeypatch.setattr(sys, "argv", ["compare", *files])
    assert compare.main() == 0
    lines_ = capsys.readouterr().out.splitlines()
    ratio = "| gateway ÷ nginx | 2.00 (2.00–2.00) | 1.00 (1.00–1.00) | × 0.50, better |"
    cost = "| gateway, CPU per request | 20.0 µs (20.0–20.0) | 10.0 µs (10.0–10.0) | × 0.50, better |"
    assert lines_.index(ratio) < lines_.index(cost)
    assert "Not the same processor: only ratios to peers can be compared." in lines_


def test_two_results_without_a_scenario_in_common_compare_nothing() -> None:
    one, other = measured(row("gateway", [1.0])), measured(row("gateway", [1.0]))
    other.name = "other"
    for pair in ((result(one), result(other)), (result(), result())):
        with pytest.raises(ValueError, match="no scenario in common"):
            compare.compare(*pair)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99, "began": ""}'])
def test_what_is_no_result_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["compare", str(file), str(file)])
    assert compare.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    one = result(measured(row("gateway", [20.0, None], x=10.0), goals=[NGINX], x_key="connections"))
    save(one, tmp_path / "deep" / "r.json")
    assert load_result(tmp_path / "deep" / "r.json") == one


def test_plots_show_medians_with_their_spread_and_leave_out_what_has_none() -> None:
    one = measured(
        row("gateway", [1.0, 3.0], x=1.0),
        row("gateway", [None, None], x=10.0),
        row("gateway", [5.0, 5.0], x=100.0),
        row("nginx", [None, None], x=1.0),
        x_key="connections",
    )
    (line,) = lines(one, ["cost_us"])
    assert line.name == "gateway"
    assert line.points == [(1.0, Spread(2.0, 1.0, 3.0, 2)), (100.0, Spread(5.0, 5.0, 5.0, 2))]
    shown = measured(row("gateway", [2.0]), row("nginx", [None]), row("Varnish", [1.0]))
    assert [bar.name for bar in bars(shown, "cost_us")] == ["gateway", "Varnish"]
    assert [short(value) for value in (0.5, 2.0, 10_000.0, 1_000_000.0)] == ["0.5", "2", "10,000", "1 M"]
