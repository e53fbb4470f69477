"""HTTP dates (RFC 9110 §5.6.7)."""

import re
from datetime import UTC, datetime

from gateway.core.http.messages import Fields, values

_FIFTY_YEARS_S = 50 * 365.2425 * 86_400

_MONTHS = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")
_DAY = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME = rb"(?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
# IMF-fixdate, and the obsolete forms of RFC 850 and of asctime.
_DATES = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        _DAY + rb", (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT",
        _LONG_DAY + rb", (?P<day>[0-9]{2})-" + _MONTH + rb"-(?P<year>[0-9]{2}) " + _TIME + rb" GMT",
        _DAY + rb" " + _MONTH + rb" (?P<day>[0-9]{2}| [0-9]) " + _TIME + rb" (?P<year>[0-9]{4})",
    )
)


def single_date_s(fields: Fields, name: bytes, now_s: float) -> float | None:
    """Return `date_s` of the field of this lower-case name; ``None`` also when it is absent or repeated."""
    lines = values(fields, name)
    return date_s(lines[0], now_s) if len(lines) == 1 else None


def date_s(value: bytes, now_s: float) -> float | None:
    """Return an HTTP date as seconds since the epoch.

    The three formats of RFC 9110 §5.6.7 in any case, as RFC 9111 §4.2 asks of caches, and nothing
    else: an invalid date counts as past (RFC 9111 §5.3).

    Args:
        value: the field's value.
        now_s: wall clock, for the century of a two-digit year.

    Returns:
        Seconds, or ``None`` for an unreadable value.
    """
    found = next((match for form in _DATES if (match := form.fullmatch(value)) is not None), None)
    if found is None:
        return None
    year = int(found["year"])
    two_digits = len(found["year"]) == 2
    if two_digits:
        year += datetime.fromtimestamp(now_s, UTC).year // 100 * 100
    month = _MONTHS.index(found["month"].lower()) + 1
    hour, minute, second = (int(part) for part in found["time"].split(b":"))
    try:
        # A leap second becomes the second before it.
        date = datetime(
            year, month, int(found["day"]), hour, minute, 59 if second == 60 else second, tzinfo=UTC
        )
        if two_digits and date.timestamp() > now_s + _FIFTY_YEARS_S:
            date = date.replace(year=year - 100)
    except ValueError:
        return None
    return date.timestamp()
