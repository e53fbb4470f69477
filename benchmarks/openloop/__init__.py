"""An open-loop load generator: requests go out when the schedule says, however slow the answers are."""

from benchmarks.openloop.generator import offer
from benchmarks.openloop.report import Report
from benchmarks.openloop.response import TimedResponse
from benchmarks.openloop.targets import Target, read_targets

__all__ = ["Report", "Target", "TimedResponse", "offer", "read_targets"]
