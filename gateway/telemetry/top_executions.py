"""Which executions are asked for most; bounded, and hits pay nothing for it under load."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import msgspec

from gateway.clock import Clock
from gateway.core.aos.route import ExecutionRef
from gateway.core.caching import policy
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.entry import Entry
from gateway.core.http.messages import Fields

MOST = 256
"""Executions kept; who has not been seen for longest makes room."""

_RECENT_S = 300.0
# Who was polled for long and is no more makes room for who is polled now.
_HALF_LIFE_S = 30.0
_LOOK_AGAIN_S = 1.0
# Of longer bodies nobody needs the progress so much.
_MAX_LOOK_BYTES = 65_536
_MAX_PHASE_CHARACTERS = 40
# Noting a hit takes a tenth of answering one: the more hits there are, the fewer are noted.
_NOTED_EVERY_S = 0.01
_LONGEST_STRIDE = 64


class TopExecution(msgspec.Struct, frozen=True):
    """One execution as it was last seen.

    Attributes:
        stack_id: raw id of the path.
        action_id: raw id of the path.
        phase: what the record said; ``None`` when it said nothing.
        progress: percent; ``None`` when unknown.
        fetches: how often it was fetched since it came into the list.
        age_s: seconds since it was last asked for.
        heat: how much it is asked for now: one degree a time, half of it left after half a minute.
        hits: how often it was answered without a fetch of its own since it came into the list; close to it
            under load.
    """

    stack_id: str
    action_id: str
    phase: str | None
    progress: int | None
    fetches: int
    age_s: float
    rate: float
    hits: int = 0


class _Seen(msgspec.Struct):
    phase: str | None = None
    progress: int | None = None
    fetches: int = 0
    hits: int = 0
    rate: float = 0.0
    seen_s: float = 0.0
    looked_s: float = float("-inf")


class _Phase(msgspec.Struct, frozen=True):
    phase: str | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    progress: int | None = None
    object_status: _Phase | None = None


class _Record(msgspec.Struct, frozen=True):
    status: _Status | None = None


_decoder = msgspec.json.Decoder(_Record)


class HitSample:
    """Tells which hits to note: all while there are few, one of many under load.

    A noted hit stands for all since the one before. The steps are of random length, since callers often take
    turns.

    Attributes:
        next: the count of hits from which on one is to be noted.
    """

    __slots__ = ("_noted", "_noted_s", "_stride", "next")

    def __init__(self) -> None:
        self.next = 1
        self._noted = 0
        self._noted_s = float("-inf")
        self._stride = 1

    def take(self, hits: int, now_s: float) -> int:
        """Return for how many hits the one now noted stands, and choose the next.

        Args:
            hits: counted up to now, this one included.
            now_s: monotonic.
        """
        is_soon = now_s - self._noted_s < _NOTED_EVERY_S
        self._stride = min(self._stride * 2, _LONGEST_STRIDE) if is_soon else max(self._stride // 4, 1)
        weight = hits - self._noted
        self._noted, self._noted_s = hits, now_s
        self.next = hits + random.randint(1, 2 * self._stride - 1)
        return weight

    def hasten(self) -> None:
        """Have the next hit noted, so that those after a rush are not waited for."""
        self.next = self._noted + 1


class TopExecutions:
    """Counts execution records that are fetched, and those that are answered from here.

    Args:
        clock: the monotonic one.

    Attributes:
        fast: which hits of the fast lane are to be noted.
    """

    def __init__(self, clock: Clock) -> None:
        self.fast = HitSample()
        self._slow = HitSample()
        self._slow_hits = 0
        self._clock = clock
        # Least recently seen first.
        self._seen: dict[tuple[bytes, bytes], _Seen] = {}

    def fetched(
        self,
        execution: ExecutionRef,
        fetched_response: policy.FetchedResponse,
        decision: policy.StoreDecision,
    ) -> None:
        """Note a judged arrival; one that is no record is left out."""
        if not decision.is_record:
            return
        now_s = self._clock.monotonic_s()
        seen = self._met(execution.stack_id, execution.action_id, now_s, 1)
        seen.fetches += 1
        phase = decision.phase and decision.phase[:_MAX_PHASE_CHARACTERS]
        # Who is polled a hundred times a second makes no more progress than others.
        if phase != seen.phase or now_s - seen.looked_s >= _LOOK_AGAIN_S:
            _, seen.progress = _told(fetched_response.head.fields, fetched_response.body)
            seen.looked_s = now_s
        seen.phase = phase

    def shared(self, execution: ExecutionRef) -> None:
        """Note a call that was answered by the fetch of another one."""
        self._met(execution.stack_id, execution.action_id, self._clock.monotonic_s(), 1).hits += 1

    def fast_hit(self, path: bytes, entry: Entry, hits: int) -> None:
        """Note a hit of the fast lane.

        Args:
            path: of the execution call, what stands behind ``/v2/stacks/``.
            entry: what it was answered from.
            hits: of the fast lane up to now.
        """
        stack_id, _, rest = path.partition(b"/")
        self._hit(stack_id, rest.rpartition(b"/")[2], entry, self.fast, hits)

    def hit(self, execution: ExecutionRef, entry: Entry) -> None:
        """Count a hit of the parser's way, and perhaps note it."""
        self._slow_hits += 1
        if self._slow_hits >= self._slow.next:
            self._hit(execution.stack_id, execution.action_id, entry, self._slow, self._slow_hits)

    def _hit(self, stack_id: bytes, action_id: bytes, entry: Entry, sample: HitSample, hits: int) -> None:
        now_s = self._clock.monotonic_s()
        weight = sample.take(hits, now_s)
        seen = self._met(stack_id, action_id, now_s, weight)
        seen.hits += weight
        if now_s - seen.looked_s >= _LOOK_AGAIN_S:
            phase, progress = _told(entry.head().fields, entry.body)
            # Its fetch may have been told more.
            seen.phase, seen.progress = phase or seen.phase, seen.progress if progress is None else progress
            seen.looked_s = now_s

    def _met(self, stack_id: bytes, action_id: bytes, now_s: float, times: int) -> _Seen:
        """Return an execution that was asked for so many times, now the most recently seen."""
        key = (stack_id, action_id)
        seen = self._seen.pop(key, None) or _Seen()
        seen.rate = _cooled(seen, now_s) + times
        seen.seen_s = now_s
        self._seen[key] = seen
        if len(self._seen) > MOST:
            del self._seen[next(iter(self._seen))]
        return seen

    def busiest(self, most: int = 10) -> list[TopExecution]:
        """Return those seen in the last five minutes, those first that are asked for most now."""
        self.fast.hasten()
        self._slow.hasten()
        now_s = self._clock.monotonic_s()
        recent = [item for item in self._seen.items() if now_s - item[1].seen_s <= _RECENT_S]
        recent.sort(key=lambda item: _cooled(item[1], now_s), reverse=True)
        return [
            TopExecution(
                stack_id=stack_id.decode("ascii", "replace"),
                action_id=action_id.decode("ascii", "replace"),
                phase=seen.phase,
                progress=seen.progress,
                fetches=seen.fetches,
                age_s=round(now_s - seen.seen_s, 1),
                rate=round(_cooled(seen, now_s), 3),
                hits=seen.hits,
            )
            for (stack_id, action_id), seen in recent[:most]
        ]


