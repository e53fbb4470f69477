"""Plain requests, answered from the bytes that were read; hits without request, task or response."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from gateway.clock import Clock
from gateway.core.aos.route import ExecutionRef, execution
from gateway.core.caching.cache_status import HIT
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import EntryKey, KeySpace
from gateway.core.caching.plain_request import (
    Owner,
    PlainRequest,
    plain_request,
    read_owner,
    read_plain,
    trace_fields,
    without_fields,
)
from gateway.core.caching.responses import hit_bytes, hit_status
from gateway.core.http.host import OwnHosts
from gateway.core.http.proxy_identity import ProxyIdentity
from gateway.core.http.trace_context import parent
from gateway.downstream.connection import DownstreamConnection
from gateway.downstream.connection_origin import Origin
from gateway.downstream.handler import Handler, OnPrepared
from gateway.downstream.request_id import RequestIds
from gateway.downstream.response import LARGE_BYTES
from gateway.store.lookup import EarlyLookup
from gateway.store.tiers import Tiers
from gateway.tasks import TaskSet
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.top_executions import TopExecutions

_NOWHERE = Origin()
T = TypeVar("T")

_STACKS = b"/v2/stacks/"
_KNOWN_MOST = 4_096
_KNOWN_BYTES = 8_388_608
_REMEMBERED_MOST = 2_048


class PlainLookup(msgspec.Struct, frozen=True, gc=False):
    """A plain request that memory has no answer for.

    Attributes:
        data: its whole head.
        seen: the request as it was split from its bytes.
        owner: who asks.
        origin: of the connection.
        asked_s: monotonic time at which memory had none.
    """

    data: bytes
    seen: PlainRequest
    owner: Owner
    origin: Origin
    asked_s: float

    @property
    def target(self) -> bytes:
        """Path and query."""
        return _STACKS + self.seen.path


class FastPath:
    """Answers what it can without the parser.

    Args:
        tiers: the stores.
        identity_reader: tells callers apart.
        keys: builds the keys.
        proxy: what the gateway says about itself.
        own_hosts: what ``Host`` may say; ``None`` lets it say anything.
        max_header_bytes: bound of a whole head.
        clock: wall time.
        metrics: counts hits.
        access_log: writes a line for each.
        request_ids: names requests that bring no id.
        handler: answers what has to be fetched.
        top_executions: counts some of the hits.

    Attributes:
        is_open: false leaves every request to the parser.
    """

    def __init__(
        self,
        *,
        tiers: Tiers,
        identity_reader: IdentityReader,
        keys: KeySpace,
        proxy: ProxyIdentity,
        own_hosts: OwnHosts | None,
        max_header_bytes: int,
        clock: Clock,
        metrics: Metrics,
        access_log: AccessLog,
        request_ids: RequestIds,
        handler: Handler,
        top_executions: TopExecutions,
    ) -> None:
        self.is_open = True
        self._tiers = tiers
        self._memory = tiers.memory
        self._identity_reader = identity_reader
        self._passing = trace_fields(identity_reader)
        self._keys = keys
        self._proxy = proxy
        self._own_hosts = own_hosts
        self._max_header_bytes = max_header_bytes
        self._clock = clock
        self._metrics = metrics
        self._hit_s = metrics.request_s[HIT,]
        self._access_log = access_log
        self._request_ids = request_ids
        self._handler = handler
        self._top_executions = top_executions
        self._sample = top_executions.fast
        self._tasks = TaskSet()
        # Whose field lines these are, compared whole each time; None for lines that are the parser's matter.
        self._owners: dict[bytes, Owner | None] = {}
        self._owners_bytes = 0
        self._executions: dict[bytes, ExecutionRef] = {}
        # With what they derive for Redis, which takes four digests.
        self._entry_keys: dict[bytes, EntryKey] = {}

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what answers a request."""
        return self._tasks.start(work, "answer")

    def read_again(self, tokens: set[bytes]) -> None:
        """Find out anew who the callers with these tokens are, by the digests of the tokens."""
        for rest in [
            rest for rest, owner in self._owners.items() if owner and owner.identity.token in tokens
        ]:
            del self._owners[rest]
            self._owners_bytes -= len(rest)

    def close(self) -> None:
        """Leave every request to the parser from now on: connections end with their next answer."""
        self.is_open = False

    def answer(self, data: bytes, origin: Origin = _NOWHERE) -> bytes | PlainLookup | None:
        """Return the whole answer to what was read between two requests.

        Args:
            data: everything that has come since the last request.
            origin: of the connection.

        Returns:
            A question when memory has no answer; ``None`` when the parser must see it.
        """
        seen = read_plain(data)
        if seen is None or not self.is_open or len(data) > self._max_header_bytes:
            return None
        owner = self._owners.get(seen.rest) or self._owner(seen.rest)
        if owner is None:
            return None
        entry = self._memory.get(owner.owner + seen.path)
        if entry is not None:
            return self._hit(data, entry, seen, owner, origin=origin)
        return PlainLookup(data, seen, owner, origin, time.monotonic())

    def look_up(self, question: PlainLookup, on_result: Callable[[EarlyLookup | None], None]) -> None:
        """Look into Redis, where there is one.

        Args:
            question: of which memory has no answer.
            on_result: called once, perhaps before this returns; with ``None`` when it is still to be
                looked up, which may take a wait.
        """
        key = self._key(question.owner, question.seen.path)
        if key is None:
            on_result(None)
        else:
            self._tiers.lookup_soon(key, on_result)

    def found(self, question: PlainLookup, early_lookup: EarlyLookup) -> bytes | None:
        """Return the whole answer to a question; ``None`` when Redis has none that can be given so."""
        entry = early_lookup.lookup.entry
        if entry is None or not self.is_open:
            return None
        took_s = time.monotonic() - question.asked_s
        answer = self._hit(
            question.data, entry, question.seen, question.owner, origin=question.origin, took_s=took_s
        )
        if answer is not None:
            self._hit_s.observe(took_s)
        return answer

    def fetch(
        self,
        question: PlainLookup,
        connection: DownstreamConnection,
        found: EarlyLookup | None,
        on_prepared: OnPrepared,
    ) -> bool:
        """Fetch the answer to a question; ``False`` when the parser must see the request.

        Args:
            question: whose look-up gave no answer.
            connection: it came over.
            found: what the look-up gave; ``None`` when it is still to be made.
            on_prepared: called once, perhaps before this returns.
        """
        call = self._execution(question.seen.path)
        if call is None or not self.is_open:
            return False
        request = plain_request(
            question.data,
            question.seen,
            question.owner,
            call,
            question.seen.request_id or self._request_ids.fresh(),
            peer=connection.peer,
            scheme=connection.scheme,
        )
        if request is None:
            return False
        self._handler.answer_plain(
            connection, *request, found, started_s=question.asked_s, on_prepared=on_prepared
        )
        return True

    def _hit(
        self,
        data: bytes,
        entry: Entry,
        seen: PlainRequest,
        owner: Owner,
        *,
        origin: Origin,
        took_s: float = 0.0,
    ) -> bytes | None:
        now_s = entry.now_s(self._clock.wall_s(), self._clock.monotonic_s())
        # The wall clock may have jumped ahead; the memory tier goes by the other one.
        if entry.expires_s <= now_s or len(entry.body) > LARGE_BYTES:
            return None
        # What was chosen by another Accept; the parser's way looks where this one's is.
        if entry.accept and not entry.suits(owner.variant.accept):
            return None
        request_id = seen.request_id or self._request_ids.fresh()
        hits = self._metrics.fast_hits + 1
        self._metrics.fast_hits = hits
        if type(entry) is not Entry:
            self._metrics.fast_running_hits += 1
        # One comparison: under load few hits are sampled, see `HitSample`.
        if hits >= self._sample.next:
            self._top_executions.fast_hit(seen.path, entry, hits)
        answer = hit_bytes(entry, request_id, self._proxy.via, now_s)
        if self._access_log.is_on and self._access_log.wants_hit():
            self._access_log.write(
                request_id=request_id,
                peer=origin.caller_address(data),
                caller=owner.identity,
                parent=parent(data),
                method="GET",
                path=_STACKS + seen.path,
                status=200,
                cache_status=hit_status(entry, now_s),
                took_s=took_s,
                received_bytes=len(data),
                sent_bytes=len(answer),
                user_agent=owner.user_agent,
            )
        return answer

    def _owner(self, rest: bytes) -> Owner | None:
        """Return who sent field lines that are not known as they are."""
        if rest in self._owners:
            return None
        kept = without_fields(rest, self._passing)
        if kept is None:
            return None
        owner = self._owners.get(kept)
        if owner is None and kept not in self._owners:
            owner = read_owner(
                kept,
                identity_reader=self._identity_reader,
                keys=self._keys,
                proxy=self._proxy,
                own_hosts=self._own_hosts,
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
        if key is None and (call := self._execution(path)) is not None:
            key = self._keys.entry(owner.identity.entry, owner.variant.general, call, owner.owner)
            _remember(self._entry_keys, local, key)
        return key

    def _execution(self, path: bytes) -> ExecutionRef | None:
        """Return what a path names; ``None`` when that is no execution whose record may be stored."""
        call = self._executions.get(path)
        if call is None:
            call = execution(_STACKS + path)
            if call is None or call.has_query:
                return None
            _remember(self._executions, path, call)
        return call


def _remember(known: dict[bytes, T], key: bytes, value: T) -> None:
    if len(known) >= _REMEMBERED_MOST:
        del known[next(iter(known))]
    known[key] = value
