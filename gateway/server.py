"""Runs a gateway until it is told to stop: loop, listeners, signals, drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp.http_parser
from aiohttp import web

from gateway.access_log import set_up_logging
from gateway.address import Address
from gateway.admin import build_admin
from gateway.admin_connection import admin_connections
from gateway.app import Gateway
from gateway.config import Config, ConfigError, cannot_listen
from gateway.descriptors import raise_limit
from gateway.listeners import bound_address, listen, remove_socket

_log = logging.getLogger("gateway")
_ADMIN_DRAIN_S = 1.0
_GARBAGE_OBJECTS = 20_000


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Returns:
        The exit code: 0 after a clean end.

    Raises:
        ConfigError: an address cannot be bound.
    """
    set_up_logging(config.log.level, config.log.format)
    check_parser()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config))


def check_parser() -> None:
    """Refuse to start on aiohttp's Python parser, which is slower and reads some requests differently.

    Raises:
        ConfigError: what to do about it.
    """
    if os.environ.get("AIOHTTP_NO_EXTENSIONS") or not hasattr(aiohttp.http_parser, "HttpRequestParserC"):
        raise ConfigError(
            "aiohttp's C parser is not in use: unset AIOHTTP_NO_EXTENSIONS and install aiohttp from a wheel"
        )
    if sys.flags.dev_mode:
        raise ConfigError("Python's dev mode changes aiohttp's parser: start without -X dev or PYTHONDEVMODE")


def settle_garbage_collector() -> None:
    """Leave what lives as long as the process out of the collector's rounds, and make these rarer.

    Entries and requests hold no cycles; with the defaults a twentieth of the time went into looking for some.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 20, 100)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop's where there is one."""
    try:
        import uvloop  # absent on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


class AdminServer:
    """The admin side of a gateway on a listener of its own."""

    def __init__(self, gateway: Gateway, address: Address) -> None:
        server = gateway.config.server
        app = build_admin(gateway, token=server.admin_token, hosts=server.admin_hosts)
        self._address = address
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self._listener: asyncio.Server | None = None

    async def start(self) -> Address:
        """Open the listener and return where it is.

        Raises:
            OSError: it cannot be bound.
        """
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = await listen(admin_connections(self._runner.server), self._address)
        return bound_address(self._listener, self._address)

    async def close(self) -> None:
        """Close the listener and its connections."""
        if self._listener is not None:
            self._listener.close()
            remove_socket(self._address)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ADMIN_DRAIN_S):
                await self._runner.cleanup()


async def _serve(config: Config) -> int:
    gateway = Gateway(config)
    admin = AdminServer(gateway, config.server.admin_listen)
    try:
        admin_address = await _bind("server.admin_listen", config.server.admin_listen, admin.start())
        address = await _bind("server.listen", config.server.listen, gateway.start())
        settle_garbage_collector()
        _log.info("serving %s on %s, admin on %s", config.upstream.url, address, admin_address)
        if (too_low := raise_limit(config)) is not None:
            _log.warning("%s", too_low)
        async with StopSignals() as signals:
            await signals.wait()
            _log.info("draining; a second signal ends at once")
            gateway.begin_drain()
            await _unless_stopped(signals, _drain(gateway, config.server.drain_grace_s))
    finally:
        await gateway.close(0)
        await admin.close()
    _log.info("stopped")
    return 0


async def _drain(gateway: Gateway, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    await gateway.close()


async def _bind(key: str, address: Address, start: Coroutine[Any, Any, Address]) -> Address:
    try:
        return await start
    except OSError as error:
        # asyncio's own text repeats the address.
        is_known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if is_known else "the name cannot be resolved"
        raise cannot_listen(f"{key} = {address}", reason) from error


class StopSignals:
    """SIGTERM and SIGINT as something to wait for."""

    def __init__(self) -> None:
        self._seen = asyncio.Semaphore(0)

    async def __aenter__(self) -> StopSignals:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._seen.release)
        return self

    async def __aexit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    async def wait(self) -> None:
        """Wait for the next signal."""
        await self._seen.acquire()


async def _unless_stopped(signals: StopSignals, work: Coroutine[Any, Any, None]) -> None:
    """Do work to its end, or until one more signal comes."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(signals.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
