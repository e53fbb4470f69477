"""The three ways in which AOS writes a moment."""

from datetime import UTC, datetime, timedelta, timezone

_CHINA = timezone(timedelta(hours=8))


def rfc3339(at_s: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(at_s: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339_china(at_s: float) -> str:
    """Return Unix seconds as RFC 3339 with the offset +08:00, as health checks do."""
    return datetime.fromtimestamp(at_s, _CHINA).isoformat(timespec="seconds")
