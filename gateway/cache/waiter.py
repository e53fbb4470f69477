"""One caller who waits, and those whom the same fetch wakes."""

import asyncio
import contextvars
from dataclasses import dataclass, field

from gateway.cache.results import Fetched
from gateway.core.caching.eligibility import Eligible
from gateway.core.caching.entry import Entry
from gateway.core.caching.request_directives import NO_DIRECTIVES, is_not_modified
from gateway.core.http.errors import GatewayError
from gateway.core.http.messages import Request, first, names

Outcome = Fetched | Entry | GatewayError | None
"""What a wait ends with: a fetch, a settled entry, why there is none; ``None``: nothing has come for it."""


@dataclass(slots=True, repr=False)
class Wave:
    """The callers whom one fetch wakes.

    Attributes:
        began_s: monotonic time of the end of that fetch.
        waiting: how many of them are not answered yet.
    """

    began_s: float
    waiting: int = 0


def _future() -> asyncio.Future[Outcome]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False, repr=False)
class Waiter:
    """One caller who waits.

    Attributes:
        not_before_s: monotonic time; fetches that began earlier are not for it.
        context: of its task; what is fetched on its behalf belongs to its span.
        outcome: resolved once, when the wait ends.
        has_seen: a record has come during the wait.
        seen: the newest of them; ``None`` before the first, or when that is large.
        refused: the last response that was none; ``None`` before the first, or when that is large.
        is_over: its time is over, so the next response is its answer.
        wave: whom the same fetch has woken; ``None`` when its time was over.
    """

    request: Request
    eligible: Eligible
    not_before_s: float
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    outcome: asyncio.Future[Outcome] = field(default_factory=_future)
    has_seen: bool = False
    seen: Fetched | None = None
    refused: Fetched | GatewayError | None = None
    is_over: bool = False
    wave: Wave | None = None

    def has(self, fetched: Fetched) -> bool:
        """Whether it named this record, or none at all."""
        fields = self.eligible.fields
        if b"if-none-match" not in names(fields):
            return True
        response, decision = fetched.fetched_response, fetched.decision
        etag = None if decision is None else decision.etag
        modified = first(response.head.fields, b"last-modified")
        return is_not_modified(fields, etag, modified, response.fetched_s)

    def may_have(self, entry: Entry, now_s: float) -> bool:
        """Whether a settled entry is for it; what its request says of copies binds the first look alone."""
        is_first = not self.has_seen and self.refused is None
        directives = self.eligible.directives if is_first else NO_DIRECTIVES
        is_fresh = directives.unmet(entry.age_s(now_s), entry.ttl_s(now_s)) is None
        return is_fresh and not directives.no_cache and entry.suits(self.eligible.variant.accept)
