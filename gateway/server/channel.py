"""Messages between the parent and its workers, and the socket pair that carries them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

from gateway.telemetry.snapshot import Snapshot
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution

_LENGTH_BYTES = 4
# Longer than any message; metrics are the longest.
_MOST_BYTES = 16_777_216
# Beyond it the other process counts as hung.
_MOST_UNSENT_BYTES = 8_388_608
_FLUSH_S = 1.0


class Invalidation(msgspec.Struct, frozen=True, gc=False):
    """A stack invalidated or an entry dropped by one worker, to be applied by the others.

    Attributes:
        stack: case-folded id of the stack; empty for an entry.
        settles: the write takes effect after its response.
        entry: local key of the entry; empty for a stack.
    """

    stack: bytes = b""
    settles: bool = False
    entry: bytes = b""


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to a worker.

    Attributes:
        number: index of the worker.
        settings: from `gateway.config.model.pack`.
        memory_disabled: the memory tier is off until `EnableMemory`.
    """

    number: int
    settings: bytes
    memory_disabled: bool = False


class EnableMemory(msgspec.Struct, frozen=True, tag=True):
    """To a worker: turn the memory tier on."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """To a worker: apply these settings; the `Response` holds an error text or nothing."""

    request_id: int
    settings: bytes


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: drain and end.

    Attributes:
        is_handover: another process already accepts: idle connections may carry one more request.
        at_once: abort requests in progress.
    """

    is_handover: bool = False
    at_once: bool = False


class StateRequest(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the `Response` holds a packed `State`."""

    request_id: int


class Purge(msgspec.Struct, frozen=True, tag=True):
    """To a worker: invalidate a stack everywhere; the `Response` is empty while that is not done."""

    request_id: int
    stack_id: str


class Ping(msgspec.Struct, frozen=True, tag=True):
    """To a worker, which sends it back: a sign of life."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it needs the other workers' invalidations from now on.

    Attributes:
        is_serving: it accepts requests as well.
    """

    is_serving: bool


class Invalidate(msgspec.Struct, frozen=True, tag=True):
    """From a worker to the parent, which forwards it to the others.

    Attributes:
        sender: the worker's number.
        number: sequence number, see `gateway.server.shared_counts`; 0 for none.
        invalidations: to apply.
    """

    sender: int
    number: int
    invalidations: list[Invalidation]


class Response(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the response to the request with this id."""

    request_id: int
    body: bytes


class FinalState(msgspec.Struct, frozen=True, tag=True):
    """From a worker that ends: a packed `State`."""

    state: bytes


class State(msgspec.Struct, frozen=True):
    """State of a worker.

    Attributes:
        is_ready: it accepts requests.
        health: see `gateway.operations.Operations.health`.
        metrics: its counters and gauges.
        executions: those requested most.
        throttled: callers that receive the most 429 responses.
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
    """Encode a state."""
    return _encoder.encode(state)


def read_state(data: bytes) -> State:
    """Decode a state."""
    return _states.decode(data)


class Channel:
    """One end of the socket pair between the parent and a worker; use it inside one event loop.

    Messages arrive whole and in order. The channel breaks when the other process ends.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connected: socket.socket) -> Channel:
        """Make a channel over one end of a socket pair."""
        return cls(*await asyncio.open_connection(sock=connected))

    def send(self, message: Message) -> bool:
        """Send a message without waiting; do nothing if the channel is broken.

        Returns:
            ``False`` if it was not sent because the other end reads nothing.
        """
        if self._writer.is_closing():
            return True
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            return False
        data = _encoder.encode(message)
        self._writer.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        return True

    async def receive(self) -> Message | None:
        """Return the next message; ``None`` at the end."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            if length > _MOST_BYTES:
                return None
            body = await self._reader.readexactly(length)
            return _decoder.decode(body)
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            return None

    async def flush(self) -> None:
        """Wait for a moment until all messages have been written."""
        # TimeoutError is an OSError.
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_FLUSH_S):
                await self._writer.drain()

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


class Pending:
    """Requests without a response yet, by id."""

    def __init__(self) -> None:
        self._last_id = 0
        self._responses: dict[int, asyncio.Future[bytes]] = {}

    def new(self) -> tuple[int, asyncio.Future[bytes]]:
        """Return the id of a new request and the future of its response."""
        self._last_id += 1
        response: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._responses[self._last_id] = response
        return self._last_id, response

    def resolve(self, request_id: int, body: bytes) -> None:
        """Set a response, if it is still awaited."""
        response = self._responses.pop(request_id, None)
        if response is not None and not response.done():
            response.set_result(body)

    def discard(self, request_id: int) -> None:
        """Stop waiting for a response."""
        self._responses.pop(request_id, None)

    def close(self) -> None:
        """Cancel all: no response will come."""
        responses, self._responses = self._responses, {}
        for response in responses.values():
            response.cancel()
