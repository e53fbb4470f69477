"""The command line that the peers in Python share: they run on uvloop until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop

Serve = Callable[[str, int], Awaitable[None]]


def main(serve: Callable[[str, str], Serve], what: str) -> None:
    """Read the command line and serve.

    Args:
        serve: takes the URLs of upstream and Redis, returns what starts the server on a host and port.
        what: what it is, for the help text.
    """
    parser = argparse.ArgumentParser(description=f"Run {what}.")
    parser.add_argument("--listen", required=True, metavar="A", help="host:port")
    parser.add_argument("--upstream", required=True, metavar="URL", help="what it stands in front of")
    parser.add_argument("--redis", default="", metavar="URL", help="where it keeps records")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    uvloop.run(_until_signalled(serve(options.upstream, options.redis), host, int(port)))


async def _until_signalled(start: Serve, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await start(host, port)
    await done.wait()
