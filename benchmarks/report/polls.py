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
    "saved",
    "refused (429)",
    "noticed by",
    "after (median; last)",
)


def rows(sides: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of the table.

    Args:
        sides: of a played scenario, as in its JSON; those without a group of callers are left out.
    """
    return [_row(side, sides) for side in sides if side.get("group")]


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
    seconds = [figures[name] for name in ("noticed_p50_s", "noticed_max_s") if name in figures]
    return [
        side["group"],
        side["name"],
        f"{side['requests']:,}",
        f"{side['upstream_calls']:,}",
        _NONE if late is None else f"{late:,.0f}",
        f"{figures['calls_per_s']:.1f}",
        _NONE if share is None else f"{round(share, 2) + 0.0:.0%}",
        f"{figures['refused']:,.0f} ({figures['refused_share']:.0%})",
        f"{figures['noticed']:.0f} of {figures['callers']:.0f}",
        "; ".join(f"{value:.2f} s" for value in seconds) or _NONE,
    ]
