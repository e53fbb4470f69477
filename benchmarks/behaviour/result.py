"""What a scenario came to: a small JSON and a line of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.behaviour.pollers import Counts
from benchmarks.openloop.report import Quantiles, Report


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a scenario.

    Attributes:
        name: ``direct`` is without the gateway; others say what is different.
        group: who the callers were, where there are several groups; empty otherwise.
        requests: how many were due, or sent by pollers.
        answered: whole answers, of any status.
        errors: by name; answers of status 4xx and 5xx too.
        by_outcome: answers by what ``Cache-Status`` says.
        upstream_calls: records that the upstream was asked for, as it counted.
        latency_ms: see `Report`; for pollers, from the moment of the request.
        figures: what this scenario is about, by name with its unit.
        why_not: why the latencies may not be believed; empty when they may.
    """

    name: str
    group: str = ""
    requests: int
    answered: int
    errors: dict[str, int]
    by_outcome: dict[str, int]
    upstream_calls: int
    latency_ms: Quantiles
    figures: dict[str, float] = {}
    why_not: str = ""

    @classmethod
    def of(cls, name: str, report: Report, upstream_calls: int, **figures: float) -> "Side":
        """Make it from what the open-loop generator reports."""
        return cls(
            name=name,
            requests=report.scheduled,
            answered=report.completed,
            errors=report.errors,
            by_outcome=report.by_outcome,
            upstream_calls=upstream_calls,
            latency_ms=report.latency_ms,
            figures=figures,
            why_not=report.why_not,
        )

    @classmethod
    def of_pollers(
        cls, name: str, counts: Counts, upstream_calls: int, figures: dict[str, float], group: str = ""
    ) -> "Side":
        """Make it from what pollers counted."""
        refused = counts.by_status[429]
        return cls(
            name=name,
            group=group,
            requests=counts.asked,
            answered=sum(counts.by_status.values()),
            errors=dict(counts.errors),
            by_outcome={outcome: counts.by_outcome[outcome] for outcome in ("hit", "miss", "bypass", "none")},
            upstream_calls=upstream_calls,
            latency_ms=Quantiles.of(counts.latency),
            figures={"refused": refused, "refused_share": refused / max(counts.asked, 1)} | figures,
        )


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one scenario came to.

    Attributes:
        name: of the scenario.
        title: what is to be seen.
        parameters: as in its file.
        calls_without: upstream calls without the gateway: measured, or one for each request.
        calls_with: upstream calls of the same load with it.
        sides: all runs, in order.
        seen: the outcome in words.
    """

    name: str
    title: str
    parameters: dict[str, Any]
    calls_without: int
    calls_with: int
    sides: list[Side]
    seen: str

    @property
    def saved(self) -> float:
        """The share of the upstream calls that the gateway saved."""
        return 1 - self.calls_with / self.calls_without if self.calls_without else 0.0

    def line(self) -> str:
        """Return its line of the table."""
        latencies = "; ".join(
            f"{side.name} {side.latency_ms.p50:.1f} / {side.latency_ms.p99:.1f} / {side.latency_ms.max:.0f}"
            + (" (not valid)" if side.why_not else "")
            for side in self.sides
            if not side.group
        )
        calls = f"{self.calls_without} → {self.calls_with}"
        return f"| {' | '.join([self.name, calls, f'{self.saved:.0%}', latencies or '–', self.seen])} |"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values | {"saved": round(self.saved, 4)}


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    titles = ["scenario", "upstream calls", "saved", "p50 / p99 / max ms", "seen"]
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles))]
    return "\n".join([*lines, *(result.line() for result in results)])


def errors_in_words(errors: Mapping[str, int]) -> str:
    """Return counted errors as text."""
    return ", ".join(f"{count} {name}" for name, count in sorted(errors.items())) or "no errors"
