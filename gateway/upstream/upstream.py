"""Requests to AOS, byte for byte, over pooled connections."""

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from gateway.clock import Clock
from gateway.config.model import UpstreamConfig
from gateway.core.http.errors import GatewayError
from gateway.core.http.framing import request_bytes
from gateway.core.http.messages import Fields, names, wire_lines
from gateway.core.http.response_head import HeadReader
from gateway.core.http.target import SERVER_WIDE, is_write
from gateway.errors import GaveWay, NoCredentials, Overloaded, UpstreamError
from gateway.runtime.progress import drained, taken
from gateway.tasks import TaskSet
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog
from gateway.upstream.connector import Connector
from gateway.upstream.exchange import Exchange
from gateway.upstream.held_bodies import HeldBodies
from gateway.upstream.idle import IdleConnections
from gateway.upstream.limiter import PATIENCE_S, Slots

_log = logging.getLogger(__name__)
_RETRIED_METHODS = frozenset({"GET", "HEAD"})
# How often deadlines are looked at: a timer for each exchange would cost more than all of it.
_SWEEPS_A_TIMEOUT = 20
_SLOWEST_SWEEP_S = 1.0


class RequestBody(msgspec.Struct, frozen=True):
    """A request body to stream.

    Attributes:
        chunks: its pieces; raises `GatewayError` when the caller leaves or stalls.
        length: declared bytes; ``None`` for chunks.
    """

    chunks: AsyncIterator[bytes]
    length: int | None


class Credentials(Protocol):
    """The gateway's own, for requests that have none."""

    def description(self) -> tuple[str, ...]:
        """Return whose they are."""

    @property
    def needs_body(self) -> bool:
        """They depend on the body, which has to be known whole."""

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        """Return the field lines to add to a request that is otherwise as it goes out.

        Raises:
            GatewayError: there are no credentials.
        """

    def renew(self, refused: Fields) -> Coroutine[Any, Any, bool]:
        """Get others, when these got a 401; ``False`` where there are none yet."""


