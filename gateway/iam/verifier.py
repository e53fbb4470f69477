"""Whose tokens are, by IAM's word: asked for beside the requests, never on their time."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Protocol

import msgspec

from gateway.clock import Clock
from gateway.config.model import IamConfig
from gateway.core.aos.iam_token import TokenOwner, token_owner
from gateway.core.caching.identity import keyed
from gateway.iam.client import IamAnswer, IamClient, IamError
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog

_MOST_KNOWN = 10_000
_MOST_QUEUED = 1_000
# IAM has asked to be left alone.
_THROTTLED_S = 60.0
# How long after an answer of no use the next question about the same token waits.
_UNKNOWN_S = 60.0
# Before its end a token may already be refused.
_MARGIN_S = 60.0
_SWEEP_S = 1.0
# By how much the clocks of two gateways may differ.
_SKEW_S = 5.0
# In which part of its life a word is asked for again, at random so that questions spread.
_RENEWED_FROM, _RENEWED_TO = 0.4, 0.7


class SharedOwners(Protocol):
    """Where the gateways of one cache share whose tokens are."""

    async def read(self, token: bytes) -> TokenOwner | None:
        """Return what another gateway has stored about a token, by its digest; ``None`` without it."""

    async def write(self, token: bytes, owner: TokenOwner) -> None:
        """Store whose token it is, until its ``expires_s``."""


class _Known(msgspec.Struct):
    """IAM's word on one token; times are monotonic."""

    user: bytes
    due_s: float
    ends_s: float
    is_due: bool = False


