"""The most requested executions: a bounded list, and hits are sampled under load."""

import itertools
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from gateway.clock import Clock
from gateway.core.aos.execution import RecordSummary, decode_deciding
from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.content_coding import plain_body
from gateway.core.caching.entry import Entry

MOST = 256
"""Executions kept; the least recently requested one is evicted."""

_SHOWN = 10
_RECENT_S = 300.0
# What is polled now ranks above what was polled more often before.
_HALF_LIFE_S = 30.0
_DECODE_AGAIN_S = 1.0
# The progress of a larger body is not worth decoding it.
_MAX_DECODED_BYTES = 65_536
_MAX_PHASE_CHARACTERS = 40
# Counting a hit costs a tenth of serving one: the more hits, the fewer are sampled.
_SAMPLED_EVERY_S = 0.01
_LONGEST_STRIDE = 64


class TopExecution(msgspec.Struct, frozen=True):
    """One execution.

    Attributes:
        stack_id: raw id of the path.
        action_id: raw id of the path.
        phase: of the last record; ``None`` when unknown.
        progress: percent; ``None`` when unknown.
        fetches: how often it was fetched since it is in the list.
        age_s: seconds since the last request.
        rate: how much it is requested now: each request adds 1, which decays with a half-life of 30 s.
        hits: responses without a fetch of their own since it is in the list; an estimate under load.
    """

    stack_id: str
    action_id: str
    phase: str | None
    progress: int | None
    fetches: int
    age_s: float
    rate: float
    hits: int = 0


@dataclass(slots=True, eq=False, repr=False)
class _Counts:
    phase: str | None = None
    progress: int | None = None
    fetches: int = 0
    hits: int = 0
    rate: float = 0.0
    requested_s: float = 0.0
    decoded_s: float = float("-inf")


