"""What came of pollers, a line for each group of callers and way to ask."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_NONE: Final = "–"
HEADS: Final = (
    "callers",
    "way",
    "polls",
    "calls at AOS",
    "after the end",
    "a second before it",
    "of each token and execution",
    "saved",
    "refused (429)",
    "noticed by",
    "after (median; last)",
    "gateway's CPU a poll",
    "Redis commands a poll",
    "questions to IAM",
)


def columns(sides: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table, without columns that have nothing to say.

    Args:
        sides: of a played scenario, as in its JSON; those without a group of callers are left out.
    """
    rows = [_row(side, sides) for side in sides if side.get("group")]
    kept = [place for place in range(len(HEADS)) if any(row[place] != _NONE for row in rows)]
    return [HEADS[place] for place in kept], [[row[place] for place in kept] for row in rows]


def saved(side: Mapping[str, Any], sides: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of the calls a second that is saved; ``None`` without these callers at AOS itself."""
    direct = (one for one in sides if one["group"] == side["group"] and one["name"] == "direct")
    per_s = next((one["figures"]["calls_per_s"] for one in direct if one is not side), 0.0)
    return 1 - side["figures"]["calls_per_s"] / per_s if per_s else None


def in_words(figures: Mapping[str, float]) -> str:
    """Return what a plot says beside a bar: calls a second, refused polls, when the end was noticed."""
    words = [f"{figures['calls_per_s']:.1f}"]
    if figures["refused"]:
        words.append(f"{figures['refused_share']:.0%} refused")
    if figures["noticed"]:
        words.append(f"end noticed after {figures['noticed_p50_s']:.2f} s ({figures['noticed_max_s']:.2f})")
    if figures["noticed"] < figures["callers"]:
        words.append(f"by {figures['noticed']:.0f} of {figures['callers']:.0f}")
    return ", ".join(words)


def _row(side: Mapping[str, Any], sides: Sequence[Mapping[str, Any]]) -> list[str]:
    figures = side["figures"]
    share, late = saved(side, sides), figures.get("calls_after_the_end")
    each, cpu_us, commands, questions = (
        figures.get(name) for name in ("calls_per_s_each", "gateway_us", "redis_commands", "iam_questions")
    )
    seconds = [figures[name] for name in ("noticed_p50_s", "noticed_max_s") if name in figures]
    return [
        side["group"],
        side["name"],
        f"{side['requests']:,}",
        f"{side['upstream_calls']:,}",
        _NONE if late is None else f"{late:,.0f}",
        f"{figures['calls_per_s']:.1f}",
        _NONE if each is None else f"{each:.2f}",
        _NONE if share is None else f"{round(share, 2) + 0.0:.0%}",
        f"{figures['refused']:,.0f} ({figures['refused_share']:.0%})",
        f"{figures['noticed']:.0f} of {figures['callers']:.0f}",
        "; ".join(f"{value:.2f} s" for value in seconds) or _NONE,
        _NONE if cpu_us is None else f"{cpu_us:.0f} µs",
        _NONE if commands is None else f"{commands:.2f}",
        _NONE if questions is None else f"{questions:.0f}",
    ]
