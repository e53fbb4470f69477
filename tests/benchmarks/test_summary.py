"""The statistics that results need."""

import pytest

from benchmarks.report.summary import Spread, percentiles, ratios, spread


def test_a_spread_is_median_least_and_greatest() -> None:
    assert spread([3.0, 1.0, 9.0]) == Spread(median=3.0, low=1.0, high=9.0, rounds=3)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("values", "others", "expected"),
    [
        ([2.0, 3.0], [1.0, 2.0], [2.0, 1.5]),
        ([2.0, None, 4.0], [1.0, 1.0, None], [2.0]),
        ([2.0], [0.0], []),
        ([], [], []),
    ],
)
def test_only_rounds_that_both_have_make_a_ratio(
    values: list[float | None], others: list[float | None], expected: list[float]
) -> None:
    assert ratios(values, others) == expected


def test_percentiles_are_values_that_were_measured() -> None:
    found = percentiles([float(value) for value in range(1000)])
    assert found == {"p50": 500.0, "p90": 900.0, "p99": 990.0, "p99.9": 999.0, "max": 999.0}
    assert percentiles([7.0])["p99.9"] == 7.0
    assert percentiles([]) == {}
