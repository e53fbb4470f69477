"""What 600 slow peers at once cost the others: p99 before, with and after them, measured over loopback.

Run it as ``python -m benchmarks.faults.slow_peers``. It needs what the tests need. The gateway is a process
of its own; a few callers ask at a steady pace for a record that is a hit and for one that is forwarded to an
upstream that answers after a constant 2 ms, while 200 peers send a head, 200 a body, and 200 read records,
all of them a byte or a few kilobytes each second. A round is one phase before, one with them and one after;
of several rounds the median counts.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.harness.arguments import count, positive
from tests.testbed.answers import Conversation
from tests.testbed.aos import Answer, Received, ScriptedAos, record
from tests.testbed.client import RawClient, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import gauges
from tests.testbed.slow_peers import slow_peers

UPSTREAM_S = 0.002
CALLERS = 4
# Between two requests of one caller: a load that leaves the machine time, so that waiting shows.
PAUSE_S = 0.004
STEP_S = 1.0
FACTOR = 2.0
MORE_S = 0.005
TOKEN = ("X-Auth-Token", "token-of-the-benchmark")
HIT = "/v2/stacks/stack-hit/actions/action-hit"
FORWARDED = "/v2/stacks/stack-run/actions/action-run"
BIG = "/v2/stacks/stack-big/actions/action-big"
BIG_BYTES = 1_000_000
# More than the kernel buffers for slow readers.
BIG_TIMES = 8
PATHS = {"hit": HIT, "forwarded": FORWARDED}
PHASES = ("before", "with", "after")


@dataclass
class Times:
    """How long the requests of one path took, by phase and round, in seconds."""

    rounds: dict[str, list[list[float]]] = field(default_factory=lambda: {phase: [] for phase in PHASES})

    def quantile_s(self, phase: str, percent: int) -> float:
        """Return the median over the rounds of a percentile."""
        return statistics.median(quantile_s(times_s, percent) for times_s in self.rounds[phase])

    def worst_s(self, phase: str) -> float:
        """Return the p99 of the worst round."""
        return max(quantile_s(times_s, 99) for times_s in self.rounds[phase])

    @property
    def allowed_s(self) -> float:
        """The p99 that the slow peers may bring about."""
        before_s = self.quantile_s("before", 99)
        return max(FACTOR * before_s, before_s + MORE_S)

    @property
    def is_exceeded(self) -> bool:
        """They bring about more."""
        return self.quantile_s("with", 99) > self.allowed_s


def quantile_s(times_s: Sequence[float], percent: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(times_s, n=100, method="inclusive")[percent - 1]


async def late(received: Received, conversation: Conversation) -> None:
    """Answer with the record that was asked for, after a constant 2 ms."""
    await asyncio.sleep(UPSTREAM_S)
    name = received.target.rpartition("/")[2]
    padding = "x" * (BIG_BYTES if received.target == BIG else 0)
    body = record("Running" if received.target == FORWARDED else "Succeeded", name=name, padding=padding)
    await conversation.answer(Answer(headers=[("Content-Type", "application/json")], body=body))


async def run_phase(address: str, seconds: float) -> dict[str, list[float]]:
    """Have the callers ask for both records in turns; every answer has to be a 200."""
    times_s: dict[str, list[float]] = {path: [] for path in PATHS}
    ends_s = time.perf_counter() + seconds

    async def caller() -> None:
        async with await RawClient.connect(address) as client:
            while time.perf_counter() < ends_s:
                for path, target in PATHS.items():
                    began_s = time.perf_counter()
                    response = await client.request("GET", target, [TOKEN], timeout_s=10.0)
                    times_s[path].append(time.perf_counter() - began_s)
                    if response.status != 200:
                        raise RuntimeError(f"{target} was answered with {response.status}")
                    await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
    return times_s


async def until(is_true: Callable[[], Awaitable[bool]], what: str) -> None:
    """Look again and again until something holds."""
    try:
        async with asyncio.timeout(20):
            while not await is_true():  # noqa: ASYNC110  # a gauge has no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise RuntimeError(f"never came: {what}") from None


async def measure(rounds: int, seconds: float, of_each: int) -> dict[str, Times]:
    """Measure all rounds against one gateway."""
    measured = {path: Times() for path in PATHS}
    upload = request_bytes("POST", "/v2/stacks", [TOKEN, ("Content-Length", "1000000")])
    read = request_bytes("GET", BIG, [TOKEN]) * BIG_TIMES
    async with ScriptedAos() as aos:
        aos.answer(late)
        # Each peer is to be slow all the time, not to be sent away for it.
        environ = {"AOS_GATEWAY_SERVER__HEADER_TIMEOUT_S": "60", "AOS_GATEWAY_LOG__ACCESS": "off"}
        gateway = GatewayProcess("--upstream", aos.url, environ=environ)

        async def connections(count: int) -> bool:
            return (await gauges(gateway.admin))["connections"] == count

        try:
            await gateway.ready()
            for target in (BIG, HIT):
                await fetch(gateway.address, target, token=TOKEN[1])
            await run_phase(gateway.address, seconds)
            for _ in range(rounds):
                for phase in PHASES:
                    if phase != "with":
                        await until(lambda: connections(0), "the end of all connections")
                        found = await run_phase(gateway.address, seconds)
                    else:
                        async with slow_peers(
                            gateway.address, of_each, read=read, upload=upload, step_s=STEP_S
                        ):
                            await until(lambda: connections(3 * of_each), "all slow peers")
                            found = await run_phase(gateway.address, seconds)
                            await until(lambda: connections(3 * of_each), "all slow peers, still")
                    for path, times_s in found.items():
                        measured[path].rounds[phase].append(times_s)
        finally:
            gateway.discard()
    return measured


def rows(measured: dict[str, Times]) -> list[list[str]]:
    """Return the cells by path."""
    found = []
    for path, times in measured.items():
        cells = [path, str(sum(len(one) for phase in PHASES for one in times.rounds[phase]))]
        for phase in PHASES:
            p50_s, p99_s = times.quantile_s(phase, 50), times.quantile_s(phase, 99)
            cells.append(f"{p50_s * 1000:.1f} / {p99_s * 1000:.1f} ({times.worst_s(phase) * 1000:.1f})")
        found.append([*cells, f"{times.allowed_s * 1000:.1f}", "no" if times.is_exceeded else "yes"])
    return found


def table(cells: Sequence[Sequence[str]]) -> str:
    """Return them as a Markdown table; times in milliseconds."""
    titles = ["path", "requests", *(f"{phase}: p50 / p99 (worst)" for phase in PHASES), "allowed p99", "kept"]
    return "\n".join(f"| {' | '.join(line)} |" for line in [titles, ["---"] * len(titles), *cells])


def main() -> None:
    """Read the options, measure, print; exits with 1 when the p99 moved by more than it may."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults.slow_peers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=count, default=7, metavar="N", help="how many rounds (7)")
    parser.add_argument("--phase", type=positive, default=2.0, metavar="SECONDS", help="of a phase (2)")
    parser.add_argument("--peers", type=count, default=200, metavar="N", help="slow peers of each kind (200)")
    parser.add_argument("--json", action="store_true", help="print the cells as JSON instead")
    options = parser.parse_args()
    measured = asyncio.run(measure(options.rounds, options.phase, options.peers))
    cells = rows(measured)
    print(json.dumps(cells, ensure_ascii=False) if options.json else table(cells))
    if any(times.is_exceeded for times in measured.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
