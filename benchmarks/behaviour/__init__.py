"""How the gateway behaves where load is not steady: herds, cold starts, faults, throttling."""

from benchmarks.behaviour.plays import play, run
from benchmarks.behaviour.result import Result, table

__all__ = ["Result", "play", "run", "table"]
