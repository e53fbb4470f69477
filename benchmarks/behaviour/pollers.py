"""Callers that poll or wait, each on a connection of its own: what they got, and when they knew the end."""

import asyncio
import re
import ssl
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import cycle, pairwise
from random import Random
from typing import Final

import msgspec

from benchmarks.openloop.histogram import Histogram
from benchmarks.openloop.response import MalformedError, Response, ResponseReader
from gateway.config.address import upstream_url_of

TERMINAL: Final = frozenset({"Succeeded", "Failed", "Cancelled", "ForceCancelled"})
_TIMEOUT_S: Final = 10.0
_RETRY_AFTER: Final = re.compile(rb"\nretry-after:[ \t]*([0-9]{1,4})[ \t]*\r", re.IGNORECASE)
_ETAG: Final = re.compile(rb"\netag:[ \t]*([^\r\n]+)", re.IGNORECASE)
_WAITED: Final = re.compile(rb"\npreference-applied:[^\r\n]*\bwait=0*[1-9]", re.IGNORECASE)
_FORWARDED: Final = re.compile(rb"\ncache-status:[^\r\n]*;[ \t]*fwd=", re.IGNORECASE)


class _ObjectStatus(msgspec.Struct):
    phase: str = ""


class _Status(msgspec.Struct, rename="camel"):
    object_status: _ObjectStatus = msgspec.field(default_factory=_ObjectStatus)


