"""Plain requests, answered from the bytes that were read; hits without request, task or response."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import msgspec

from gateway.clock import Clock
from gateway.core.aos.route import execution
from gateway.core.caching.cache_status import HIT
from gateway.core.caching.entry import Entry
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import KeySpace
from gateway.core.caching.plain_request import (
    KnownRequest,
    Owner,
    PlainRequest,
    known_request,
    read_owner,
    split_head,
    trace_fields,
    without_fields,
    without_request_id,
)
from gateway.core.caching.recent import Recent
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

_STACKS = b"/v2/stacks/"


class PlainLookup(msgspec.Struct, frozen=True, gc=False):
    """A plain request that memory has no answer for.

    Attributes:
        data: its whole head.
        seen: the request as it was split from its bytes.
        known: what it means.
        origin: of the connection.
        asked_s: monotonic time at which memory had none.
    """

    data: bytes
    seen: PlainRequest
    known: KnownRequest
    origin: Origin
    asked_s: float


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
        look_up: `Tiers.lookup_soon`.
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
        self._owners: Recent[Owner | None] = Recent()
        # By heads, without request id and trace fields, of what memory had no answer for; with what the keys
        # derive for Redis, which takes four digests.
        self._known: Recent[KnownRequest] = Recent()
        # The latest head named its request.
        self._has_id = False
        self.look_up = tiers.lookup_soon

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what answers a request."""
        return self._tasks.start(work, "answer")

    def read_again(self, tokens: set[bytes]) -> None:
        """Find out anew who the callers with these tokens are, by the digests of the tokens."""
        self._owners.discard(lambda owner: owner is not None and owner.identity.token in tokens)
        self._known.discard(lambda known: known.owner.identity.token in tokens)

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
        if not self.is_open:
            return None
        # Who named the last request by an id names this one too, most likely.
        known, request_id = None if self._has_id else self._known.get(data), None
        if known is None:
            split = without_request_id(data)
            if split is None or len(data) > self._max_header_bytes:
                return None
            head, request_id, id_start = split
            self._has_id = request_id is not None
            known = self._known.get(head)
        if known is not None:
            seen, owner, local = known.seen, known.owner, known.key.local
            if request_id is not None:
                seen = PlainRequest(seen.path, request_id, seen.rest, id_start)
        else:
            plain = split_head(head, request_id, id_start)
            if plain is None:
                return None
            known_owner = self._owners.get(plain.rest) or self._owner(plain.rest)
            if known_owner is None:
                return None
            seen, owner, local = plain, known_owner, known_owner.owner + plain.path
        entry = self._memory.get(local)
        if entry is not None:
            return self._hit(data, entry, seen, owner, origin=origin)
        if known is None:
            known = self._know(seen.path, owner)
            if known is None:
                return None
        return PlainLookup(data, seen, known, origin, time.monotonic())

    def found(self, question: PlainLookup, early_lookup: EarlyLookup) -> bytes | None:
        """Return the whole answer to a question; ``None`` when Redis has none that can be given so."""
        entry = early_lookup.lookup.entry
        if entry is None or not self.is_open:
            return None
        took_s = time.monotonic() - question.asked_s
        answer = self._hit(
            question.data, entry, question.seen, question.known.owner, origin=question.origin, took_s=took_s
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
        if not self.is_open:
            return False
        seen = question.seen
        request_id = seen.request_id or self._request_ids.fresh()
        plain = question.known.request(
            question.data, seen, request_id, peer=connection.peer, scheme=connection.scheme
        )
        if plain is None:
            return False
        request, eligible = plain
        self._handler.answer_plain(
            connection, request, eligible, found, started_s=question.asked_s, on_prepared=on_prepared
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
            self._owners.put(kept, owner)
        return owner

    def _know(self, path: bytes, owner: Owner) -> KnownRequest | None:
        """Return what a request means; ``None`` when its path names no record that may be stored."""
        head = b"GET %b%b HTTP/1.1%b" % (_STACKS, path, owner.rest)
        known = self._known.get(head)
        if known is None:
            call = execution(_STACKS + path)
            if call is None or call.has_query:
                return None
            key = self._keys.entry(owner.identity.entry, owner.variant.general, call, owner.owner)
            known = known_request(owner, path, call, key)
            self._known.put(head, known)
        return known
