"""What the parent and its workers tell each other, and how it crosses the pair of sockets between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

from gateway.telemetry.metrics import Snapshot
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution

_LENGTH_BYTES = 4
# Metrics are the longest; what is larger is no message.
_MOST_BYTES = 16_777_216
# Beyond it the other process takes nothing any more.
_MOST_UNSENT_BYTES = 8_388_608
_FLUSH_S = 1.0


class Invalidation(msgspec.Struct, frozen=True, gc=False):
    """What a worker did that makes others' copies unusable.

    Attributes:
        stack: case-folded id of a forgotten stack; empty when one entry was dropped.
        settles: the write takes effect after its answer.
        entry: local key of the dropped entry; empty when a stack was forgotten.
    """

    stack: bytes = b""
    settles: bool = False
    entry: bytes = b""


class Start(msgspec.Struct, frozen=True, tag=True):
    """To a worker, first of all.

    Attributes:
        number: which of the workers it is.
        settings: as `gateway.config.model.pack` has written them.
        keeps_nothing: it has no copies in memory until `EnableMemory`.
    """

    number: int
    settings: bytes
    memory_disabled: bool = False


class EnableMemory(msgspec.Struct, frozen=True, tag=True):
    """To a worker: have copies in memory from now on."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """To a worker: use these settings from now on; answered by `Response` with an error text or nothing."""

    question: int
    settings: bytes


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: end.

    Attributes:
        is_gentle: another process accepts already, so idle connections may have one more request.
        at_once: what is under way is cut.
    """

    is_handover: bool = False
    at_once: bool = False


class StateRequest(msgspec.Struct, frozen=True, tag=True):
    """To a worker: tell how it is; answered by `Response` with a packed `State`."""

    question: int


class Purge(msgspec.Struct, frozen=True, tag=True):
    """To a worker: forget a stack everywhere; answered by `Response`, empty when that is not done yet."""

    question: int
    stack_id: str


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Either way: still here."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it serves.

    Attributes:
        is_serving: false just before: from now on it has to hear what others forget.
    """

    is_serving: bool


class Invalidate(msgspec.Struct, frozen=True, tag=True):
    """What one worker did, to the parent and from there to the others.

    Attributes:
        teller: the worker's number.
        number: what it has told, counted in `gateway.server.shared_counts`; 0 when it is not counted.
        told: what it did.
    """

    teller: int
    number: int
    told: list[Invalidation]


class Response(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the answer to a question."""

    question: int
    body: bytes


class FinalState(msgspec.Struct, frozen=True, tag=True):
    """From a worker that ends: what it counted, a packed `State`."""

    state: bytes


class State(msgspec.Struct, frozen=True):
    """How a worker is.

    Attributes:
        is_ready: it accepts requests.
        health: what `/readyz` would report.
        metrics: what it has counted.
        executions: those that it fetches most.
        throttled: its callers who are told to wait most.
    """

    is_ready: bool
    health: dict[str, Any]
    metrics: Snapshot
    executions: list[TopExecution] = []
    throttled: list[ThrottledCaller] = []


Message = (
    Start
    | EnableMemory
    | Reload
    | Stop
    | StateRequest
    | Purge
    | Ping
    | Ready
    | Invalidate
    | Response
    | FinalState
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_states = msgspec.msgpack.Decoder(State)


def pack_state(state: State) -> bytes:
    """Return a state's bytes."""
    return _encoder.encode(state)


def read_state(data: bytes) -> State:
    """Return the state in packed bytes."""
    return _states.decode(data)


class Channel:
    """One end of the pair of sockets between the parent and a worker; use it inside one event loop.

    Messages arrive whole and in order. It breaks when the other process ends.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """Take one of a pair of connected sockets."""
        return cls(*await asyncio.open_connection(sock=connected))

    def send(self, message: Message) -> bool:
        """Send a message without waiting; when the channel is broken, nothing happens.

        Returns:
            ``False`` when it is not sent because the other end takes nothing any more.
        """
        if self._writer.is_closing():
            return True
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            return False
        data = _encoder.encode(message)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        return True

    async def receive(self) -> Message | None:
        """Return the next message; ``None`` when there will be none."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > _MOST_BYTES:
                return None
            body = await self._reader.readexactly(length)
            return _decoder.decode(body)
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            return None

    async def flush(self) -> None:
        """Wait, not for long, until what was sent has gone out."""
        # TimeoutError is one too.
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_FLUSH_S):
                await self._writer.drain()

    def close(self) -> None:
        """Break it."""
        self._writer.close()


class Pending:
    """Questions that wait for their answers, by number."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def new(self) -> tuple[int, asyncio.Future[bytes]]:
        """Return a question's number and what its answer will be."""
        self._last += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[self._last] = answer
        return self._last, answer

    def answered(self, question: int, body: bytes) -> None:
        """Pass an answer on to who waits for it."""
        answer = self._waiting.pop(question, None)
        if answer is not None and not answer.done():
            answer.set_result(body)

    def forget(self, question: int) -> None:
        """Nobody waits any more."""
        self._waiting.pop(question, None)

    def close(self) -> None:
        """No answer will come any more."""
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.cancel()
