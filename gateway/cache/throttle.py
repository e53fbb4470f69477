"""Callers whom the upstream asked to wait: their misses are answered here until the time is over."""

import math
import random
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass, field

from gateway.cache.results import Response
from gateway.clock import Clock
from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.retry_after import back_off
from gateway.core.caching.throttled_response import ThrottledResponse, readable_body, throttled_response
from gateway.core.http.messages import Head
from gateway.errors import Throttled

# Stands for all callers; no digest is empty.
_ALL = b""


@dataclass(eq=False, repr=False)
class Throttle:
    """Remembers, by caller digest, until when the upstream wants to hear nothing, and its 429.

    Attributes:
        via: the gateway's ``Via`` member.
        identity_headers: lower-case names of the fields that identify a caller.
        is_on: ``upstream.hold_back``; when off, no request is answered here.
        max_callers: how many callers are kept; beyond it the oldest is dropped, which costs one call.
        max_bytes: of all 429s that are kept; beyond it the oldest is dropped, and its caller gets the
            gateway's own.
    """

    clock: Clock
    via: bytes
    identity_headers: Container[bytes]
    is_on: bool = True
    max_callers: int = 100_000
    max_bytes: int = 8 * 1_048_576
    size_bytes: int = field(default=0, init=False)
    _until_s: OrderedDict[bytes, float] = field(default_factory=OrderedDict, init=False)
    # Of held callers alone.
    _responses: OrderedDict[bytes, ThrottledResponse] = field(default_factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._until_s) - (_ALL in self._until_s)

    def held(self) -> int:
        """Return how many callers must still wait, and drop the others."""
        for caller in list(self._until_s):
            self._left_s(caller)
        return len(self)

    def change(self, *, is_on: bool) -> None:
        self.is_on = is_on
        if not is_on:
            self._responses.clear()
            self.size_bytes = 0

    def heed(self, eligible: Eligible, head: Head, body: bytes | None) -> None:
        """Remember a 429, its body as received, and for how long it asks to send nothing."""
        plain = readable_body(head.fields, body)
        asked = back_off(head.fields, plain, self.clock.wall_s(), random.random())
        if asked.caller_s:
            caller = eligible.identity.user
            self._hold(caller, asked.caller_s)
            if self.is_on:
                self._keep(caller, throttled_response(head, body, eligible, self.identity_headers))
        if asked.all_s:
            self._hold(_ALL, asked.all_s)

    def response(self, method: str, eligible: Eligible) -> Response | Throttled | None:
        """Return the 429 for a request that must not go upstream now; ``None`` when it may.

        It is the upstream's own, if this caller got one that has not passed; otherwise the gateway's.
        """
        if not self._until_s or not self.is_on:
            return None
        caller = eligible.identity.user
        left_s = self.wait_s(caller)
        if left_s is None:
            return None
        kept = self._responses.get(caller)
        if kept is None or not kept.suits(method, eligible.variant):
            return Throttled(left_s)
        cache_status = CacheStatus(reason=Reason.HELD_BACK)
        head = kept.repeated(math.ceil(left_s), self.via, cache_status)
        return Response(head, kept.body or b"", cache_status)

    def wait_s(self, caller: bytes) -> float | None:
        """Return how long a caller should still send nothing, seconds; ``None`` when it need not wait."""
        if not self._until_s:
            return None
        # So that the table of callers who do not come back empties too.
        self._left_s(next(iter(self._until_s)))
        return max(self._left_s(caller), self._left_s(_ALL)) or None

    def _hold(self, caller: bytes, wait_s: float) -> None:
        self._until_s[caller] = self.clock.monotonic_s() + wait_s
        self._until_s.move_to_end(caller)
        if len(self._until_s) > self.max_callers:
            self._drop(next(iter(self._until_s)))

    def _keep(self, caller: bytes, response: ThrottledResponse | None) -> None:
        self._release(caller)
        if response is None:
            return
        self._responses[caller] = response
        self.size_bytes += response.size_bytes
        while self.size_bytes > self.max_bytes:
            self._release(next(iter(self._responses)))

    def _left_s(self, caller: bytes) -> float:
        """Return how long a caller must still wait, in seconds; 0 and no trace of it when it need not."""
        until_s = self._until_s.get(caller)
        if until_s is None:
            return 0.0
        left_s = until_s - self.clock.monotonic_s()
        if left_s > 0:
            return left_s
        self._drop(caller)
        return 0.0

    def _drop(self, caller: bytes) -> None:
        del self._until_s[caller]
        self._release(caller)

    def _release(self, caller: bytes) -> None:
        response = self._responses.pop(caller, None)
        if response is not None:
            self.size_bytes -= response.size_bytes
