"""A scripted AOS on a real socket: records every request and responds by script."""

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from . import address
from .answers import (
    Answer,
    AnyAnswer,
    Gate,
    Received,
    close_unanswered,
    never,
    reset_unanswered,
    truncated,
)
from .aos_connection import AosConnection
from .payloads import ABSENT, ACTION_ID, STACK_ID, TARGET, payload, record
from .sockets import WatchedReader
from .watch import Watch, Words
from .wire import ConnectionCut, MalformedMessage

__all__ = [
    "ABSENT",
    "ACTION_ID",
    "STACK_ID",
    "TARGET",
    "Answer",
    "AnyAnswer",
    "AosConnection",
    "Gate",
    "Received",
    "ScriptedAos",
    "close_unanswered",
    "never",
    "payload",
    "record",
    "reset_unanswered",
    "truncated",
]

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_NOT_SCRIPTED = Answer(501, headers=[("Connection", "close")], body=b"not scripted")


@dataclass
class _Rule:
    method: str | None
    target: str | re.Pattern[str]
    answer: AnyAnswer
    at: Literal["head", "end"]
    times_left: float

    def fits(self, received: Received, at: Literal["head", "end"]) -> bool:
        if self.at != at or self.times_left < 1 or self.method not in {None, received.method}:
            return False
        if isinstance(self.target, str):
            return received.target.startswith(self.target)
        return self.target.fullmatch(received.target) is not None


