"""Times in an HdrHistogram, three digits from a microsecond to an hour; the one importer of hdrh."""

from typing import Final

from hdrh.histogram import HdrHistogram

_LOWEST_US: Final = 1
_HIGHEST_US: Final = 3_600_000_000
_DIGITS: Final = 3


class Histogram:
    """How often each time occurred."""

    def __init__(self) -> None:
        self._counts = HdrHistogram(_LOWEST_US, _HIGHEST_US, _DIGITS)

    def record(self, time_s: float) -> None:
        """Count one time; what is beyond the range counts as its end."""
        self._counts.record_value(min(max(round(time_s * 1e6), _LOWEST_US), _HIGHEST_US))

    @property
    def count(self) -> int:
        """How many times were counted."""
        return int(self._counts.get_total_count())

    def quantile_ms(self, percent: float) -> float:
        """Return the time in milliseconds that this share of the counted ones does not pass; 0 of none."""
        return float(self._counts.get_value_at_percentile(percent)) / 1000 if self.count else 0.0

    @property
    def max_ms(self) -> float:
        """The longest time in milliseconds; 0 of none."""
        return float(self._counts.get_max_value()) / 1000 if self.count else 0.0

    def encoded(self) -> str:
        """Return it as text (HdrHistogram's V2 format, compressed, base64; values in microseconds)."""
        return bytes(self._counts.encode()).decode("ascii")

    def add(self, encoded: str) -> None:
        """Count what another one has counted, to merge rounds or generators."""
        self._counts.decode_and_add(encoded.encode("ascii"))
