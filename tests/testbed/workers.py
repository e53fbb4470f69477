"""A gateway with several workers, and connections that are known to lead to each of them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from .client import RawClient, RawResponse, fetch
from .payloads import TARGET

_ID_OF_PROCESS = 16
_MOST_CONNECTIONS = 200


def says_hit(response: RawResponse) -> bool:
    """Whether a response came from a stored record."""
    return b"; hit" in (response.get("Cache-Status") or b"")


async def hit(client: RawClient, token: bytes) -> RawResponse:
    """Request the record until it is a hit, at the second request at the latest."""
    for _ in range(2):
        response = await client.request("GET", TARGET, [("X-Auth-Token", token)])
        if says_hit(response):
            return response
    raise AssertionError(f"no hit: {response.get('Cache-Status')!r}")


def worker_of(response: RawResponse) -> bytes:
    """Return which worker a hit came from: the prefix of its request ids."""
    return (response.get("X-Request-Id") or b"")[:_ID_OF_PROCESS]


@asynccontextmanager
async def one_to_each(address: str, count: int, token: bytes) -> AsyncIterator[list[RawClient]]:
    """Connect once to each worker; each has the record in its memory then."""
    async with AsyncExitStack() as stack:
        found: dict[bytes, RawClient] = {}
        for _ in range(_MOST_CONNECTIONS):
            client = await stack.enter_async_context(await RawClient.connect(address))
            found.setdefault(worker_of(await hit(client, token)), client)
            if len(found) == count:
                break
        assert len(found) == count
        yield list(found.values())


async def pids(admin: str) -> list[int]:
    """The process ids of the workers that run."""
    health = (await fetch(admin, "/readyz")).json()
    return [worker["pid"] for worker in health["workers"]]
