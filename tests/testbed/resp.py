"""The Redis wire format (RESP2), just enough to look into a server without the product's library."""

import asyncio
import socket
from collections.abc import Sequence
from typing import TypeAlias

from . import address as addresses
from .sockets import finish

Reply: TypeAlias = int | str | bytes | list["Reply"] | None
Argument = str | bytes | int


class RedisReplyError(Exception):
    """The server replied with an error."""


class UnfinishedReply(Exception):
    """More bytes are needed."""


def encode(*arguments: Argument) -> bytes:
    """One command as an array of bulk strings."""
    parts = [argument if isinstance(argument, bytes) else str(argument).encode() for argument in arguments]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)])


def decode(data: bytes | bytearray, start: int = 0) -> tuple[Reply | RedisReplyError, int]:
    """Read one reply.

    Args:
        data: what the server sent.
        start: where the reply begins.

    Returns:
        The reply (simple strings as str, bulk strings as bytes, nil as None, an error as a value), and
        where the next one begins.

    Raises:
        UnfinishedReply: it is not all there yet.
    """
    end = data.find(b"\r\n", start)
    if end < 0:
        raise UnfinishedReply
    kind, line, position = data[start : start + 1], bytes(data[start + 1 : end]), end + 2
    if kind == b"+":
        return line.decode(), position
    if kind == b"-":
        return RedisReplyError(line.decode()), position
    if kind == b":":
        return int(line), position
    size = int(line)
    if size < 0:
        return None, position
    if kind == b"$":
        if len(data) < position + size + 2:
            raise UnfinishedReply
        return bytes(data[position : position + size]), position + size + 2
    if kind != b"*":
        raise ValueError(f"not a RESP2 reply: {kind!r}")
    items: list[Reply] = []
    for _ in range(size):
        item, position = decode(data, position)
        if isinstance(item, RedisReplyError):
            raise item
        items.append(item)
    return items, position


async def ask(address: str, commands: Sequence[bytes], timeout_s: float = 5.0) -> Reply:
    """Run commands over a connection of their own and give the last one's reply.

    Args:
        address: `host:port` or `unix:/path`.
        commands: as `encode` builds them.
        timeout_s: deadline in seconds for all.

    Raises:
        RedisReplyError: the reply to one of them is an error.
        ConnectionError: the server closed the connection before the last reply.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await addresses.connect(address, timeout_s=timeout_s)
        try:
            writer.write(b"".join(commands))
            data = bytearray()
            while True:
                piece = await reader.read(65536)
                data += piece
                reply, is_whole = _last_reply(data, len(commands))
                if is_whole:
                    return reply
                _expect_more(piece)
        finally:
            await finish(writer)


def ask_now(address: str, commands: Sequence[bytes], timeout_s: float = 5.0) -> Reply:
    """The same as `ask`, blocking; the deadline is for each step."""
    where = addresses.split(address)
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.settimeout(timeout_s)
        link.connect(where)
        link.sendall(b"".join(commands))
        data = bytearray()
        while True:
            piece = link.recv(65536)
            data += piece
            reply, is_whole = _last_reply(data, len(commands))
            if is_whole:
                return reply
            _expect_more(piece)


def _last_reply(data: bytearray, count: int) -> tuple[Reply, bool]:
    position = 0
    last: Reply = None
    for _ in range(count):
        try:
            reply, position = decode(data, position)
        except UnfinishedReply:
            return None, False
        if isinstance(reply, RedisReplyError):
            raise reply
        last = reply
    return last, True


def _expect_more(piece: bytes) -> None:
    if not piece:
        raise ConnectionError("the server closed the connection before its reply")
