"""Hits in memory, answered from the bytes that were read: without parser, request, task or response.

The one module that relies on how aiohttp's server waits for requests. `why_closed` compares that with what
is installed; when it differs, or with ``server.fast_lane = false``, every request takes the parser's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from gateway.access_log import AccessLog, Answered
from gateway.clock import Clock
from gateway.connection import DownstreamConnection, DownstreamServer
from gateway.core.answers import hit_bytes
from gateway.core.caller import Recogniser
from gateway.core.glance import glance, owner_of, without_passing
from gateway.core.headers import Hop
from gateway.core.hosts import OwnHosts
from gateway.core.key import KeySpace
from gateway.core.status import Verdict
from gateway.core.trace import parent_in
from gateway.metrics import Metrics
from gateway.reply import LARGE_BYTES
from gateway.request_id import RequestIds
from gateway.store.memory import MemoryStore

_KNOWN_MOST = 4_096
_KNOWN_BYTES = 8_388_608

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


class FastLane:
    """Answers what it can from memory.

    Args:
        memory: the tier in this process.
        recogniser: tells callers apart.
        keys: builds the keys.
        hop: what the gateway says about itself.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.
        max_header_bytes: bound of a whole head.
        clock: wall time.
        metrics: counts hits.
        access_log: writes a line for each.
        request_ids: names requests that bring no id.
    """

    def __init__(
        self,
        *,
        memory: MemoryStore,
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
        self._memory = memory
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
        self._known: dict[bytes, bytes | None] = {}
        self._known_bytes = 0
        self._is_open = True

    @property
    def known(self) -> int:
        """How many lists of field lines are kept."""
        return len(self._known)

    def close(self) -> None:
        """Leave every request to the parser from now on: connections end with their next answer."""
        self._is_open = False

    def answer(self, data: bytes) -> bytes | None:
        """Return the whole answer to what was read between two requests.

        Args:
            data: everything that has come since the last request.

        Returns:
            ``None`` when the parser must see it.
        """
        seen = glance(data)
        if seen is None or not self._is_open or len(data) > self._max_header_bytes:
            return None
        owner = self._known.get(seen.rest) or self._owner(seen.rest)
        if owner is None:
            return None
        entry = self._memory.get(owner + seen.path)
        if entry is None or len(entry.body) > LARGE_BYTES:
            return None
        now_s = self._clock.wall_s()
        if entry.expires_s < now_s:
            # The wall clock has jumped; the memory tier goes by the other one.
            return None
        request_id = seen.request_id or self._request_ids.fresh()
        self._metrics.fast_hits += 1
        answer = hit_bytes(entry, request_id, self._hop.via, now_s)
        if self._access_log.is_on and self._access_log.wants_hit():
            self._log(data, seen.path, request_id, entry.ttl_s(now_s), len(answer))
        return answer

    def _owner(self, rest: bytes) -> bytes | None:
        """Return who sent field lines that are not known as they are."""
        if rest in self._known:
            return None
        kept = without_passing(rest)
        if kept is None:
            return None
        owner = self._known.get(kept)
        if owner is None and kept not in self._known:
            owner = owner_of(
                kept, recogniser=self._recogniser, keys=self._keys, hop=self._hop, own_hosts=self._own_hosts
            )
            self._learn(kept, owner)
        return owner

    def _learn(self, rest: bytes, owner: bytes | None) -> None:
        self._known[rest] = owner
        self._known_bytes += len(rest)
        while len(self._known) > _KNOWN_MOST or self._known_bytes > _KNOWN_BYTES:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._known_bytes -= len(oldest)

    def _log(self, data: bytes, path: bytes, request_id: bytes, ttl_s: float, sent_bytes: int) -> None:
        self._access_log.write(
            Answered(
                request_id=request_id,
                parent=parent_in(data),
                method="GET",
                path=b"/v2/stacks/" + path,
                status=200,
                verdict=Verdict(ttl_s=int(ttl_s)),
                upstream_s=None,
                took_s=0.0,
                sent_bytes=sent_bytes,
            )
        )


class Lane(Protocol):
    """What answers in front of the parser."""

    def answer(self, data: bytes) -> bytes | None:
        """Return the whole answer to what was read between two requests; see `FastLane.answer`."""


class FastLaneConnection(DownstreamConnection):
    """A caller's connection with a fast lane beside the parser."""

    __slots__ = ("_lane",)

    def __init__(self, server: DownstreamServer, lane: Lane, **options: Any) -> None:
        super().__init__(server, **options)
        self._lane = lane

    def data_received(self, data: bytes) -> None:
        """Answer a hit at once; anything else goes the parser's way."""
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
                assert self.transport is not None
                self.transport.write(answer)
                return
        super().data_received(data)