class Verifier:
    """Knows the users of tokens.

    Args:
        verify_ttl_s: how long IAM's word counts.
        processes: as many share the rate.
        secret: ``cache.secret`` as bytes.
        shared: what other gateways know; ``None`` where nothing is shared.
        on_change: called with the digests of tokens whose user is another one from now on, or that are due to
            be asked about when they are used next.
    """

    def __init__(
        self,
        client: IamClient,
        config: IamConfig,
        verify_ttl_s: float,
        *,
        processes: int,
        secret: bytes,
        shared: SharedOwners | None,
        clock: Clock,
        metrics: Metrics,
        on_change: Callable[[set[bytes]], None],
    ) -> None:
        self._client = client
        self._interval_s = processes / config.max_per_s
        self._verify_ttl_s = verify_ttl_s
        self._key = keyed(secret)
        self._shared = shared
        self._clock = clock
        self._metrics = metrics
        self._on_change = on_change
        self._state = StateLog("iam", clock)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        # Tokens in full, only until they are asked about.
        self._queue: OrderedDict[bytes, bytes] = OrderedDict()
        self._asking: set[bytes] = set()
        # Not asked about before that monotonic time.
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._resumes_s = float("-inf")
        self._wakes = asyncio.Event()
        self._tasks = TaskSet()

    def __len__(self) -> int:
        return len(self._known)

    def start(self) -> None:
        self._tasks.start(self._ask_all(), "iam-questions")
        self._tasks.start(self._sweep(), "iam-sweep")

    async def close(self) -> None:
        await self._tasks.cancel()

    def digest(self, token: bytes) -> bytes:
        """Return by what a token is known here."""
        return blake2b(token, digest_size=24, key=self._key, person=b"aosgw-token").digest()

    def user_of(self, digest: bytes, token: bytes) -> bytes | None:
        """Return the user of a token that is used now, as a digest; ``None`` where it is not known.

        Never waits. A token that is due is asked about again.
        """
        known = self._known.get(digest)
        if known is None or self._clock.monotonic_s() >= known.ends_s:
            return None
        if known.is_due:
            known.is_due = False
            self._put(digest, token)
        return known.user

    def accepted(self, digest: bytes, token: bytes) -> None:
        """AOS has accepted a token: ask whose it is, unless that is known."""
        # IAM's are ASCII; anything else would be sent as other bytes.
        if (
            token.isascii()
            and digest not in self._known
            and self._unknown.get(digest, 0.0) <= self._clock.monotonic_s()
        ):
            self._put(digest, token)

    def refused(self, digest: bytes) -> None:
        """AOS has refused a token."""
        self._queue.pop(digest, None)
        self._asking.discard(digest)
        if self._known.pop(digest, None) is not None:
            self._on_change({digest})

    def _put(self, digest: bytes, token: bytes) -> None:
        if digest not in self._asking and digest not in self._queue and len(self._queue) < _MOST_QUEUED:
            self._queue[digest] = token
            if digest in self._known:
                self._queue.move_to_end(digest, last=False)
            self._wakes.set()

    async def _ask_all(self) -> None:
        while True:
            await self._wakes.wait()
            pause_s = self._resumes_s - self._clock.monotonic_s()
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            elif self._queue:
                digest, token = self._queue.popitem(last=False)
                self._asking.add(digest)
                if self._shared is None or not await self._read_shared(digest, self._shared):
                    self._tasks.start(self._ask(digest, token), "iam-question")
                    await asyncio.sleep(self._interval_s)
            else:
                self._wakes.clear()

    async def _read_shared(self, digest: bytes, shared: SharedOwners) -> bool:
        """Take what another gateway knows, if that counts for a while yet, and no longer than one's own."""
        owner = await shared.read(digest)
        left_s = 0.0 if owner is None else owner.expires_s - self._clock.wall_s()
        if owner is None or not self._verify_ttl_s / 2 <= left_s <= self._verify_ttl_s + _SKEW_S:
            return False
        self._metrics.iam_questions["shared"] += 1
        self._learn(digest, owner)
        return True

    async def _ask(self, digest: bytes, token: bytes) -> None:
        asked_s = self._clock.wall_s()
        try:
            answer = await self._client.verify(token)
        except IamError as error:
            self._without_answer(digest, error.kind, error.kind)
            return
        owner = token_owner(answer.body) if answer.status == 200 else None
        if owner is None:
            self._without_answer(digest, *_outcome(answer))
            return
        ends_s = min(asked_s + self._verify_ttl_s, owner.expires_s - _MARGIN_S)
        if ends_s - asked_s <= _SWEEP_S:
            self._without_answer(digest, "refused", "a token that is about to end")
            return
        self._state.up()
        self._metrics.iam_questions["verified"] += 1
        owner = TokenOwner(owner.user, ends_s)
        if self._learn(digest, owner) and self._shared is not None:
            await self._shared.write(digest, owner)

    def _learn(self, digest: bytes, owner: TokenOwner) -> bool:
        """Let a word count until its ``expires_s``; ``False`` when AOS has refused the token meanwhile."""
        if digest not in self._asking:
            return False
        self._asking.discard(digest)
        # The wall clock may have been set back since IAM was asked.
        life_s = min(owner.expires_s - self._clock.wall_s(), self._verify_ttl_s)
        now_s = self._clock.monotonic_s()
        due_s = now_s + life_s * random.uniform(_RENEWED_FROM, _RENEWED_TO)
        before = self._known.pop(digest, None)
        self._known[digest] = _Known(owner.user, due_s, now_s + life_s)
        changed = set() if before is not None and before.user == owner.user else {digest}
        if len(self._known) > _MOST_KNOWN:
            changed.add(self._known.popitem(last=False)[0])
        if changed:
            self._on_change(changed)
        return True

    def _without_answer(self, digest: bytes, outcome: str, said: str) -> None:
        self._metrics.iam_questions[outcome] += 1
        self._asking.discard(digest)
        now_s = self._clock.monotonic_s()
        if outcome == "refused":
            self._state.up()
            if self._known.pop(digest, None) is not None:
                self._on_change({digest})
        else:
            self._state.down(said)
            if outcome == "throttled":
                self._resumes_s = now_s + _THROTTLED_S
            if (known := self._known.get(digest)) is not None:
                known.due_s = now_s + _UNKNOWN_S
        self._unknown[digest] = now_s + _UNKNOWN_S
        self._unknown.move_to_end(digest)
        if len(self._unknown) > _MOST_KNOWN:
            self._unknown.popitem(last=False)

    async def _sweep(self) -> None:
        """End what is over, and see to it that the next use of what is due is noticed."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            # Who is answered without being read, as on the fast path, is seen here alone.
            now_s = self._clock.monotonic_s()
            over = {digest for digest, known in self._known.items() if known.ends_s <= now_s + _SWEEP_S}
            for digest in over:
                del self._known[digest]
            due = {
                digest for digest, known in self._known.items() if known.due_s <= now_s and not known.is_due
            }
            for digest in due:
                self._known[digest].is_due = True
            if over or due:
                self._on_change(over | due)


def _outcome(answer: IamAnswer) -> tuple[str, str]:
    """Return the outcome of an answer that names no user, and what it said for the log."""
    if answer.status == 429:
        return "throttled", "429"
    if answer.status in (401, 403, 404):
        return "refused", f"status {answer.status}"
    return "unusable", f"status {answer.status}" if answer.status != 200 else "an answer that names no user"
