"""The least that an aiohttp proxy can be: low-level server, one client session, no checks, nothing kept.

Run it as ``python -m benchmarks.peers.bare_proxy --listen 127.0.0.1:8080 --upstream http://127.0.0.1:8090``.
"""

import aiohttp
from aiohttp import web
from yarl import URL

from .serving import Serve, main

# Each is between the neighbours of one connection alone, or counted anew by the server.
_NOT_PASSED = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date"})


def serve(upstream: str, redis: str) -> Serve:
    """Return what starts the server."""
    del redis

    async def start(host: str, port: int) -> None:
        connector = aiohttp.TCPConnector(limit=256)
        session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

        async def handle(request: web.BaseRequest) -> web.Response:
            headers = [item for item in request.headers.items() if item[0].lower() not in _NOT_PASSED]
            target = URL(upstream + request.path_qs, encoded=True)
            async with session.request(
                request.method, target, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                fields = [item for item in response.headers.items() if item[0].lower() not in _NOT_PASSED]
                answer = web.Response(status=response.status, body=body)
                for name, value in fields:
                    answer.headers[name] = value
                return answer

        runner = web.ServerRunner(web.Server(handle, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, host, port, backlog=4096).start()

    return start


if __name__ == "__main__":
    main(serve, "a bare aiohttp proxy")
