"""One byte string in many ways over a socket."""

import asyncio
import random
from collections.abc import Iterator

from tests.testbed.client import RawClient

WAYS = ("whole", "bytes", "random 1", "random 2")
_LONG_BYTES = 2000


def split(data: bytes, way: str) -> Iterator[bytes]:
    """Cut data into the segments of one of `WAYS`; long data is never sent byte by byte."""
    if way == "whole":
        yield data
        return
    chooser = random.Random(way)
    longest = len(data) // 20 if len(data) > _LONG_BYTES else 1 if way == "bytes" else 12
    start = 0
    while start < len(data):
        end = start + chooser.randint(1, longest)
        yield data[start:end]
        start = end


async def send_split(client: RawClient, data: bytes, way: str) -> None:
    """Send data in segments, with a turn of the loop between two, so that they arrive as such."""
    for segment in split(data, way):
        try:
            await client.send(segment)
        except ConnectionError:
            return  # refused by now; what was answered is still there to be read
        await asyncio.sleep(0)
