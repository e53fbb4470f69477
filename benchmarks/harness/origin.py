"""An upstream that costs the same for every request: a protocol on uvloop that writes one prepared answer.

Run it as ``python -m benchmarks.harness.origin --listen 127.0.0.1:8090``. It understands bodiless requests,
pipelined or cut anywhere, and answers each by its path alone:

| path | answer |
|---|---|
| ``/v2/stacks/{stack}/actions/{action}`` | a Succeeded record of that name, 1.25 kB unless set otherwise |
| the same with a stack that begins with ``running`` | a Running record |
| the same with an action that ends in ``.N`` | a record of N bytes |
| the same with another word for ``actions`` | the same |
| ``/-/requests`` | how many others there were |
| ``/-/delay/MS`` | ``0``; from then on every record comes so many milliseconds later |
"""

import argparse
import asyncio
import functools
import signal
from collections import deque
from typing import Final, cast

import uvloop

BODY_BYTES: Final = 1250
RUNNING: Final = b"running"

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
_RECORD: Final = (
    b'{"kind": "Execution", "apiVersion": "v1", "metadata": {"name": "%s", "namespace": "default"}, '
    b'"spec": {"actionName": "create", "onFailureStrategy": "DoNothing", "objectReference": '
    b'{"kind": "Stack", "uid": "cb2cdea0-cc70-11e6-8448-0242ac001004"}, "description": "%s"}, '
    b'"status": {"actionName": "create", "objectStatus": {"phase": "%s"}, "subObjectStatuses": {}}}'
)


@functools.lru_cache(maxsize=65536)
def answer(path: bytes, body_bytes: int) -> bytes:
    """Build the whole answer for a path: head and record, the record filled up to its size."""
    parts = path.split(b"/")
    stack, action = (parts[3], parts[5]) if len(parts) == 6 else (b"", b"")
    size = action.rpartition(b".")[2]
    wanted = int(size) if b"." in action and size.isdigit() else body_bytes
    phase = b"Running" if stack.startswith(RUNNING) else b"Succeeded"
    bare = len(_RECORD % (action, b"", phase))
    body = _RECORD % (action, b"x" * (wanted - bare), phase)
    return _HEAD % (len(body), body)


class Origin:
    """What all connections share.

    Attributes:
        body_bytes: of a record whose path does not say.
        delay_s: how long every record takes.
        requests: how many records were asked for.
    """

    def __init__(self, body_bytes: int, delay_s: float) -> None:
        self.body_bytes = body_bytes
        self.delay_s = delay_s
        self.requests = 0

    def answer(self, path: bytes) -> tuple[bytes, float]:
        """Return the answer for a path and the seconds it takes."""
        if path.startswith(b"/-/"):
            return self._control(path), 0.0
        self.requests += 1
        return answer(path, self.body_bytes), self.delay_s

    def _control(self, path: bytes) -> bytes:
        value = b"%d" % self.requests
        if path.startswith(b"/-/delay/"):
            self.delay_s = float(path.rpartition(b"/")[2]) / 1000
            value = b"0"
        return _HEAD % (len(value), value)


class Connection(asyncio.Protocol):
    """One connection from the server under test."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._rest = b""
        self._late: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        # Those of uvloop are of no class that asyncio knows.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer each whole request."""
        assert self._transport is not None
        *whole, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in whole:
            out, delay_s = self._origin.answer(head.split(b" ", 2)[1])
            if delay_s:
                # Answers leave in the order of the requests: equal delays keep it.
                self._late.append(out)
                asyncio.get_running_loop().call_later(delay_s, self._send_one)
            else:
                self._transport.write(out)

    def connection_lost(self, exc: Exception | None) -> None:
        """Send nothing more."""
        self._transport = None

    def _send_one(self) -> None:
        out = self._late.popleft()
        if self._transport is not None:
            self._transport.write(out)


async def serve(address: str, origin: Origin) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    host, _, port = address.rpartition(":")
    server = await loop.create_server(lambda: Connection(origin), host, int(port), backlog=4096)
    async with server:
        await done.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.origin", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--listen", default="127.0.0.1:8090", metavar="A", help="host:port")
    parser.add_argument("--delay-ms", type=float, default=0.0, metavar="MS", help="how long a record takes")
    parser.add_argument("--body-bytes", type=int, default=BODY_BYTES, metavar="N", help="of a record")
    options = parser.parse_args()
    origin = Origin(options.body_bytes, options.delay_ms / 1000)
    uvloop.run(serve(options.listen, origin))


if __name__ == "__main__":
    main()
