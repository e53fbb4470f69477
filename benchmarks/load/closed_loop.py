"""A small closed-loop client in a process of its own: fills caches, polls at an interval, stands in for wrk.

Run it as ``python -m benchmarks.load.closed_loop --url URL --targets FILE --json OUT``. Each connection asks,
waits for the answer and asks again. It follows no redirect, repeats nothing, and reads bodies framed by a
length.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.harness import tree
from benchmarks.harness.arguments import count, positive
from benchmarks.openloop.targets import BadTargetsError
from benchmarks.report.summary import percentiles

from .targets import Target, read_jsonl

_END: Final = b"\r\n\r\n"
_LAST_S = 5.0
_SETTLING_S = 30.0
_AT_A_TIME = 32


class Run:
    """What all connections share.

    Attributes:
        requests: what is left to ask for.
        ends_s: no request begins later, by the loop's clock.
        interval_s: between two requests of a connection.
        statuses: of the answers.
        cache_statuses: the second word of the gateway's Cache-Status, such as ``hit`` or ``fwd=uri-miss``.
        errors: by name.
        times_s: of each answer, from the sending of its request.
        open: connections that have not ended.
        done: set when there are none any more.
        goes_on: connections ask again when they are answered, not only when they are told to.
    """

    def __init__(self, requests: Iterator[bytes], ends_s: float, interval_s: float) -> None:
        self.requests = requests
        self.ends_s = ends_s
        self.interval_s = interval_s
        self.statuses: Counter[str] = Counter()
        self.cache_statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.times_s: list[float] = []
        self.open = 0
        self.done = asyncio.Event()
        self.goes_on = True
        self._awaited = 0
        self._have_come = asyncio.Event()

    def answered(self, time_s: float) -> None:
        """Count an answer."""
        self.times_s.append(time_s)
        if len(self.times_s) == self._awaited:
            self._have_come.set()

    async def more_answers(self, number: int) -> None:
        """Wait for so many more."""
        self._awaited = len(self.times_s) + number
        self._have_come.clear()
        await self._have_come.wait()


class Caller(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._missing = 0
        self._sent_s = 0.0
        self._waits = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `ask`."""
        # Those of uvloop are of no class that asyncio knows.
        self._transport = cast(asyncio.Transport, transport)
        self._run.open += 1

    def ask(self) -> None:
        """Send the next request, or close when there is none."""
        if self._transport is None:
            return
        now_s = self._loop.time()
        request = next(self._run.requests, None) if now_s < self._run.ends_s else None
        if request is None:
            self._transport.close()
            return
        self._sent_s = now_s
        self._waits = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read the answer; ask again when it is whole."""
        if self._missing:
            self._missing -= len(data)
            if self._missing < 0:
                self._fail("more bytes than announced")
            elif not self._missing:
                self._answered()
            return
        self._buffer += data
        head, end, body = self._buffer.partition(_END)
        if not end:
            return
        self._buffer = b""
        lines = head.split(b"\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        length = fields.get(b"content-length", b"")
        if not length.isdigit():
            self._fail("no length")
            return
        self._run.statuses[lines[0][9:12].decode("latin-1")] += 1
        cache_status = fields.get(b"cache-status", b"").rpartition(b"aos-gateway;")[2].strip()
        if cache_status:
            self._run.cache_statuses[cache_status.split(b";")[0].decode("latin-1")] += 1
        self._missing = int(length) - len(body)
        if not self._missing:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count an answer that will not come."""
        self._transport = None
        if self._waits:
            self._run.errors["connection lost"] += 1
        self._run.open -= 1
        if not self._run.open:
            self._run.done.set()

    def _answered(self) -> None:
        self._waits = False
        now_s = self._loop.time()
        self._run.answered(now_s - self._sent_s)
        if not self._run.goes_on:
            return
        next_s = self._sent_s + self._run.interval_s
        if next_s > now_s:
            self._loop.call_at(next_s, self.ask)
        else:
            self.ask()

    def _fail(self, error: str) -> None:
        self._run.errors[error] += 1
        self._waits = False
        if self._transport is not None:
            self._transport.abort()


def requests(targets: list[Target], host: str, *, fresh_ids: bool, once: bool) -> Iterator[bytes]:
    """Return the requests in their order, each target once or all of them again and again."""
    count = itertools.count()
    for path, token in targets if once else itertools.cycle(targets):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
        if token:
            head += f"X-Auth-Token: {token}\r\n"
        if fresh_ids:
            head += f"X-Request-Id: {next(count):x}-{time.time_ns():x}\r\n"
        yield head.encode("ascii") + b"\r\n"


