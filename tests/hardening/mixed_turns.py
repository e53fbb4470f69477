"""Redis and the upstream failing in turns, and when which of them did."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from tests.testbed.faultproxy import HALF_OPEN, PASS, RESET, STALL, FaultProxy, Kind, Mode
from tests.testbed.gateway import GatewayProcess
from tests.testbed.process import health
from tests.testbed.redis_server import RedisServer

RECOVERY_S = 10.0
"""By when the gateways use Redis again; the promise is two seconds, on a machine with nothing else to do."""

Side = Literal["redis", "upstream"]

_LOOK_S = 0.05
_FLUSH_S = 0.2


@dataclass
class Stage:
    """What fails, and the gateways.

    Attributes:
        redis: the server; `redis_proxy` is on the way to it.
        aos_proxy: on the way to the upstream.
        gateways: the replicas.
    """

    redis: RedisServer
    redis_proxy: FaultProxy
    aos_proxy: FaultProxy
    gateways: Sequence[GatewayProcess]

    async def is_well(self) -> bool:
        """Whether all replicas use Redis, receive each other's invalidations, with none pending."""
        wanted = {"ready": True, "breaker": "closed", "subscription": "up", "pending_invalidations": 0}
        return all([(await health(gateway.admin)).items() >= wanted.items() for gateway in self.gateways])

    async def until_well(self, timeout_s: float) -> None:
        """Wait for that; TimeoutError when it never comes."""
        async with asyncio.timeout(timeout_s):
            while not await self.is_well():
                await asyncio.sleep(_LOOK_S)


@dataclass(frozen=True)
class Turn:
    """One fault.

    Attributes:
        name: for the summary.
        side: who fails.
        plays: holds the fault for a time in seconds, and heals it.
        causes_errors: requests that have to go upstream may fail.
    """

    name: str
    side: Side
    plays: Callable[[Stage, float], Awaitable[None]]
    causes_errors: bool = False


@dataclass
class Played:
    """A turn that was or is being played.

    Attributes:
        turn: what fails.
        began_s: since when.
        healed_s: until when.
        until_s: until when it may still be felt.
    """

    turn: Turn
    began_s: float
    healed_s: float = math.inf
    until_s: float = math.inf

    def meets(self, from_s: float, to_s: float) -> bool:
        """Whether it was felt at some time in between."""
        return self.began_s <= to_s and from_s <= self.until_s


@dataclass
class Turns:
    """Plays turns and knows when they were.

    Attributes:
        now_s: the clock of the test.
        after_upstream_s: how long requests that an upstream fault has met may last after it.
        played: all turns so far.
        slowest_recovery_s: how long the gateways took at most until they used Redis again.
    """

    stage: Stage
    now_s: Callable[[], float]
    after_upstream_s: float
    played: list[Played] = field(default_factory=list)
    slowest_recovery_s: float = 0.0

    async def play(self, turn: Turn, hold_s: float) -> None:
        """Let a fault come, and wait until it is over and done with."""
        played = Played(turn, self.now_s())
        self.played.append(played)
        await turn.plays(self.stage, hold_s)
        played.healed_s = self.now_s()
        if turn.side == "upstream":
            played.until_s = played.healed_s + self.after_upstream_s
            await asyncio.sleep(self.after_upstream_s)
            return
        try:
            await self.stage.until_well(RECOVERY_S)
        except TimeoutError:
            found = [await health(gateway.admin) for gateway in self.stage.gateways]
            raise AssertionError(f"{turn.name}: not well {RECOVERY_S:g} s after: {found}") from None
        played.until_s = self.now_s()
        self.slowest_recovery_s = max(self.slowest_recovery_s, played.until_s - played.healed_s)

    def is_calm(self, from_s: float, to_s: float) -> bool:
        """Whether Redis was well all the time from one moment to another."""
        return not any(played.turn.side == "redis" and played.meets(from_s, to_s) for played in self.played)

    def excuses_errors(self, from_s: float, to_s: float) -> bool:
        """Whether a request from one moment to another may have met an upstream that failed."""
        return any(played.turn.causes_errors and played.meets(from_s, to_s) for played in self.played)

    def fails(self, side: Side) -> bool:
        """Whether one of them is failing now."""
        return (
            bool(self.played) and self.played[-1].turn.side == side and self.played[-1].healed_s == math.inf
        )


def _mode(side: Side, mode: Mode) -> Callable[[Stage, float], Awaitable[None]]:
    async def plays(stage: Stage, hold_s: float) -> None:
        proxy = stage.redis_proxy if side == "redis" else stage.aos_proxy
        proxy.mode = mode
        await asyncio.sleep(hold_s)
        proxy.mode = PASS

    return plays


async def _killed(stage: Stage, hold_s: float) -> None:
    stage.redis.kill()
    await asyncio.sleep(hold_s)
    await asyncio.to_thread(stage.redis.start)


async def _stopped(stage: Stage, hold_s: float) -> None:
    stage.redis.pause()
    await asyncio.sleep(hold_s)
    stage.redis.resume()


async def _blocked(stage: Stage, hold_s: float) -> None:
    with suppress(TimeoutError):
        await stage.redis.command("DEBUG", "SLEEP", str(hold_s), timeout_s=0.05)
    await stage.redis.command("PING", timeout_s=hold_s + 5)


async def _flushed(stage: Stage, hold_s: float) -> None:
    ends_s = asyncio.get_running_loop().time() + hold_s
    while asyncio.get_running_loop().time() < ends_s:
        await stage.redis.command("FLUSHALL")
        await asyncio.sleep(_FLUSH_S)


async def _refused(stage: Stage, hold_s: float) -> None:
    await stage.aos_proxy.close()
    await asyncio.sleep(hold_s)
    await stage.aos_proxy.start()


# Three answers fit into it, or the beginning of a long one: some are whole, some break off in head or body.
_TRUNCATED = Mode(Kind.CUT, after_down_bytes=5000)

TURNS = (
    Turn("Redis killed", "redis", _killed),
    Turn("upstream refused", "upstream", _refused, causes_errors=True),
    Turn("Redis stopped", "redis", _stopped),
    Turn("upstream reset", "upstream", _mode("upstream", RESET), causes_errors=True),
    Turn("Redis blocked", "redis", _blocked),
    Turn("upstream stalled", "upstream", _mode("upstream", STALL), causes_errors=True),
    Turn("Redis slow", "redis", _mode("redis", Mode(delay_down_s=0.3))),
    Turn("upstream slow", "upstream", _mode("upstream", Mode(delay_down_s=0.15))),
    Turn("Redis flushed", "redis", _flushed),
    Turn("upstream truncated", "upstream", _mode("upstream", _TRUNCATED), causes_errors=True),
    Turn("Redis half-open", "redis", _mode("redis", HALF_OPEN)),
)
