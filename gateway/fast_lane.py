"""Hits, answered from the bytes that were read: without parser, request, task or response.

The one module that relies on how aiohttp's server waits for requests. `why_closed` compares that with what
is installed; when it differs, or with ``server.fast_lane = false``, every request takes the parser's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from gateway.access_log import AccessLog
from gateway.clock import Clock
from gateway.connection import DownstreamConnection, DownstreamServer
from gateway.core.answers import hit_bytes
from gateway.core.caller import Recogniser
from gateway.core.entry import Entry
from gateway.core.glance import Owner, glance, owner_of, without_passing
from gateway.core.headers import Hop
from gateway.core.hosts import OwnHosts
from gateway.core.key import EntryKey, KeySpace
from gateway.core.route import execution
from gateway.core.status import Verdict
from gateway.metrics import Metrics
from gateway.reply import LARGE_BYTES
from gateway.request_id import RequestIds
from gateway.store.lookup import LookedUp
from gateway.store.tiers import Tiers

_STACKS = b"/v2/stacks/"
_KNOWN_MOST = 4_096
_KNOWN_BYTES = 8_388_608
# What may come behind a request while Redis is asked for it, until no more is read.
_HELD_BYTES = 65_536

# What is relied on: the attributes, and where aiohttp's own code uses them.
_ATTRIBUTES = ("_waiter", "_messages", "_close", "_force_close", "_keepalive", "_next_keepalive_close_time")
_USES: tuple[tuple[Callable[..., object], tuple[str, ...]], ...] = (
    (RequestHandler.start, ("_waiter", "_messages", "_keepalive", "_next_keepalive_close_time")),
    (RequestHandler._process_keepalive, ("_waiter", "_keepalive", "_next_keepalive_close_time")),
    (RequestHandler.data_received, ("_waiter", "_messages", "_close", "_force_close")),
    (BaseProtocol.pause_writing, ("_paused",)),
)


def why_closed() -> str | None:
    """Return in which way aiohttp is not as expected; ``None`` when it is."""
    slots = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    for name in _ATTRIBUTES:
        if name not in slots:
            return f"aiohttp's RequestHandler has no {name}"
    for function, names in _USES:
        code = getattr(function, "__code__", None)
        for name in names:
            if code is None or name not in code.co_names:
                return f"aiohttp's {function.__qualname__} does not use {name}"
    return None


class Question(msgspec.Struct, frozen=True, gc=False):
    """A look-up that Redis must answer.

    Attributes:
        key: what is looked for.
        path: of the request, for the log.
        request_id: the id the request brought; ``None`` when it brought none.
    """

    key: EntryKey
    path: bytes
    request_id: bytes | None


class FastLane:
    """Answers what it can without the parser.

    Args:
        tiers: the stores.
        recogniser: tells callers apart.
        keys: builds the keys.
        hop: what the gateway says about itself.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.
        max_header_bytes: bound of a whole head.
        clock: wall time.
        metrics: counts hits.
        access_log: writes a line for each.
        request_ids: names requests that bring no id.

    Attributes:
        is_open: false leaves every request to the parser.
    """

    def __init__(
        self,
        *,
        tiers: Tiers,
        recogniser: Recogniser,
        keys: KeySpace,
        hop: Hop,
        own_hosts: OwnHosts | None,
        max_header_bytes: int,
        clock: Clock,
        metrics: Metrics,
        access_log: AccessLog,
        request_ids: RequestIds,
    ) -> None:
        self.is_open = True
        self._tiers = tiers
        self._memory = tiers.memory
        self._recogniser = recogniser
        self._keys = keys
        self._hop = hop
        self._own_hosts = own_hosts
        self._max_header_bytes = max_header_bytes
        self._clock = clock
        self._metrics = metrics
        self._access_log = access_log
        self._request_ids = request_ids
        # Whose field lines these are, compared whole each time; None for lines that are the parser's matter.
        self._owners: dict[bytes, Owner | None] = {}
        self._owners_bytes = 0
        # Keys by what they were made from, since making one takes four digests.
        self._entry_keys: dict[bytes, EntryKey] = {}

    @property
    def known(self) -> int:
        """How many lists of field lines are kept."""
        return len(self._owners)

    def close(self) -> None:
        """Leave every request to the parser from now on: connections end with their next answer."""
        self.is_open = False

    def answer(self, data: bytes) -> bytes | Question | None:
        """Return the whole answer to what was read between two requests.

        Args:
            data: everything that has come since the last request.

        Returns:
            A question when memory doesn't have it and Redis may; ``None`` when the parser must see it.
        """
        seen = glance(data)
        if seen is None or not self.is_open or len(data) > self._max_header_bytes:
            return None
        owner = self._owners.get(seen.rest) or self._owner(seen.rest)
        if owner is None:
            return None
        if self._memory is not None:
            entry = self._memory.get(owner.owner + seen.path)
            if entry is not None:
                return self._hit(entry, seen.path, seen.request_id)
        if self._tiers.redis is None:
            return None
        key = self._key(owner, seen.path)
        return None if key is None else Question(key, seen.path, seen.request_id)

    def ask(self, question: Question, told: Callable[[LookedUp], None]) -> bool:
        """Ask Redis; ``told`` is called once, later. ``False`` when it is not asked at all."""
        return self._tiers.ask_redis(question.key, told)

    def found(self, question: Question, looked_up: LookedUp) -> bytes | None:
        """Return the whole answer to a question; ``None`` when the parser must see the request."""
        entry = looked_up.lookup.entry
        if entry is None or not self.is_open:
            return None
        return self._hit(entry, question.path, question.request_id)

    def _hit(self, entry: Entry, path: bytes, request_id: bytes | None) -> bytes | None:
        now_s = self._clock.wall_s()
        # The wall clock may have jumped; the memory tier goes by the other one.
        if entry.expires_s < now_s or len(entry.body) > LARGE_BYTES:
            return None
        if request_id is None:
            request_id = self._request_ids.fresh()
        self._metrics.fast_hits += 1
        if self._access_log.is_on:
            self._log(path, request_id, entry.ttl_s(now_s))
        return hit_bytes(entry, request_id, self._hop.via, now_s)

    def _owner(self, rest: bytes) -> Owner | None:
        """Return who sent field lines that are not known as they are."""
        if rest in self._owners:
            return None
        kept = without_passing(rest)
        if kept is None:
            return None
        owner = self._owners.get(kept)
        if owner is None and kept not in self._owners:
            owner = owner_of(
                kept, recogniser=self._recogniser, keys=self._keys, hop=self._hop, own_hosts=self._own_hosts
            )
            self._learn(kept, owner)
        return owner

    def _learn(self, rest: bytes, owner: Owner | None) -> None:
        self._owners[rest] = owner
        self._owners_bytes += len(rest)
        while len(self._owners) > _KNOWN_MOST or self._owners_bytes > _KNOWN_BYTES:
            oldest = next(iter(self._owners))
            del self._owners[oldest]
            self._owners_bytes -= len(oldest)

    def _key(self, owner: Owner, path: bytes) -> EntryKey | None:
        local = owner.owner + path
        key = self._entry_keys.get(local)
        if key is None:
            call = execution(_STACKS + path)
            if call is None or call.has_query:
                return None
            key = self._keys.entry(owner.caller, owner.variant, call)
            if len(self._entry_keys) >= _KNOWN_MOST:
                del self._entry_keys[next(iter(self._entry_keys))]
            self._entry_keys[local] = key
        return key

    def _log(self, path: bytes, request_id: bytes, ttl_s: float) -> None:
        self._access_log.write(
            request_id=request_id,
            method="GET",
            path=_STACKS + path,
            status=200,
            verdict=Verdict(ttl_s=int(ttl_s)),
            took_s=0.0,
        )


class FastLaneConnection(DownstreamConnection):
    """A caller's connection with a fast lane beside the parser."""

    __slots__ = ("_asked", "_ends", "_held", "_lane", "_looked_up")

    def __init__(self, server: DownstreamServer, lane: FastLane, **options: Any) -> None:
        super().__init__(server, **options)
        self._lane = lane
        # The request for which Redis is asked, and what came behind it; None while it is not.
        self._asked: bytes | None = None
        self._held = b""
        # The caller ended its side while Redis was asked.
        self._ends = False
        self._looked_up: LookedUp | None = None

    @property
    def is_asking(self) -> bool:
        """Redis is asked for the present request."""
        return self._asked is not None

    @property
    def is_busy(self) -> bool:
        """A request is being read, looked up, answered or waiting to be."""
        return self._asked is not None or super().is_busy

    def data_received(self, data: bytes) -> None:
        """Answer a hit at once; anything else goes the parser's way."""
        if self._asked is not None:
            self._hold(data)
            return
        waiter = self._waiter
        if (
            # aiohttp waits for the next request: nothing is queued, parsed or being answered.
            waiter is not None
            and not waiter.done()
            # Nothing has come of that request yet, and the connection goes on after it.
            and self.is_between_requests
            # The caller takes its answers.
            and not self._paused
        ):
            answer = self._lane.answer(data)
            if answer is not None:
                self._stop_head_timer()
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                if isinstance(answer, bytes):
                    assert self.transport is not None
                    self.transport.write(answer)
                    return
                if self._ask(answer, data):
                    return
        super().data_received(data)

    def take_looked_up(self) -> LookedUp | None:
        """Return the look-up that was made for the present request before it was parsed."""
        looked_up, self._looked_up = self._looked_up, None
        return looked_up

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio lets it say more
        """Wait for Redis before anything is made of the end of the caller's side."""
        if self._asked is None:
            return super().eof_received()
        self._ends = True
        return True

    def _ask(self, question: Question, data: bytes) -> bool:
        if not self._lane.ask(question, lambda looked_up: self._told(question, looked_up)):
            return False
        self._asked = data
        return True

    def _told(self, question: Question, looked_up: LookedUp) -> None:
        """Answer from what Redis has, or let the parser see the request after all."""
        data, self._asked = self._asked, None
        held, self._held = self._held, b""
        transport = self.transport
        if data is None or transport is None or transport.is_closing():
            return
        answer = self._lane.found(question, looked_up)
        if answer is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            transport.write(answer)
        else:
            self._looked_up = looked_up
            super().data_received(data)
        if held:
            self._resume_held()
            self.data_received(held)
        if self._ends and not self.eof_received():
            transport.close()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _resume_held(self) -> None:
        if self.transport is not None and not self._reading_paused and not self._buffer_paused:
            self.transport.resume_reading()
