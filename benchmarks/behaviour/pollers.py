"""Callers that poll, each on a connection of its own: what they got, and when they knew the end."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, pairwise
from random import Random
from typing import Final
from urllib.parse import urlsplit

import msgspec

from benchmarks.openloop.histogram import Histogram
from benchmarks.openloop.response import MalformedError, Response, ResponseReader

TERMINAL: Final = frozenset({"Succeeded", "Failed", "Cancelled", "ForceCancelled"})
_TIMEOUT_S: Final = 10.0
_RETRY_AFTER: Final = re.compile(rb"\nretry-after:[ \t]*([0-9]{1,4})[ \t]*\r", re.IGNORECASE)


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
        errors: requests without a whole answer by the name of the exception, and statuses 4xx and 5xx.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.latency = Histogram()
        self.by_status: Counter[int] = Counter()
        self.by_outcome: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()


class Poller:
    """One caller with a connection of its own.

    Attributes:
        answered_s: when it got an answer of status 200, each time (`time.monotonic`).
        noticed_s: when it received a terminal phase; ``None`` if it has not.
    """

    def __init__(self, url: str, targets: Sequence[str], token: str, counts: Counts) -> None:
        """Make a poller that has not asked yet.

        Args:
            url: ``http://host:port``.
            targets: asked for one after the other, round and round.
            token: its ``X-Auth-Token``.
            counts: where it counts, with others.
        """
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._requests = cycle(
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nX-Auth-Token: {token}\r\n\r\n".encode()
            for target in targets
        )
        self._counts = counts
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answered_s: list[float] = []
        self.noticed_s: float | None = None

    async def poll(self, interval_s: float, rng: Random, *, until_s: float, stops_at_end: bool) -> None:
        """Ask again and again, from a random moment of the first interval on.

        It waits as ``Retry-After`` says (at least an interval) before it asks again after 429.

        Args:
            interval_s: between two requests.
            rng: draws its first moment.
            until_s: when it gives up (`time.monotonic`).
            stops_at_end: stop once the phase is terminal.
        """
        next_s = time.monotonic() + rng.random() * interval_s
        while next_s < until_s:
            await asyncio.sleep(next_s - time.monotonic())
            response = await self.ask()
            now_s = time.monotonic()
            if stops_at_end and self.noticed_s is not None:
                return
            next_s = max(next_s + interval_s, now_s)
            if response is not None and response.status == 429:
                wait = _RETRY_AFTER.search(response.head)
                next_s = now_s + max(interval_s, float(wait[1]) if wait else 0.0)

    async def ask(self) -> Response | None:
        """Ask once, and count; ``None`` when there was no whole answer."""
        counts = self._counts
        counts.asked += 1
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                response = await self._exchange()
        except (OSError, EOFError, MalformedError) as exc:
            counts.errors[type(exc).__name__] += 1
            self.close()
            return None
        now_s = time.monotonic()
        counts.latency.record(now_s - began_s)
        counts.by_status[response.status] += 1
        counts.by_outcome[response.outcome] += 1
        if response.status >= 400:
            counts.errors[f"status-{response.status // 100}xx"] += 1
        if response.is_last:
            self.close()
        if response.status == 200:
            self.answered_s.append(now_s)
            if (
                self.noticed_s is None
                and _RECORD.decode(response.body).status.object_status.phase in TERMINAL
            ):
                self.noticed_s = now_s
        return response

    def longest_silence_s(self, began_s: float, ended_s: float) -> float:
        """Return the longest time within two moments in which it got no answer of status 200."""
        moments = [began_s, *(moment for moment in self.answered_s if began_s < moment < ended_s), ended_s]
        return max(later - sooner for sooner, later in pairwise(moments))

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _exchange(self) -> Response:
        if self._connection is None:
            self._connection = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._connection
        writer.write(next(self._requests))
        response_reader = ResponseReader(keeps_body=True)
        while data := await reader.read(65536):
            if (response := response_reader.feed(data)) is not None:
                return response
        whole = response_reader.end()
        if whole is None:
            raise EOFError
        return whole