def merged(lists: Iterable[Sequence[TopExecution]], most: int = 10) -> list[TopExecution]:
    """Put together what several processes have seen: counts add up, the latest says the rest."""
    found: dict[tuple[str, str], TopExecution] = {}
    for top_execution in itertools.chain.from_iterable(lists):
        key = (top_execution.stack_id, top_execution.action_id)
        other = found.get(key)
        if other is None:
            found[key] = top_execution
            continue
        latest = min(top_execution, other, key=lambda one: one.age_s)
        found[key] = msgspec.structs.replace(
            latest,
            fetches=top_execution.fetches + other.fetches,
            rate=top_execution.rate + other.rate,
            hits=top_execution.hits + other.hits,
        )
    return sorted(found.values(), key=lambda one: one.rate, reverse=True)[:most]


def _cooled(seen: _Seen, now_s: float) -> float:
    """Return what is left of an execution's heat, one degree a time."""
    return seen.rate * float(0.5 ** ((now_s - seen.seen_s) / _HALF_LIFE_S))


def _told(fields: Fields, body: bytes) -> tuple[str | None, int | None]:
    """Return the phase and the percentage a record tells; whatever is odd is unknown, it decides nothing."""
    if len(body) > _MAX_LOOK_BYTES:
        return None, None
    plain = plain_body(fields, body, _MAX_LOOK_BYTES)
    if not isinstance(plain, bytes):
        return None, None
    try:
        status = _decoder.decode(plain).status
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None, None
    if status is None:
        return None, None
    phase = status.object_status.phase if status.object_status is not None else None
    progress = status.progress if status.progress is not None and 0 <= status.progress <= 100 else None
    return phase and phase[:_MAX_PHASE_CHARACTERS], progress
