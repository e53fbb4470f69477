"""What the log says when something that the gateway depends on fails and works again."""

import logging

import pytest

from gateway.clock import Clock
from gateway.telemetry.log_format import FIELDS
from gateway.telemetry.state_log import StateLog


class _Time:
    now_s = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: 1_700_000_000.0 + self.now_s, lambda: self.now_s)


def test_each_reason_has_one_line_and_its_end_says_how_long_it_lasted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    time = _Time()
    state = StateLog("redis", time.clock())
    state.up()
    for reason in ("connection refused", "connection refused", "LOADING", "LOADING"):
        state.down(reason)
        time.now_s += 1.5
    state.up()
    state.up()
    state.down("LOADING")
    assert [record.getMessage() for record in caplog.records] == [
        "redis down: connection refused",
        "redis down: LOADING",
        "redis up again after 6.0 s and 4 failures",
        "redis down: LOADING",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    up = getattr(caplog.records[2], FIELDS)
    assert up == {
        **{"dependency": "redis", "state": "up", "down_since": "2023-11-14T22:13:20Z"},
        **{"lasted_s": 6.0, "failures": 4},
    }
    assert getattr(caplog.records[1], FIELDS)["reason"] == "LOADING"


@pytest.mark.parametrize(
    "turns",
    [[("down", "a"), ("up", "")], [("down", "a"), ("down", "b")]],
    ids=["up and down", "two reasons"],
)
def test_frequent_changes_have_few_lines_and_the_last_state_is_logged_in_the_end(
    caplog: pytest.LogCaptureFixture, turns: list[tuple[str, str]]
) -> None:
    time = _Time()
    state = StateLog("upstream", time.clock())
    for _ in range(1_000):
        for call, reason in turns:
            time.now_s += 0.01
            state.up() if call == "up" else state.down(reason)
    assert 2 <= len(caplog.records) <= 10
    time.now_s += 60
    state.down("the last")
    time.now_s += 60
    state.up()
    assert caplog.records[-1].getMessage().startswith("upstream up again after ")


def test_a_reason_is_one_short_printable_line(caplog: pytest.LogCaptureFixture) -> None:
    state = StateLog("redis", Clock())
    state.down("NOPERM\r\n\x1b[31m" + "x" * 1_000)
    state.down("")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.isprintable()
    assert len(first) < 230
    assert second == "redis down: no reason given"
