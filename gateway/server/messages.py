"""Messages between the parent and its workers."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.config.sources import RawSetting
from gateway.store.peers import Invalidation
from gateway.telemetry.snapshot import Snapshot
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to a worker."""

    number: int
    settings: dict[str, RawSetting]
    memory_disabled: bool = False


class EnableMemory(msgspec.Struct, frozen=True, tag=True):
    """To a worker: turn the memory tier on."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """To a worker: apply these settings; the `Response` holds an error text, "" for none."""

    request_id: int
    settings: dict[str, RawSetting]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: drain and end; at once: abort requests in progress.

    At a handover another process already accepts: idle connections may carry one more request.
    """

    is_handover: bool = False
    at_once: bool = False


class StateRequest(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the `Response` holds its `State`."""

    request_id: int


class Purge(msgspec.Struct, frozen=True, tag=True):
    """To a worker: invalidate a stack everywhere; the `Response` says whether that is done."""

    request_id: int
    stack_id: str


class Ping(msgspec.Struct, frozen=True, tag=True):
    """To a worker, which sends it back: a sign of life."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it needs the others' invalidations from now on, and serves if ``is_serving``."""

    is_serving: bool


class Invalidate(msgspec.Struct, frozen=True, tag=True):
    """From a worker to the parent, which forwards it to the others.

    It has the sender's number and its own, see `gateway.server.shared_counts`, or 0.
    """

    sender: int
    number: int
    invalidations: list[Invalidation]


class State(msgspec.Struct, frozen=True):
    """State of a worker, see `gateway.operations.Operations`; empty before it has reported any."""

    is_ready: bool = False
    health: dict[str, Any] = {}
    metrics: Snapshot = {}
    executions: list[TopExecution] = []
    throttled: list[ThrottledCaller] = []


class Response(msgspec.Struct, frozen=True, tag=True):
    """From a worker: the response to the request with this id."""

    request_id: int
    body: State | str | bool


class FinalState(msgspec.Struct, frozen=True, tag=True):
    """From a worker that ends."""

    state: State


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

pack = msgspec.msgpack.Encoder().encode
read: Callable[[bytes], Message] = msgspec.msgpack.Decoder(Message).decode