class HitSample:
    """Selects the hits to count: all while there are few, one of many under load.

    A sampled hit stands for all since the one before. Steps have random lengths, because callers often take
    turns.

    Attributes:
        next: the number of hits at which the next one is sampled.
    """

    __slots__ = ("_hits", "_sampled_s", "_stride", "next")

    def __init__(self) -> None:
        self.next = 1
        self._hits = 0
        self._sampled_s = float("-inf")
        self._stride = 1

    def take(self, hits: int, now_s: float) -> int:
        """Return how many hits, of these until now, the present one stands for, and choose the next."""
        is_soon = now_s - self._sampled_s < _SAMPLED_EVERY_S
        self._stride = min(self._stride * 2, _LONGEST_STRIDE) if is_soon else max(self._stride // 4, 1)
        weight = hits - self._hits
        self._hits, self._sampled_s = hits, now_s
        self.next = hits + random.randint(1, 2 * self._stride - 1)
        return weight

    def hasten(self) -> None:
        """Sample the next hit, so that a list read after a rush is up to date."""
        self.next = self._hits + 1


class TopExecutions:
    """Counts fetches and hits of execution records; `fast` selects the hits of the fast path to count."""

    def __init__(self, clock: Clock) -> None:
        self.fast = HitSample()
        self._slow = HitSample()
        self._slow_hits = 0
        self._clock = clock
        # Least recently requested first.
        self._counts: OrderedDict[tuple[bytes, bytes], _Counts] = OrderedDict()

    def fetched(self, execution: ExecutionRef, record: RecordSummary | None) -> None:
        """Count a fetch, if its response is a record."""
        if record is None:
            return
        now_s = self._clock.monotonic_s()
        counts = self._requested(execution.stack_id, execution.action_id, now_s, 1)
        counts.fetches += 1
        phase = record.phase
        phase = phase and phase[:_MAX_PHASE_CHARACTERS]
        # Frequent polls do not make progress faster.
        if phase != counts.phase or now_s - counts.decoded_s >= _DECODE_AGAIN_S:
            counts.phase, counts.progress, counts.decoded_s = phase, record.progress, now_s

    def shared(self, execution: ExecutionRef) -> None:
        """Count a request that another one's fetch answered."""
        self._requested(execution.stack_id, execution.action_id, self._clock.monotonic_s(), 1).hits += 1

    def fast_hit(self, path: bytes, entry: Entry, hits: int) -> None:
        """Count a sampled hit of the fast path, the ``hits``-th; ``path`` is what follows ``/v2/stacks/``."""
        stack_id, _, rest = path.partition(b"/")
        self._hit(stack_id, rest.rpartition(b"/")[2], entry, self.fast, hits)

    def hit(self, execution: ExecutionRef, entry: Entry) -> None:
        """Count a hit of the handler, if it is sampled."""
        self._slow_hits += 1
        if self._slow_hits >= self._slow.next:
            self._hit(execution.stack_id, execution.action_id, entry, self._slow, self._slow_hits)

    def _hit(self, stack_id: bytes, action_id: bytes, entry: Entry, sample: HitSample, hits: int) -> None:
        now_s = self._clock.monotonic_s()
        weight = sample.take(hits, now_s)
        counts = self._requested(stack_id, action_id, now_s, weight)
        counts.hits += weight
        if now_s - counts.decoded_s >= _DECODE_AGAIN_S:
            phase, progress = _progress(entry)
            # What can't be read here may be known from the fetch.
            counts.phase = phase or counts.phase
            counts.progress = counts.progress if progress is None else progress
            counts.decoded_s = now_s

    def _requested(self, stack_id: bytes, action_id: bytes, now_s: float, times: int) -> _Counts:
        """Return the counts of an execution, which becomes the most recently requested one."""
        key = (stack_id, action_id)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
            if len(self._counts) > MOST:
                self._counts.popitem(last=False)
        self._counts.move_to_end(key)
        counts.rate = _decayed(counts, now_s) + times
        counts.requested_s = now_s
        return counts

    def busiest(self) -> list[TopExecution]:
        """Return those of the last five minutes by rate, highest first."""
        self.fast.hasten()
        self._slow.hasten()
        now_s = self._clock.monotonic_s()
        recent = [item for item in self._counts.items() if now_s - item[1].requested_s <= _RECENT_S]
        recent.sort(key=lambda item: _decayed(item[1], now_s), reverse=True)
        return [
            TopExecution(
                stack_id=stack_id.decode("ascii", "replace"),
                action_id=action_id.decode("ascii", "replace"),
                phase=counts.phase,
                progress=counts.progress,
                fetches=counts.fetches,
                age_s=round(now_s - counts.requested_s, 1),
                rate=round(_decayed(counts, now_s), 3),
                hits=counts.hits,
            )
            for (stack_id, action_id), counts in recent[:_SHOWN]
        ]


def merged(lists: Iterable[Sequence[TopExecution]]) -> list[TopExecution]:
    """Merge the lists of several processes: counts add up, the rest is that of the latest request."""
    found: dict[tuple[str, str], TopExecution] = {}
    for one in itertools.chain.from_iterable(lists):
        key = (one.stack_id, one.action_id)
        other = found.get(key, msgspec.structs.replace(one, fetches=0, rate=0.0, hits=0))
        found[key] = msgspec.structs.replace(
            min(one, other, key=lambda each: each.age_s),
            fetches=one.fetches + other.fetches,
            rate=one.rate + other.rate,
            hits=one.hits + other.hits,
        )
    return sorted(found.values(), key=lambda one: one.rate, reverse=True)[:_SHOWN]


def _decayed(counts: _Counts, now_s: float) -> float:
    return counts.rate * float(0.5 ** ((now_s - counts.requested_s) / _HALF_LIFE_S))


def _progress(entry: Entry) -> tuple[str | None, int | None]:
    """Return phase and percentage of a record; ``None`` for what can't be read."""
    if len(entry.body) > _MAX_DECODED_BYTES:
        return None, None
    plain = plain_body(entry.head().fields, entry.body, _MAX_DECODED_BYTES)
    record = decode_deciding(plain) if isinstance(plain, bytes) else None
    if not isinstance(record, RecordSummary):
        return None, None
    return record.phase and record.phase[:_MAX_PHASE_CHARACTERS], record.progress
