"""What a run came to, and whether it may be believed."""

from collections import Counter
from typing import Final, Self

import msgspec

from benchmarks.openloop.histogram import Histogram

_MIN_LAG_MS: Final = 1.0
# Below a twentieth of what was measured, the generator's own lateness does not change the result.
_LAG_SHARE: Final = 0.05


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Some quantiles of a histogram, in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float = msgspec.field(name="p99.9")
    max: float

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Take them from a histogram."""
        p50, p90, p99, p999 = (histogram.quantile_ms(percent) for percent in (50, 90, 99, 99.9))
        return cls(p50=p50, p90=p90, p99=p99, p999=p999, max=histogram.max_ms)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    Attributes:
        offered_per_s: requests that the schedule held, per second of it.
        scheduled: requests whose time came.
        sent: requests that went out; not so ``connect``, ``timeout-waiting`` and ``queue-full``.
        completed: whole answers, of any status.
        errors: what went wrong by name; answers of status 4xx and 5xx stand here too, as ``status-4xx``.
        by_status: whole answers by status.
        by_outcome: whole answers by what ``Cache-Status`` says: hit, miss, bypass, none.
        collapsed: whole answers that another request's fetch brought.
        connections: connections that were opened.
        latency_ms: from the scheduled time to the last byte of the answer. Time-outs are in it with the time
            they had waited: leaving them out would make a bad run look good.
        histogram: the same, encoded.
        lag_ms: how late the generator came to a request whose time had come, for reasons of its own.
        loop_lag_ms: how late it woke at all, looked at every few milliseconds whatever the rate.
        is_valid: whether the latencies are those of the other side, not of the generator.
        why_not: the reasons, in words; empty when it is valid.
    """

    offered_per_s: float
    scheduled: int
    sent: int
    completed: int
    errors: dict[str, int]
    by_status: dict[str, int]
    by_outcome: dict[str, int]
    collapsed: int
    connections: int
    latency_ms: Quantiles
    histogram: str
    lag_ms: Quantiles
    loop_lag_ms: Quantiles
    is_valid: bool
    why_not: str

    @property
    def succeeded(self) -> int:
        """Whole answers of a status below 400."""
        return sum(number for status, number in self.by_status.items() if int(status) < 400)


class Tally:
    """Counts while a run is under way.

    Attributes:
        scheduled, sent, collapsed, connections, errors, by_status, by_outcome: as in `Report`.
        latency, lag, loop_lag: as in `Report`.
        flaws: reasons against the run that were seen on the way.
    """

    def __init__(self) -> None:
        self.scheduled = 0
        self.sent = 0
        self.collapsed = 0
        self.connections = 0
        self.errors: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.by_outcome: Counter[str] = Counter()
        self.latency = Histogram()
        self.lag = Histogram()
        self.loop_lag = Histogram()
        self.flaws: list[str] = []

    def report(self, duration_s: float) -> Report:
        """Add it up.

        Args:
            duration_s: length of the schedule.
        """
        latency = Quantiles.of(self.latency)
        lag, loop_lag = Quantiles.of(self.lag), Quantiles.of(self.loop_lag)
        flaws = [*self.flaws]
        allowed_ms = max(_MIN_LAG_MS, _LAG_SHARE * latency.p99)
        if (late_ms := max(lag.p99, loop_lag.p99)) > allowed_ms:
            flaws.append(f"the generator itself was late: p99 {late_ms:.2f} ms, allowed {allowed_ms:.2f} ms")
        if refused := self.errors["queue-full"]:
            flaws.append(f"the send queue overran: {refused} requests were dropped unsent")
        if not self.by_status:
            flaws.append("nothing was answered")
        return Report(
            offered_per_s=self.scheduled / duration_s,
            scheduled=self.scheduled,
            sent=self.sent,
            completed=sum(self.by_status.values()),
            errors=dict(+self.errors),
            by_status={str(status): count for status, count in sorted(self.by_status.items())},
            by_outcome={name: self.by_outcome[name] for name in ("hit", "miss", "bypass", "none")},
            collapsed=self.collapsed,
            connections=self.connections,
            latency_ms=latency,
            histogram=self.latency.encoded(),
            lag_ms=lag,
            loop_lag_ms=loop_lag,
            is_valid=not flaws,
            why_not="; ".join(flaws),
        )
