"""What the tests over sockets ask, and how they read the answers."""

import asyncio
import time
from collections.abc import Callable

from gateway.clock import Clock
from tests.testbed.answers import Conversation, Received, as_bytes
from tests.testbed.aos import TARGET, Answer, record
from tests.testbed.client import Headers, RawResponse, fetch
from tests.testbed.gateway import RunningGateway
from tests.testbed.secrets import token
from tests.testbed.wire import Field

ALICE = token("alice", 300)
BOB = token("bob", 300)
OTHER_ROUTE = "/v2/stacks"
_BUSY_S = 5.0
_LOOK_S = 0.002


class MovableTime:
    """Both clocks of a gateway, to be moved.

    Attributes:
        ahead_s: how far they are ahead of the real ones.
        set_s: by how much the wall clock alone was set, ahead or back.
        clock: what the gateway takes.
    """

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.set_s = 0.0
        self.clock = Clock(
            lambda: time.time() + self.ahead_s + self.set_s, lambda: time.monotonic() + self.ahead_s
        )


def settled(*headers: tuple[str, str], body: bytes | None = None) -> Answer:
    """A record that is stored, with these fields."""
    return Answer(headers=[("Content-Type", "application/json"), *headers], body=body or record())


def running_record() -> Answer:
    """A record in progress."""
    return Answer(body=record("Running"))


async def flood(_: Received, conversation: Conversation) -> None:
    """Answer without end, as fast as it is taken."""
    await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while True:
        await conversation.send(b"x" * 1_000_000)


async def get(
    gateway: RunningGateway,
    target: str = TARGET,
    *headers: tuple[str | bytes, str | bytes],
    token: bytes | None = ALICE,
    method: str = "GET",
    body: bytes | None = None,
) -> RawResponse:
    """Ask the gateway on a connection of its own."""
    fields: Headers = headers
    return await fetch(gateway.address, target, method=method, headers=fields, body=body, token=token)


def pairs(fields: Headers) -> list[Field]:
    """Fields as they are on the wire."""
    return [(as_bytes(name), as_bytes(value)) for name, value in fields]


def cache_status(response: RawResponse) -> str:
    """The gateway's own member of Cache-Status, which is the last one."""
    return response.all("cache-status")[-1].rpartition(b", ")[2].decode()


def is_hit(response: RawResponse) -> bool:
    """Whether an entry answered."""
    return cache_status(response).startswith("aos-gateway; hit")


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something about the gateway holds that it has no event for."""
    async with asyncio.timeout(_BUSY_S):
        while not holds():
            await asyncio.sleep(_LOOK_S)


async def all_busy(gateway: RunningGateway, count: int) -> None:
    """Wait until this many callers' requests have reached the cache and wait there."""
    await until(lambda: gateway.app.server.requests_count >= count)
    # From its start to its first wait for somebody else a request takes a few turns of the loop.
    for _ in range(10):
        await asyncio.sleep(0)
