"""Log lines that callers cause are bounded, and say how many are missing."""

import logging

from gateway.telemetry.access_log import dropped_lines, set_up_logging
from gateway.telemetry.log_rate_limit import LogLimit, TokenBucket


def _line(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, "said %s", (text,), None)


def test_lines_within_the_burst_pass_unchanged() -> None:
    limit = LogLimit(TokenBucket(1, 3, lambda: 0.0))
    lines = [_line(str(number)) for number in range(5)]
    assert [limit.filter(line) for line in lines] == [True, True, True, False, False]
    assert lines[0].getMessage() == "said 0"


def test_the_next_line_that_passes_says_how_many_were_dropped() -> None:
    now_s = 0.0
    limit = LogLimit(TokenBucket(1, 1, lambda: now_s))
    assert [limit.filter(_line("a")) for _ in range(4)] == [True, False, False, False]
    now_s = 1.0
    line = _line("100 %s")
    assert limit.filter(line)
    assert line.getMessage() == "said 100 %s (3 such lines were dropped)"
    now_s = 2.5
    line = _line("b")
    assert limit.filter(line)
    assert line.getMessage() == "said b"
    assert limit.dropped == 3


def test_what_is_left_out_of_all_logs_is_summed() -> None:
    set_up_logging("info", "json")
    before = dropped_lines()
    for name in ("aiohttp.server", "asyncio", "gateway.downstream.proxy_protocol"):
        [limit] = logging.getLogger(name).filters
        assert isinstance(limit, LogLimit)
        limit.dropped += 2
    assert dropped_lines() == before + 6


def test_the_bucket_never_holds_more_than_the_burst() -> None:
    now_s = 0.0
    limit = LogLimit(TokenBucket(10, 2, lambda: now_s))
    now_s = 1000.0
    assert [limit.filter(_line("a")) for _ in range(3)] == [True, True, False]