class _Record(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


_RECORD: Final = msgspec.json.Decoder(_Record)


class Counts:
    """What several pollers came to.

    Attributes:
        asked: requests.
        latency: of whole answers, from the moment of the request.
        by_status: whole answers by status.
        by_outcome: whole answers by what ``Cache-Status`` says.
        forwarded: whole answers that were a call at AOS, by what ``Cache-Status`` says; without it, all are.
        errors: requests without a whole answer by the name of the exception, statuses 4xx and 5xx, and
            answers of status 200 without a record.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.forwarded = 0
        self.latency = Histogram()
        self.by_status: Counter[int] = Counter()
        self.by_outcome: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()


class _Link:
    """A poller's connection to one server."""

    def __init__(self, url: str) -> None:
        self.server = upstream_url_of(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the open connection; connect where there is none."""
        if self._streams is None:
            tls = _tls() if self.server.scheme == "https" else None
            self._streams = await asyncio.open_connection(self.server.host, self.server.port, ssl=tls)
        return self._streams

    def close(self) -> None:
        """Let go of it."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Poller:
    """One caller with connections of its own.

    Attributes:
        answered_s: when it got an answer of status 200, each time (`time.monotonic`).
        noticed_s: when it received a terminal phase, or 404 after a record, as at the end of a delete;
            ``None`` if it has not.
        status: of the last whole answer; 0 before.
        target: what it asks for, the first of several.
    """

    def __init__(
        self,
        urls: Sequence[str],
        targets: Sequence[str],
        token: str | None,
        counts: Counts,
        *,
        wait_s: int = 0,
    ) -> None:
        """Make a poller that has not asked yet.

        Args:
            urls: ``http://host:port`` or https, with an optional base path; asked in turn, as by a load
                balancer before them.
            targets: asked for one after the other, round and round; one alone for a caller who waits.
            token: its ``X-Auth-Token``; ``None`` sends none.
            counts: where it counts, with others.
            wait_s: asks the server to wait so long for a change (``Prefer: wait``, RFC 7240); 0 does not.
        """
        self._links = [_Link(url) for url in urls]
        self._next_link = cycle(self._links)
        self._next_target = cycle(targets)
        self._fields = f"X-Auth-Token: {token}\r\n" if token else ""
        self._fields += f"Prefer: wait={wait_s}\r\n" if wait_s else ""
        self._wait_s = wait_s
        self._known = b""
        self._counts = counts
        self.answered_s: list[float] = []
        self.noticed_s: float | None = None
        self.status = 0
        self.target = targets[0]

    async def poll(self, interval_s: float, rng: Random, *, until_s: float, stops_at_end: bool) -> None:
        """Ask again and again, from a random moment of the first interval on.

        It waits as ``Retry-After`` says (at least an interval) before it asks again after 429, and asks again
        at once after an answer for which the server has waited.

        Args:
            interval_s: between two requests.
            rng: draws its first moment.
            until_s: when it gives up (`time.monotonic`), also while it waits for an answer.
            stops_at_end: stop once the end is noticed.
        """
        next_s = time.monotonic() + rng.random() * interval_s
        with suppress(TimeoutError):
            async with asyncio.timeout(until_s - time.monotonic()):
                while next_s < until_s:
                    await asyncio.sleep(next_s - time.monotonic())
                    response = await self.ask()
                    now_s = time.monotonic()
                    if stops_at_end and self.noticed_s is not None:
                        return
                    next_s = max(next_s + interval_s, now_s)
                    if response is None:
                        continue
                    if response.status == 429:
                        wait = _RETRY_AFTER.search(response.head)
                        next_s = now_s + max(interval_s, float(wait[1]) if wait else 0.0)
                    elif self._wait_s and _WAITED.search(response.head):
                        next_s = now_s

    async def ask(self) -> Response | None:
        """Ask once, and count; ``None`` when there was no whole answer."""
        counts = self._counts
        counts.asked += 1
        link = next(self._next_link)
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._wait_s + _TIMEOUT_S):
                response = await self._exchange(link)
        except (OSError, EOFError, MalformedError) as exc:
            counts.errors[type(exc).__name__] += 1
            link.close()
            return None
        now_s = time.monotonic()
        counts.latency.record(now_s - began_s)
        counts.by_status[response.status] += 1
        counts.by_outcome[response.outcome] += 1
        counts.forwarded += response.outcome == "none" or (
            not response.is_collapsed and _FORWARDED.search(response.head) is not None
        )
        if response.status >= 400:
            counts.errors[f"status-{response.status // 100}xx"] += 1
        if response.is_last:
            link.close()
        self.status = response.status
        if self.noticed_s is None and self._is_end(response):
            self.noticed_s = now_s
        if response.status == 200:
            self.answered_s.append(now_s)
        return response

    def _is_end(self, response: Response) -> bool:
        if response.status == 404:
            return bool(self.answered_s)
        if response.status != 200:
            return False
        if self._wait_s:
            etag = _ETAG.search(response.head)
            self._known = b"If-None-Match: %b\r\n" % etag[1] if etag else b""
        try:
            return _RECORD.decode(response.body).status.object_status.phase in TERMINAL
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._counts.errors["no-record"] += 1
            return False

    def longest_silence_s(self, began_s: float, ended_s: float) -> float:
        """Return the longest time within two moments in which it got no answer of status 200."""
        moments = [began_s, *(moment for moment in self.answered_s if began_s < moment < ended_s), ended_s]
        return max(later - sooner for sooner, later in pairwise(moments))

    def close(self) -> None:
        """Let go of the connections."""
        for link in self._links:
            link.close()

    async def _exchange(self, link: _Link) -> Response:
        reader, writer = await link.streams()
        line = f"GET {link.server.base_path}{next(self._next_target)} HTTP/1.1\r\n"
        head = f"{line}Host: {link.server.authority}\r\n{self._fields}".encode()
        writer.write(b"%b%b\r\n" % (head, self._known))
        response_reader = ResponseReader(keeps_body=True)
        while data := await reader.read(65536):
            if (response := response_reader.feed(data)) is not None:
                return response
        whole = response_reader.end()
        if whole is None:
            raise EOFError
        return whole


async def poll_until_end(
    pollers: Sequence[Poller], interval_s: float, *, until_s: float, reads_after: int = 0
) -> None:
    """Let all of them poll until each has noticed the end, and close their connections.

    Args:
        pollers: whoever polls.
        interval_s: between two requests of each.
        until_s: when they give up (`time.monotonic`).
        reads_after: how often each then reads the record again at once.
    """
    rng = Random("pollers")

    async def poll_and_read(poller: Poller) -> None:
        await poller.poll(interval_s, rng, until_s=until_s, stops_at_end=True)
        if poller.noticed_s is not None:
            for _ in range(reads_after):
                await poller.ask()

    try:
        async with asyncio.TaskGroup() as group:
            for poller in pollers:
                group.create_task(poll_and_read(poller))
    finally:
        for poller in pollers:
            poller.close()


def noticed(pollers: Sequence[Poller], ends_s: Mapping[str, float]) -> dict[str, float]:
    """Return how many noticed the end, and how long after it: the median and the last, seconds.

    Args:
        pollers: each of one target.
        ends_s: when the executions ended, by target.
    """
    delays_s = [one.noticed_s - ends_s[one.target] for one in pollers if one.noticed_s is not None]
    figures: dict[str, float] = {"callers": len(pollers), "noticed": len(delays_s)}
    if delays_s:
        figures |= {"noticed_p50_s": statistics.median(delays_s), "noticed_max_s": max(delays_s)}
    return figures


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
