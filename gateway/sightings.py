"""Which executions are fetched most; bounded, and off the way of hits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from gateway.clock import Clock
from gateway.core import policy
from gateway.core.messages import Fields
from gateway.core.route import Execution

MOST = 256
"""Executions kept; who has not been seen for longest makes room."""

_RECENT_S = 300.0
# Who was polled for long and is no more makes room for who is polled now.
_HALF_LIFE_S = 30.0
_LOOK_AGAIN_S = 1.0
# Of longer bodies nobody needs the progress so much.
_MAX_LOOK_BYTES = 65_536
_MAX_PHASE_CHARACTERS = 40


class Sighting(msgspec.Struct, frozen=True):
    """One execution as it was last seen.

    Attributes:
        stack_id: raw id of the path.
        action_id: raw id of the path.
        phase: what the record said; ``None`` when it said nothing.
        progress: percent; ``None`` when unknown.
        fetches: how often it was fetched since it came into the list.
        age_s: seconds since the last fetch.
        heat: how much it is fetched now: one degree a fetch, half of it left after half a minute.
    """

    stack_id: str
    action_id: str
    phase: str | None
    progress: int | None
    fetches: int
    age_s: float
    heat: float


class _Seen(msgspec.Struct):
    phase: str | None = None
    progress: int | None = None
    fetches: int = 0
    heat: float = 0.0
    seen_s: float = 0.0
    looked_s: float = float("-inf")


class _Status(msgspec.Struct, frozen=True):
    progress: int | None = None


class _Record(msgspec.Struct, frozen=True):
    status: _Status | None = None


_decoder = msgspec.json.Decoder(_Record)


class Sightings:
    """Counts fetched execution records.

    Args:
        clock: the monotonic one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Least recently seen first.
        self._seen: dict[tuple[bytes, bytes], _Seen] = {}

    def saw(self, execution: Execution, arrival: policy.Arrival, judgement: policy.Judgement) -> None:
        """Note a judged arrival; one that is no record is left out."""
        if not judgement.is_record:
            return
        key = (execution.stack_id, execution.action_id)
        seen = self._seen.pop(key, None) or _Seen()
        now_s = self._clock.monotonic_s()
        phase = judgement.phase and judgement.phase[:_MAX_PHASE_CHARACTERS]
        # Who is polled a hundred times a second makes no more progress than others.
        if phase != seen.phase or now_s - seen.looked_s >= _LOOK_AGAIN_S:
            seen.progress = _progress(arrival.head.fields, arrival.body)
            seen.looked_s = now_s
        seen.phase = phase
        seen.fetches += 1
        seen.heat = _cooled(seen, now_s) + 1.0
        seen.seen_s = now_s
        self._seen[key] = seen
        if len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]

    def busiest(self, most: int = 10) -> list[Sighting]:
        """Return those seen in the last five minutes, those first that are fetched most now."""
        now_s = self._clock.monotonic_s()
        recent = [item for item in self._seen.items() if now_s - item[1].seen_s <= _RECENT_S]
        recent.sort(key=lambda item: _cooled(item[1], now_s), reverse=True)
        return [
            Sighting(
                stack_id=stack_id.decode("ascii", "replace"),
                action_id=action_id.decode("ascii", "replace"),
                phase=seen.phase,
                progress=seen.progress,
                fetches=seen.fetches,
                age_s=round(now_s - seen.seen_s, 1),
                heat=round(_cooled(seen, now_s), 3),
            )
            for (stack_id, action_id), seen in recent[:most]
        ]


def merged(lists: Iterable[Sequence[Sighting]], most: int = 10) -> list[Sighting]:
    """Put together what several processes have seen: counts add up, the latest says the rest."""
    found: dict[tuple[str, str], Sighting] = {}
    for sighting in itertools.chain.from_iterable(lists):
        key = (sighting.stack_id, sighting.action_id)
        other = found.get(key)
        if other is None:
            found[key] = sighting
            continue
        latest = min(sighting, other, key=lambda one: one.age_s)
        fetches, heat = sighting.fetches + other.fetches, sighting.heat + other.heat
        found[key] = msgspec.structs.replace(latest, fetches=fetches, heat=heat)
    return sorted(found.values(), key=lambda one: one.heat, reverse=True)[:most]


def _cooled(seen: _Seen, now_s: float) -> float:
    """Return what is left of an execution's heat, one degree a fetch."""
    return seen.heat * float(0.5 ** ((now_s - seen.seen_s) / _HALF_LIFE_S))


def _progress(fields: Fields, body: bytes) -> int | None:
    """Return the percentage a record tells; it decides nothing, so whatever is odd is no progress."""
    if len(body) > _MAX_LOOK_BYTES:
        return None
    plain = policy.plain_body(fields, body, _MAX_LOOK_BYTES)
    if not isinstance(plain, bytes):
        return None
    try:
        status = _decoder.decode(plain).status
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    progress = status.progress if status is not None else None
    return progress if progress is not None and 0 <= progress <= 100 else None
