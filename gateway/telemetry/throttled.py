"""Which callers get the most answers with status 429."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from gateway.clock import Clock
from gateway.core.http.messages import Fields
from gateway.telemetry.caller_digest import CallerDigest

MOST = 256
"""Callers kept; who has not been seen for longest makes room."""

_RECENT_S = 300.0


class ThrottledCaller(msgspec.Struct, frozen=True):
    """One caller who was told to wait.

    Attributes:
        caller: what the access log calls it too (`CallerDigest`); "" for those without a credential.
        upstream: answers with status 429 that came from the upstream, since the caller came into the list.
        here: those that the gateway gave in its place.
        age_s: seconds since the last one.
    """

    caller: str
    upstream: int
    here: int
    age_s: float


class _Seen(msgspec.Struct):
    upstream: int = 0
    here: int = 0
    seen_s: float = 0.0


class ThrottledCallers:
    """Counts answers with status 429 by caller.

    Args:
        clock: the monotonic one.
        digest: names them.
    """

    def __init__(self, clock: Clock, digest: CallerDigest) -> None:
        self._clock = clock
        self._digest = digest
        # Least recently seen first.
        self._seen: dict[str, _Seen] = {}

    def count(self, fields: Fields, *, is_own: bool) -> None:
        """Count an answer.

        Args:
            fields: of the request.
            is_own: the gateway gave it in the upstream's place.
        """
        caller, now_s = self._digest.of(fields), self._clock.monotonic_s()
        seen = self._seen.pop(caller, None)
        if seen is None or now_s - seen.seen_s > _RECENT_S:
            seen = _Seen()
        seen.here += is_own
        seen.upstream += not is_own
        seen.seen_s = now_s
        self._seen[caller] = seen
        if len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]

    def most(self) -> list[ThrottledCaller]:
        """Return those of the last five minutes, who got most answers first."""
        now_s = self._clock.monotonic_s()
        return merged(
            [ThrottledCaller(caller, seen.upstream, seen.here, round(now_s - seen.seen_s, 1))]
            for caller, seen in self._seen.items()
            if now_s - seen.seen_s <= _RECENT_S
        )


def merged(lists: Iterable[Sequence[ThrottledCaller]], most: int = 10) -> list[ThrottledCaller]:
    """Put together what several processes have seen, who got most answers first."""
    found: dict[str, ThrottledCaller] = {}
    for one in itertools.chain.from_iterable(lists):
        other = found.get(one.caller, ThrottledCaller(one.caller, 0, 0, one.age_s))
        found[one.caller] = ThrottledCaller(
            one.caller, one.upstream + other.upstream, one.here + other.here, min(one.age_s, other.age_s)
        )
    return sorted(found.values(), key=lambda one: one.upstream + one.here, reverse=True)[:most]
