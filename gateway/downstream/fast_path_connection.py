"""Connections with a fast path beside the parser.

The one module that relies on how aiohttp's server waits for requests. `why_closed` compares that with what
is installed; when it differs, or with ``server.fast_lane = false``, every request takes the parser's way.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from gateway.downstream.admission import LINGER_S
from gateway.downstream.connection import DownstreamConnection, DownstreamServer
from gateway.downstream.fast_path import FastPath, PlainLookup
from gateway.downstream.handler import Prepared
from gateway.downstream.response import PreparedResponse
from gateway.store.lookup import EarlyLookup
from gateway.telemetry.access_log import Begun

# What may come behind a request while Redis is asked for it, until no more is read.
_HELD_BYTES = 65_536

# What is relied on: the attributes, and where aiohttp's own code uses them.
_ATTRIBUTES = ("_waiter", "_messages", "_close", "_force_close", "_keepalive", "_next_keepalive_close_time")
_USES: tuple[tuple[Callable[..., object], tuple[str, ...]], ...] = (
    (RequestHandler.start, ("_waiter", "_messages", "_keepalive", "_next_keepalive_close_time")),
    (RequestHandler._process_keepalive, ("_waiter", "_keepalive", "_next_keepalive_close_time")),
    (RequestHandler.data_received, ("_waiter", "_messages", "_close", "_force_close")),
    (BaseProtocol.pause_writing, ("_paused",)),
)


def why_closed() -> str | None:
    """Return in which way aiohttp is not as expected; ``None`` when it is."""
    slots = {name for kind in RequestHandler.__mro__ for name in getattr(kind, "__slots__", ())}
    for name in _ATTRIBUTES:
        if name not in slots:
            return f"aiohttp's RequestHandler has no {name}"
    for function, names in _USES:
        code = getattr(function, "__code__", None)
        for name in names:
            if code is None or name not in code.co_names:
                return f"aiohttp's {function.__qualname__} does not use {name}"
    return None


class FastPathConnection(DownstreamConnection):
    """A caller's connection with a fast path beside the parser."""

    __slots__ = ("_ends", "_fast_path", "_held", "_question")

    def __init__(self, server: DownstreamServer, fast_path: FastPath, **options: Any) -> None:
        super().__init__(server, **options)
        self._fast_path = fast_path
        # Being looked up or fetched; what comes behind it is held back. None: there is none.
        self._question: PlainLookup | None = None
        self._held = b""
        # The caller ended its side meanwhile.
        self._ends = False

    @property
    def is_answering(self) -> bool:
        """A plain request is being looked up or fetched, beside the parser."""
        return self._question is not None

    @property
    def is_busy(self) -> bool:
        """A request is being read, looked up, answered or waiting to be."""
        return self._question is not None or super().is_busy

    @property
    def has_begun_another(self) -> bool:
        """Bytes of a request behind the present one were read; it must not be lost."""
        return bool(self._held) or super().has_begun_another

    def data_received(self, data: bytes) -> None:
        """Answer a hit at once; fetch what is plain; anything else goes the parser's way."""
        if self._question is not None:
            self._hold(data)
            return
        waiter = self._waiter
        if (
            # aiohttp waits for the next request: nothing is queued, parsed or being answered.
            waiter is not None
            and not waiter.done()
            # Nothing has come of that request yet, and the connection goes on after it.
            and not (self._head.size or self._backlog or self._is_last or self._close or self._force_close)
            # The caller takes its answers.
            and not self._paused
        ):
            answer = self._fast_path.answer(data, self.origin)
            if answer is not None:
                if self._head_timer is not None:
                    self._stop_head_timer()
                if isinstance(answer, bytes):
                    self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                    assert self.transport is not None
                    self.transport.write(answer)
                else:
                    self._question = answer
                    self._fast_path.look_up(answer.known.key, self._looked_up)
                return
        super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio lets it say more
        """Give whoever ended only its own side a moment to be answered in."""
        if self._question is None:
            return super().eof_received()
        self._ends = True
        if self.ssl_context is not None:
            return None
        self._loop.call_later(LINGER_S, self.force_close)
        return True

    def _process_keepalive(self) -> None:
        if self._question is not None:
            # aiohttp takes the connection for idle; `_answered` sets the timer anew.
            self._keepalive_handle = None
        else:
            super()._process_keepalive()

    def _looked_up(self, found: EarlyLookup | None) -> None:
        """Answer from what Redis has, or fetch it."""
        question, transport = self._question, self.transport
        if question is None or transport is None or transport.is_closing():
            return
        answer = None
        if found is not None and found.lookup.entry is not None:
            answer = self._fast_path.found(question, found)
        if answer is not None:
            transport.write(answer)
            self._answered()
        elif self._fast_path.fetch(question, self, found, self._respond):
            self._server.requests_count += 1
        else:
            # The parser must see it; aiohttp's task goes on from there.
            self._question = None
            held, self._held = question.data + self._held, b""
            self._resume_held()
            super().data_received(held)

    def _respond(self, response: Prepared) -> None:
        """Write a response: at once, unless something has to be waited for."""
        question = self._question
        assert question is not None
        # Cancelled before it begins, a task would leave a streamed response open.
        self._stop = None
        if isinstance(response, bytes):
            assert self.transport is not None
            self.transport.write(response)
            self._answered()
        else:
            self._fast_path.start(self._write(question, response))

    async def _write(
        self, question: PlainLookup, response: PreparedResponse | Coroutine[Any, Any, PreparedResponse]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.stop_with_caller(task.cancel)
        if self.transport is None:
            # He left before it began.
            task.cancel()
        try:
            if not isinstance(response, PreparedResponse):
                try:
                    response = await response
                except Exception as error:
                    began = Begun(b"GET", question.known.target, len(question.data), question.asked_s)
                    response = self.failure(error, began)
            await response.write_on(self)
        except ConnectionError:
            # The caller left, or had to be cut off.
            self.force_close()
            return
        self.stop_with_caller(None)
        if not response.keep_alive:
            self.force_close()
        elif self.transport is not None:
            self._answered()

    def _answered(self) -> None:
        """Turn to what comes next."""
        self._question = None
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        held, self._held = self._held, b""
        if held:
            self._resume_held()
            self.data_received(held)
        if self._ends and not self.is_busy:
            self.force_close()

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _HELD_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _resume_held(self) -> None:
        if self.transport is not None and not self._reading_paused and not self._buffer_paused:
            self.transport.resume_reading()