async def drive(options: argparse.Namespace) -> dict[str, object]:
    """Carry out one run and return what came of it."""
    loop = asyncio.get_running_loop()
    parts = urlsplit(options.url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    order = requests(
        read_jsonl(options.targets), parts.netloc, fresh_ids=options.fresh_ids, once=options.once
    )
    interval_s = options.interval_ms / 1000
    run = Run(order, float("inf"), interval_s)
    callers = []
    for _ in range(options.connections):
        try:
            callers.append((await loop.create_connection(lambda: Caller(run), host, port))[1])
        except OSError as error:
            run.errors[f"connect: {type(error).__name__}"] += 1
    began_s = loop.time()
    if not options.once and options.pid is None:
        run.ends_s = began_s + options.duration
    weighed = None
    if callers:
        try:
            async with asyncio.timeout(options.duration + _LAST_S + (_SETTLING_S if options.pid else 0)):
                if options.pid is not None:
                    await settle(run, callers)
                for number, caller in enumerate(callers):
                    # Pollers do not all begin at the same moment.
                    loop.call_at(loop.time() + interval_s * number / len(callers), caller.ask)
                if options.pid is not None:
                    weighed = await weigh(run, len(callers), options.pid, options.duration)
                await run.done.wait()
        except TimeoutError:
            run.errors["timeout"] += run.open
    # If no connection succeeds, the run is over at once; avoids a division by zero.
    duration_s = max(loop.time() - began_s, 1e-6)
    weighed = weighed or Weighed(None, 0, len(run.times_s), duration_s)
    times_s = run.times_s[weighed.first : weighed.end]
    return {
        "completed": len(times_s),
        "duration_s": weighed.duration_s,
        "cpu_s": weighed.cpu_s,
        "statuses": dict(run.statuses),
        "cache_statuses": dict(run.cache_statuses),
        "errors": dict(run.errors),
        "latency_ms": percentiles([time_s * 1000 for time_s in times_s]),
    }


async def settle(run: Run, callers: Sequence[Caller]) -> None:
    """Have each connection answered once, a few at a time.

    A busy server on uvloop accepts one connection whenever it has served all others.
    """
    run.goes_on = False
    for first in range(0, len(callers), _AT_A_TIME):
        some = callers[first : first + _AT_A_TIME]
        for caller in some:
            caller.ask()
        await run.more_answers(len(some))
    run.goes_on = True


class Weighed(NamedTuple):
    """What a run is judged by.

    Attributes:
        cpu_s: of the process that is weighed.
        first: the first of its answers.
        end: the first one after them.
        duration_s: how long they took.
    """

    cpu_s: float | None
    first: int
    end: int
    duration_s: float


async def weigh(run: Run, connections: int, pid: int, seconds: float) -> Weighed:
    """Weigh a process for some seconds while all connections ask, and end the run.

    The first answer of each is left out: by then as many are under way at the beginning as at the end.
    """
    await run.more_answers(connections)
    began_s, cpu_s, first = time.monotonic(), tree.cpu_s(pid), len(run.times_s)
    await asyncio.sleep(seconds)
    cpu_s, end, duration_s = tree.cpu_s(pid) - cpu_s, len(run.times_s), time.monotonic() - began_s
    run.ends_s = 0.0
    return Weighed(cpu_s, first, end, duration_s)


def main() -> int:
    """Read the command line, run and write the result.

    Returns:
        0, whatever came of it, or 2 when the targets cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load.closed_loop", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--url", required=True, help="where to connect, http://host:port")
    parser.add_argument("--targets", required=True, type=Path, metavar="FILE", help="JSONL: target, token")
    parser.add_argument("--json", required=True, type=Path, metavar="OUT", help="where the result goes")
    parser.add_argument("--connections", type=count, default=32, metavar="N")
    parser.add_argument("--duration", type=positive, default=1.0, metavar="S", help="at most, with --once")
    parser.add_argument(
        "--interval-ms", type=float, default=0.0, metavar="MS", help="between two of a connection"
    )
    parser.add_argument("--fresh-ids", action="store_true", help="an X-Request-Id of its own in each request")
    parser.add_argument("--once", action="store_true", help="ask for each target once and end")
    parser.add_argument(
        "--pid",
        type=count,
        metavar="PID",
        help="weigh this process; --duration begins when all connections are in use",
    )
    options = parser.parse_args()
    try:
        result = uvloop.run(drive(options))
    except BadTargetsError as error:
        print(error, file=sys.stderr)
        return 2
    options.json.write_text(json.dumps(result), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