class ScriptedAos:
    """A real HTTP/1.1 server that responds by script and records every request.

    Which answer: the latest fitting `on`, else the next one of `queue`, else the default `answer`.
    A request that nothing is scripted for gets 501 and counts as a violation.

    Attributes:
        received: complete requests, in the order of their last byte.
        heads: all requests, in the order of their heads, complete or not.
        cut: requests (or only their beginnings) that the caller broke off.
        violations: what was wrong with requests or with the script; the fixture wants it empty.
        connections: how many connections were accepted.
    """

    def __init__(
        self,
        *,
        unix_path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        max_head_bytes: int = 1 << 20,
        max_body_bytes: int = 64 << 20,
    ) -> None:
        """Prepare a server; `start` or `async with` opens it.

        Args:
            unix_path: listen on this Unix socket instead of TCP.
            tls: context of a TLS server; None speaks plainly.
            host: loopback host for TCP.
            port: TCP port; 0 takes a free one.
            max_head_bytes: a longer head is a violation.
            max_body_bytes: a longer body is a violation.
        """
        self.received: list[Received] = []
        self.heads: list[Received] = []
        self.cut: list[Received | bytes] = []
        self.violations: list[str] = []
        self.connections = 0
        self._unix_path, self._tls, self._host, self.port = unix_path, tls, host, port
        self._max_head_bytes, self._max_body_bytes = max_head_bytes, max_body_bytes
        self._default: AnyAnswer | None = None
        self._rules: list[_Rule] = []
        self._queue: deque[AnyAnswer] = deque()
        self._gates: list[Gate] = []
        self._watch = Watch()
        self._open: dict[asyncio.Task[None], AosConnection] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> Self:
        """Listen; the address is known afterwards."""
        loop = asyncio.get_running_loop()
        if self._unix_path is not None:
            self._server = await loop.create_unix_server(self._protocol, str(self._unix_path), ssl=self._tls)
        else:
            self._server = await loop.create_server(
                self._protocol, self._host, self.port, ssl=self._tls, backlog=1024
            )
            self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def close(self) -> None:
        """Stop listening, open all gates, end all connections."""
        if self._server is None:
            return
        self._server.close()
        for gate in self._gates:
            gate.open()
        for task, connection in list(self._open.items()):
            connection.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # a TLS handshake that hangs must not hold up a test
            async with asyncio.timeout(2):
                await self._server.wait_closed()
        self._server = None
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def address(self) -> str:
        """Where it listens: `host:port` or `unix:/path`."""
        return f"unix:{self._unix_path}" if self._unix_path else address.join(self._host, self.port)

    @property
    def url(self) -> str:
        """Its base URL, for TCP."""
        return f"{'https' if self._tls else 'http'}://{address.join(self._host, self.port)}"

    @property
    def open_connections(self) -> int:
        """How many connections neither side has ended."""
        return sum(connection.is_open for connection in self._open.values())

    def answer(self, answer: AnyAnswer) -> None:
        """Set the default answer."""
        self._default = answer

    def queue(self, *answers: AnyAnswer) -> None:
        """Add answers to be used once each, in order, before the default."""
        self._queue.extend(answers)

    def on(
        self,
        method: str | None,
        target: str | re.Pattern[str],
        answer: AnyAnswer,
        *,
        at: Literal["head", "end"] = "end",
        times: int | None = None,
    ) -> None:
        """Answer certain requests; the latest fitting rule wins.

        Args:
            method: exact method; None fits all.
            target: a beginning of the exact target, or a pattern that fits the whole.
            answer: the answer.
            at: "head" answers before the body is read, which the answer may then do by `read_body`.
            times: how often it is used; None is always.
        """
        self._rules.insert(0, _Rule(method, target, answer, at, float("inf") if times is None else times))

    def gate(self) -> Gate:
        """Make a gate; `close` opens it at the latest."""
        self._gates.append(Gate())
        return self._gates[-1]

    async def wait_received(self, n: int, timeout_s: float = 5.0) -> None:
        """Wait until n complete requests were received in total (deadline in seconds)."""
        await self.wait_until(
            lambda: len(self.received) >= n, lambda: f"{n} requests; {self._seen()}", timeout_s
        )

    async def wait_heads(self, n: int, timeout_s: float = 5.0) -> None:
        """Wait until n request heads were received in total (deadline in seconds)."""
        await self.wait_until(lambda: len(self.heads) >= n, lambda: f"{n} heads; {self._seen()}", timeout_s)

    async def wait_until(self, predicate: Callable[[], bool], what: Words, timeout_s: float = 5.0) -> None:
        """Wait for anything about this server: looked at after each request, piece of a body and end."""
        await self._watch.until(predicate, what, timeout_s)

    def count(self, method: str | None = None, target: str = "") -> int:
        """How many complete requests had this method (None: any) and this beginning of the target."""
        fitting = (r for r in self.received if method in {None, r.method})
        return sum(r.target.startswith(target) for r in fitting)

    def _seen(self) -> str:
        lines = [f"{r.method} {r.target}{'' if r.complete else ' (unfinished)'}" for r in self.heads]
        return f"came: {lines}, violations: {self.violations}"

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = WatchedReader(self._watch.changed)
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._accept(reader, writer))

    def _accept(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = AosConnection(self.connections, reader, writer, self._watch)
        task = asyncio.create_task(
            self._serve(connection), name=f"scripted AOS connection {self.connections}"
        )
        self._open[task] = connection
        task.add_done_callback(self._ended)
        self._watch.changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violations.append(f"an answer failed: {error!r}")
        self._watch.changed()

    async def _serve(self, connection: AosConnection) -> None:
        unfinished: list[Received] = []
        try:
            while (
                received := await connection.read_request(self._max_head_bytes, self._max_body_bytes)
            ) is not None:
                unfinished = [received]
                await self._take(received, connection)
        except ConnectionCut as cut:
            self.cut.append(unfinished[0] if unfinished and not unfinished[0].complete else cut.partial)
        except MalformedMessage as error:
            self.violations.append(f"connection {connection.number}: {error}")
            with contextlib.suppress(OSError):
                await connection.send(_BAD_REQUEST)
        except TimeoutError as error:
            self.violations.append(f"connection {connection.number}: {error or 'an answer took too long'}")
        except OSError:
            # The caller reset the connection; only what it left unfinished is recorded.
            self.cut.extend(r for r in unfinished if not r.complete)
        finally:
            await connection.finished()

    async def _take(self, received: Received, connection: AosConnection) -> None:
        self.heads.append(received)
        self._watch.changed()
        early = self._pick(received, "head")
        if early is not None:
            await connection.answer(early)
            if connection.ended:
                return
        await connection.read_body()
        self.received.append(received)
        self._watch.changed()
        if early is None:
            await connection.answer(self._pick(received, "end") or self._next(received))

    def _pick(self, received: Received, at: Literal["head", "end"]) -> AnyAnswer | None:
        for rule in self._rules:
            if rule.fits(received, at):
                rule.times_left -= 1
                return rule.answer
        return None

    def _next(self, received: Received) -> AnyAnswer:
        if self._queue:
            return self._queue.popleft()
        if self._default is None:
            self.violations.append(f"nothing scripted for {received.method} {received.target}")
            return _NOT_SCRIPTED
        return self._default
