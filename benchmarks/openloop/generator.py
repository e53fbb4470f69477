"""The generator: sends scheduled requests over connections and counts the results."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from benchmarks.openloop.connection import Connection, Exchange
from benchmarks.openloop.report import Report, Tally
from benchmarks.openloop.response import Response, TimedResponse
from benchmarks.openloop.schedule import constant, poisson
from benchmarks.openloop.targets import Chooser, Target
from benchmarks.openloop.timer import make_timer

# Interval of checks for the loop's own lateness and for time-outs.
_PROBE_S: Final = 0.005
# Requests sent in one go before responses are read.
_BATCH: Final = 64
# Beyond this the rest of the schedule is pointless.
_HOPELESS_S: Final = 1.0
# Between now and the first request, so that a slow start of the timer is no lag.
_LEAD_S: Final = 0.02

Check = Callable[[TimedResponse], str | None]


class BadUrlError(ValueError):
    """The URL cannot be used; the text is one line with the reason."""


class Destination:
    """Where requests go, and the bytes that each of them consists of."""

    def __init__(self, url: str, targets: Sequence[Target], token: str | None) -> None:
        """Read a URL.

        Args:
            url: ``http://host:port[/base]`` or ``unix:/path``.
            targets: what will be asked for.
            token: for those that have none of their own.

        Raises:
            BadUrlError: it is neither.
        """
        self._path = url.removeprefix("unix:") if url.startswith("unix:") else None
        self._host, self._port, base, authority = "", 0, "", "localhost"
        if self._path is None:
            try:
                parts = urlsplit(url)
                port = parts.port or 80
            except ValueError as exc:
                raise BadUrlError(f"{url!r}: {exc}") from exc
            if (
                parts.scheme != "http"
                or not parts.hostname
                or parts.query
                or parts.fragment
                or parts.username
            ):
                raise BadUrlError(f"{url!r}: wanted http://host:port or unix:/path")
            self._host, self._port = parts.hostname, port
            base, authority = parts.path.rstrip("/"), parts.netloc
        self.requests = [_request(base, authority, target, target.token or token) for target in targets]

    async def connect(self, make: Callable[[], Connection]) -> Connection:
        """Open one connection.

        Raises:
            OSError: it could not be opened.
        """
        loop = asyncio.get_running_loop()
        if self._path is not None:
            return (await loop.create_unix_connection(make, self._path))[1]
        return (await loop.create_connection(make, self._host, self._port))[1]


def _request(base: str, authority: str, target: Target, token: str | None) -> bytes:
    fields = [("Host", authority), *([("X-Auth-Token", token)] if token else [])]
    lines = [f"GET {base}{target.target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("ascii")


class _Generator:
    """One run. Everything happens in callbacks of the loop: there is no task per request."""

    def __init__(
        self,
        destination: Destination,
        targets: Sequence[Target],
        schedule: Iterator[float],
        chooser: Chooser,
        *,
        connections: int,
        timeout_s: float,
        max_waiting: int,
        check: Check | None,
    ) -> None:
        self.tally = Tally()
        self._destination = destination
        self._targets = targets
        self._schedule = schedule
        self._chooser = chooser
        self._limit = connections
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._check = check
        self._began_s = 0.0
        self._armed_s = 0.0
        self._next_s: float | None = None
        self._waiting: deque[Exchange] = deque()
        # By scheduled time, which is also the order in which they time out.
        self._under_way: deque[Exchange] = deque()
        self._free: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._is_closed = False
        self._failure: BaseException | None = None
        self._timer = make_timer(self._on_time)

    async def run(self) -> None:
        """Go through the schedule, and on until nothing is under way any more."""
        self._began_s = time.monotonic() + _LEAD_S
        self._advance()
        self._arm(self._began_s)
        try:
            await self._over.wait()
        finally:
            self._is_closed = True
            self._timer.close()
            for task in self._opening:
                task.cancel()
            await asyncio.gather(*self._opening, return_exceptions=True)
            for connection in list(self._open):
                connection.abandon()
        if self._failure is not None:
            raise self._failure

    def answered(self, connection: Connection, exchange: Exchange, response: Response) -> None:
        """Count an answer, and let the connection take the next request that waits."""
        latency_s = time.monotonic() - exchange.scheduled_s
        exchange.is_over = True
        tally = self.tally
        tally.latency.record(latency_s)
        tally.by_status[response.status] += 1
        tally.by_outcome[response.outcome] += 1
        tally.collapsed += response.is_collapsed
        if response.status >= 400:
            tally.errors[f"status-{response.status // 100}xx"] += 1
        if self._check is not None:
            self._ask_check(self._check, exchange, response, latency_s)
        self._offer_connection(connection)

    def failed(self, exchange: Exchange, error: str) -> None:
        """Count a request that nothing will answer any more."""
        exchange.is_over = True
        self.tally.errors[error] += 1

    def lost(self, connection: Connection) -> None:
        """Drop a connection, and open another if one is needed."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._open_more()

    def _advance(self) -> None:
        due_s = next(self._schedule, None)
        self._next_s = None if due_s is None else self._began_s + due_s

    def _arm(self, moment_s: float) -> None:
        self._armed_s = moment_s
        self._timer.at(moment_s)

    def _on_time(self) -> None:
        try:
            self._work()
        except BaseException as exc:
            self._give_up(exc)

    def _give_up(self, exc: BaseException) -> None:
        """End the run with an exception: one raised in a callback would only be logged, and the run hang."""
        self._failure = exc
        self._over.set()

    def _work(self) -> None:
        now_s = time.monotonic()
        self.tally.loop_lag.record(max(now_s - self._armed_s, 0.0))
        for _ in range(_BATCH):
            if self._next_s is None or self._next_s > now_s:
                break
            lag_s = now_s - self._next_s
            self.tally.lag.record(lag_s)
            if lag_s > _HOPELESS_S:
                self.tally.flaws.append(f"gave up: {lag_s:.1f} s behind the schedule")
                self._next_s = None
                break
            self._offer_request(self._next_s)
            self._advance()
            now_s = time.monotonic()
        self._expire(now_s)
        if self._next_s is None and not self._under_way:
            self._over.set()
            return
        probe_s = now_s + _PROBE_S
        self._arm(probe_s if self._next_s is None else max(min(self._next_s, probe_s), now_s))

    def _offer_request(self, scheduled_s: float) -> None:
        exchange = Exchange(self._chooser.next(), scheduled_s)
        self.tally.scheduled += 1
        while self._free:
            connection = self._free.popleft()
            if connection.is_open:
                self._under_way.append(exchange)
                self._send(connection, exchange)
                return
        if len(self._waiting) >= self._max_waiting:
            self.tally.errors["queue-full"] += 1
            return
        self._under_way.append(exchange)
        self._waiting.append(exchange)
        self._open_more()

    def _offer_connection(self, connection: Connection) -> None:
        if not connection.is_open:
            return
        while self._waiting:
            exchange = self._waiting.popleft()
            if not exchange.is_over:
                self._send(connection, exchange)
                return
        # The one that was free longest is taken first: all of them stay in use, on all of its workers.
        self._free.append(connection)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        self.tally.sent += 1
        connection.send(exchange, self._destination.requests[exchange.index])

    def _open_more(self) -> None:
        if self._is_closed:
            return
        while len(self._opening) < len(self._waiting) and len(self._open) + len(self._opening) < self._limit:
            task = asyncio.get_running_loop().create_task(self._open_one())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._open_more()

    async def _open_one(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._destination.connect(
                    lambda: Connection(self, keeps_body=self._check is not None)
                )
        except OSError:
            # Each attempt that fails takes one request with it, the oldest: nothing is tried twice for it.
            while self._waiting:
                exchange = self._waiting.popleft()
                if not exchange.is_over:
                    self.failed(exchange, "connect")
                    return
            return
        if connection.is_open:
            self.tally.connections += 1
            self._open.add(connection)
            self._offer_connection(connection)

    def _expire(self, now_s: float) -> None:
        while self._under_way:
            exchange = self._under_way[0]
            if not exchange.is_over:
                waited_s = now_s - exchange.scheduled_s
                if waited_s < self._timeout_s:
                    return
                self.tally.latency.record(waited_s)
                connection = exchange.connection
                self.failed(exchange, "timeout" if connection is not None else "timeout-waiting")
                if connection is not None:
                    connection.abandon()
            self._under_way.popleft()

    def _ask_check(self, check: Check, exchange: Exchange, response: Response, latency_s: float) -> None:
        target = self._targets[exchange.index]
        try:
            error = check(TimedResponse(target, response.status, response.head, response.body, latency_s))
        except BaseException as exc:
            self._give_up(exc)
            return
        if error is not None:
            self.tally.errors[error] += 1


async def offer(
    url: str,
    targets: Sequence[Target],
    *,
    rate_per_s: float,
    duration_s: float,
    connections: int,
    token: str | None = None,
    is_poisson: bool = False,
    timeout_s: float = 10.0,
    max_waiting: int = 100_000,
    seed: int = 1,
    check: Check | None = None,
) -> Report:
    """Send requests on a schedule and report the results.

    Args:
        url: ``http://host:port[/base]`` or ``unix:/path``.
        targets: chosen by weight for each request.
        rate_per_s: requests a second.
        duration_s: length of the schedule; what is under way then is waited for.
        connections: open at most so many; a request that finds none free waits, and that counts.
        token: for targets that have none of their own.
        is_poisson: draw the gaps, as independent callers would make them.
        timeout_s: from the scheduled time of a request until it counts as timed out.
        max_waiting: bound of the requests that wait for a connection; those beyond it make the run invalid.
        seed: all chance comes from it.
        check: looks at each answer; what it returns is counted as an error of that name, ``None`` is well.

    Raises:
        BadUrlError: the URL cannot be used.
        ValueError: a number is not positive, or there are no targets.
    """
    if not targets or min(rate_per_s, duration_s, connections, timeout_s) <= 0:
        raise ValueError("targets, rate, duration, connections and time-out have to be there and positive")
    generator = _Generator(
        Destination(url, targets, token),
        targets,
        poisson(rate_per_s, duration_s, seed) if is_poisson else constant(rate_per_s, duration_s),
        Chooser(targets, seed),
        connections=connections,
        timeout_s=timeout_s,
        max_waiting=max_waiting,
        check=check,
    )
    await generator.run()
    return generator.tally.report(duration_s)