class Upstream:
    """The pool of connections to one AOS.

    Args:
        config: how to reach it.
        tls: for an https URL; ``None`` for plain connections.
        clock: tells how old a connection is.
        metrics: counts calls and failures.

    Attributes:
        credentials: for requests that need some; ``None`` where no request does.
        bodies: those that are held to be signed.
        heads: reads the heads of its responses.
    """

    def __init__(
        self, config: UpstreamConfig, tls: ssl.SSLContext | None, clock: Clock, metrics: Metrics
    ) -> None:
        self.credentials: Credentials | None = None
        self.bodies = HeldBodies(0)
        self.heads = HeadReader()
        # As many again may wait for slow callers.
        self.slots = Slots(config.max_connections, config.max_waiting, config.read_timeout_s)
        self._base_path = config.url.base_path.encode("ascii")
        self._tls = tls
        self._clock = clock
        self._metrics = metrics
        self._state = StateLog("upstream", clock)
        self._tasks = TaskSet()
        self._idle = IdleConnections(config.max_connections, config.connection_max_age_s, clock)
        # In the order in which they began.
        self._under_way: dict[Exchange, None] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.change(config, tls)

    async def send(
        self,
        method: str,
        target: bytes,
        fields: Fields,
        body: RequestBody | None,
        *,
        lent: tuple[str, ...] = (),
    ) -> Exchange:
        """Send a request and wait for the response head; see `begin`.

        Raises:
            GatewayError: there is no usable response; see `UpstreamError.was_sent`.
        """
        exchange = self.begin(method, target, fields, body, lent=lent)
        try:
            await exchange.head_arrived()
        except BaseException:
            exchange.close()
            raise
        return exchange

    def begin(
        self,
        method: str,
        target: bytes,
        fields: Fields,
        body: RequestBody | None,
        lines: bytes | None = None,
        *,
        lent: tuple[str, ...] = (),
    ) -> Exchange:
        """Send a request, at once where there is a place and an idle connection.

        A GET or HEAD that is no write in disguise is sent once more when a reused connection broke
        before a byte of the response: then the upstream had closed it while idle; and when the gateway's
        own credentials got a 401 and could be renewed. Nothing else is ever repeated.

        Args:
            method: the method token.
            target: origin-form target as received, which the base path goes before, or ``*``.
            fields: field lines without framing.
            body: the request body; ``None`` for none.
            lines: the field lines as bytes, each with CRLF, where they are made already; ``None`` where not.
            lent: whose credentials the gateway adds, see `Request`; empty for none.
        """
        if target != SERVER_WIDE:
            target = self._base_path + target
        exchange = Exchange(self, method, self._clock)
        self._under_way[exchange] = None
        if self._sweep_timer is None:
            self._sweep_later()
        if lent:
            work = self._start_with_credentials(exchange, target, fields, body, lent)
            exchange.work = self._tasks.start(work, "exchange")
            return exchange
        if lines is None:
            lines = wire_lines(fields)
        head = request_bytes(method, target, lines, body.length if body is not None else 0)
        if body is None and method in _RETRIED_METHODS:
            exchange.repeated = head, fields
        now_s = exchange.asked_s
        if body is None and (slot := self.slots.take_now(now_s)) is not None:
            exchange.slot = slot
            self._metrics.called(method, 0.0)
            if (connection := self._idle.take(now_s)) is not None:
                connection.begin(exchange, head)
                exchange.sent(now_s)
                return exchange
        exchange.work = self._tasks.start(self._start(exchange, head, body), "exchange")
        return exchange

    def change(self, config: UpstreamConfig, tls: ssl.SSLContext | None) -> None:
        """Use other times and another TLS context for connections that are opened from now on."""
        if tls is not self._tls:
            self._idle.close()
        self._tls = tls
        self._read_timeout_s = self.slots.wait_s = config.read_timeout_s
        self._connector = Connector(
            config.url.host,
            config.url.port,
            tls=tls,
            server_name=config.server_name,
            timeout_s=config.connect_timeout_s,
            clock=self._clock,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        await self._tasks.cancel()
        for exchange in list(self._under_way):
            exchange.repeated = None
            exchange.fail(UpstreamError("connection_terminated", was_sent=True))
        self._idle.close()

    def has_head(self, exchange: Exchange) -> None:
        exchange.repeated = None
        self._metrics.responded(exchange.head.status, exchange.head_s)
        self._state.up()
        if exchange.lent is not None:
            (added, repeat), exchange.lent = exchange.lent, None
            if exchange.head.status == 401:
                self._renew(exchange, added, repeat)

    def has_failed(self, exchange: Exchange) -> bool:
        head, fields = exchange.repeated or (None, ())
        exchange.repeated = None
        if head is not None and exchange.is_stale and not is_write(exchange.method, names(fields)):
            exchange.restart()
            exchange.work = self._tasks.start(self._start(exchange, head, None, fresh=True), "exchange")
            return True
        error = exchange.error
        if isinstance(error, UpstreamError):
            self._metrics.upstream_failures[error.proxy_error] += 1
            # Neither a full queue here, a slow caller nor the end of an idle connection says how it is.
            if not (isinstance(error, Overloaded | GaveWay) or exchange.is_stale):
                self._state.down(error.proxy_error + (f": {error.said}" if error.said else ""))
            if exchange.slot is not None and exchange.reader.head is None:
                took_s = self._clock.monotonic_s() - exchange.slot.began_s
                self._metrics.responded(None, took_s)
        return False

    def is_over(self, exchange: Exchange) -> None:
        del self._under_way[exchange]
        exchange.repeated = exchange.lent = None
        if (connection := exchange.connection) is not None:
            connection.end()
            if exchange.is_reusable():
                self._idle.keep(connection)
            else:
                connection.close()
        if exchange.work is not None:
            exchange.work.cancel()
        if exchange.slot is not None:
            self.slots.leave(exchange.slot)

    async def _start(
        self, exchange: Exchange, head: bytes, body: RequestBody | None, *, fresh: bool = False
    ) -> None:
        """Send a request as soon as there is a place and a connection for it; ``fresh`` takes no used one."""
        try:
            if exchange.slot is None:
                exchange.slot = slot = await self.slots.take(self._clock)
                self._metrics.called(exchange.method, slot.began_s - exchange.asked_s)
            connection = None if fresh else self._idle.take(self._clock.monotonic_s())
            if connection is None:
                connection = await self._connector.open()
                _log.debug("opened a connection to the upstream, %d are in use", self.slots.in_use)
            connection.begin(exchange, head)
            if body is not None:
                await self._upload(exchange, body)
        except GatewayError as error:
            exchange.fail(error)
        except Exception:
            # Nobody may wait for what will never come.
            exchange.fail(UpstreamError("proxy_internal_error", was_sent=True))
            raise
        else:
            exchange.sent(self._clock.monotonic_s())

    async def _start_with_credentials(
        self,
        exchange: Exchange,
        target: bytes,
        fields: Fields,
        body: RequestBody | None,
        lent: tuple[str, ...],
        *,
        is_repeated: bool = False,
    ) -> None:
        """Send a request with the gateway's credentials, as soon as there are some.

        Its body is read before it takes a place from others.
        """
        assert self.credentials is not None
        held, length = b"", body.length if body is not None else 0
        try:
            async with contextlib.AsyncExitStack() as stack:
                if body is not None and self.credentials.needs_body:
                    held = await stack.enter_async_context(self.bodies.hold(body.chunks, body.length))
                    body = RequestBody(_once(held), body.length)
                added = await self.credentials.fields(exchange.method, target, fields, held)
                if self.credentials.description() != lent:
                    # Its record would be kept as that of whose they were before.
                    raise NoCredentials("they have just become another identity's", 1.0)
                head = request_bytes(exchange.method, target, wire_lines((*fields, *added)), length)
                repeat = None
                if body is None and exchange.method in _RETRIED_METHODS:
                    exchange.repeated = head, fields
                    start = self._start_with_credentials
                    repeat = functools.partial(start, exchange, target, fields, None, lent, is_repeated=True)
                if not is_repeated:
                    exchange.lent = added, repeat
                await self._start(exchange, head, body)
        except GatewayError as error:
            exchange.fail(error)
        except Exception:
            exchange.fail(UpstreamError("proxy_internal_error", was_sent=True))
            raise

    def _renew(
        self, exchange: Exchange, refused: Fields, repeat: Callable[[], Coroutine[Any, Any, None]] | None
    ) -> None:
        """Renew credentials that got a 401; it is the response unless that succeeds and it is repeated."""
        credentials = self.credentials
        assert credentials is not None
        if repeat is None:
            self._tasks.start(credentials.renew(refused), "renew")
            return
        on_change, exchange.on_change = exchange.on_change, _nothing

        async def renew() -> None:
            try:
                try:
                    is_renewed = await credentials.renew(refused)
                finally:
                    # A stop, too, has to be told to who waits.
                    exchange.on_change = on_change
            except Exception:
                exchange.fail(UpstreamError("proxy_internal_error", was_sent=True))
                raise
            if is_renewed:
                exchange.restart()
                await repeat()
            else:
                # Its connection may be used again.
                exchange.work = None
                exchange.changed()

        exchange.work = self._tasks.start(renew(), "renew")

    async def _upload(self, exchange: Exchange, body: RequestBody) -> None:
        """Stream a request body; a body that breaks off cuts the connection, so it never looks whole.

        Raises:
            GatewayError: the caller left or stalled.
        """
        connection, slot = exchange.connection, exchange.slot
        assert connection is not None
        assert slot is not None
        slot.give_way = exchange.give_way
        slot.moves()
        patience = self._loop.call_later(PATIENCE_S, slot.wait_for_caller)
        is_slow = False
        try:
            async for chunk in body.chunks:
                if not chunk:
                    continue
                slot.moves()
                connection.write(chunk if body.length is not None else b"%x\r\n%s\r\n" % (len(chunk), chunk))
                is_slow |= await drained(connection, self._read_timeout_s, connection.drain)
            if body.length is None:
                connection.write(b"0\r\n\r\n")
                is_slow |= await drained(connection, self._read_timeout_s, connection.drain)
            if is_slow:
                # The kernel may keep megabytes that are still to be sent; no response can be due before.
                await taken(connection, self._read_timeout_s)
        except OSError:
            # The upstream took no more; its response, or its silence, tells the rest.
            exchange.broke_off = True
        finally:
            patience.cancel()
            slot.go_on()

    def _sweep_later(self) -> None:
        delay_s = min(_SLOWEST_SWEEP_S, self._read_timeout_s / _SWEEPS_A_TIMEOUT)
        self._sweep_timer = self._loop.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Fail the exchanges whose upstream has been silent for too long."""
        self._sweep_timer = None
        now_s = self._clock.monotonic_s()
        for exchange in list(self._under_way):
            exchange.check_time(now_s, self._read_timeout_s)
        if self._under_way:
            self._sweep_later()


def _nothing() -> None:
    pass


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
