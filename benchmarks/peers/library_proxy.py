"""What a Python user would reach for: aiohttp-client-cache with Redis behind a small aiohttp application.

Its key covers method, URL and the token; a record is kept when its phase is terminal.
Run it as ``python -m benchmarks.peers.library_proxy --listen A --upstream URL --redis URL``.
"""

import json

from aiohttp import web
from aiohttp_client_cache import CachedResponse, CachedSession, RedisBackend

from .serving import Serve, main

_TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled", "ForceCancelled"})
_TTL_S = 3600


async def is_settled(response: CachedResponse) -> bool:
    """Whether the record is settled."""
    try:
        record = json.loads(await response.read())
        return record["status"]["objectStatus"]["phase"] in _TERMINAL
    except (ValueError, LookupError, TypeError):
        return False


def serve(upstream: str, redis: str) -> Serve:
    """Return what starts the server."""

    async def start(host: str, port: int) -> None:
        backend = RedisBackend(
            "records", address=redis, expire_after=_TTL_S, include_headers=True, filter_fn=is_settled
        )
        session = CachedSession(cache=backend)

        async def handle(request: web.Request) -> web.Response:
            # Only the header that identifies the caller may be part of the key.
            headers = {"X-Auth-Token": request.headers.get("X-Auth-Token", "")}
            async with session.get(upstream + request.path_qs, headers=headers) as response:
                body = await response.read()
                return web.Response(
                    status=response.status, body=body, headers={"Content-Type": "application/json"}
                )

        application = web.Application()
        application.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port, backlog=4096).start()

    return start


if __name__ == "__main__":
    main(serve, "aiohttp-client-cache on Redis")
