"""The callers with the most responses of status 429."""

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from gateway.clock import Clock
from gateway.core.caching.identity import Identity
from gateway.core.http.messages import Fields
from gateway.telemetry.caller_digest import CallerDigest

MOST = 256
"""Callers kept; the least recently throttled one is evicted."""

_SHOWN = 10
_RECENT_S = 300.0


class ThrottledCaller(msgspec.Struct, frozen=True):
    """One throttled caller.

    Attributes:
        caller: as in the access log (`CallerDigest`); "" for those without a credential.
        upstream: responses of the upstream with status 429 since the caller is in the list.
        here: such responses of the gateway itself.
        age_s: seconds since the last one.
    """

    caller: str
    upstream: int
    here: int
    age_s: float


class _Counts(msgspec.Struct):
    upstream: int = 0
    here: int = 0
    last_s: float = 0.0


class ThrottledCallers:
    """Counts responses with status 429 by caller."""

    def __init__(self, clock: Clock, digest: CallerDigest) -> None:
        self._clock = clock
        self._digest = digest
        # Least recently throttled first.
        self._counts: dict[str, _Counts] = {}

    def count(self, caller: Identity | Fields, *, is_own: bool) -> None:
        """Count a response to a caller, see `CallerDigest.of`; `is_own` if it is the gateway's."""
        name, now_s = self._digest.of(caller), self._clock.monotonic_s()
        counts = self._counts.pop(name, None)
        if counts is None or now_s - counts.last_s > _RECENT_S:
            counts = _Counts()
        counts.here += is_own
        counts.upstream += not is_own
        counts.last_s = now_s
        self._counts[name] = counts
        if len(self._counts) > MOST:
            del self._counts[next(iter(self._counts))]

    def most(self) -> list[ThrottledCaller]:
        """Return those of the last five minutes, the most throttled first."""
        now_s = self._clock.monotonic_s()
        return merged(
            [ThrottledCaller(caller, counts.upstream, counts.here, round(now_s - counts.last_s, 1))]
            for caller, counts in self._counts.items()
            if now_s - counts.last_s <= _RECENT_S
        )


def merged(lists: Iterable[Sequence[ThrottledCaller]]) -> list[ThrottledCaller]:
    """Merge the lists of several processes, the most throttled first."""
    found: dict[str, ThrottledCaller] = {}
    for one in itertools.chain.from_iterable(lists):
        other = found.get(one.caller, ThrottledCaller(one.caller, 0, 0, one.age_s))
        found[one.caller] = ThrottledCaller(
            one.caller, one.upstream + other.upstream, one.here + other.here, min(one.age_s, other.age_s)
        )
    return sorted(found.values(), key=lambda one: one.upstream + one.here, reverse=True)[:_SHOWN]
