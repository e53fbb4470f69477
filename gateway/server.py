"""Runs a gateway until it is told to stop: loop, listening sockets, signals, drain."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping
from typing import Any

from gateway.access_log import set_up_logging
from gateway.address import Address
from gateway.config import Config, Sources, cannot_listen
from gateway.config_sources import Given
from gateway.descriptors import raise_limit
from gateway.event_loop import check_parser, loop_factory
from gateway.listeners import ListeningSockets, open_sockets
from gateway.service import Alone, Service, ServiceFailed
from gateway.signals import StopSignals
from gateway.supervisor import Supervisor
from gateway.tls import check_files

_log = logging.getLogger("gateway")


def run(config: Config, sources: Sources, given: Mapping[str, Given]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Args:
        config: the whole configuration.
        sources: where it can be read anew.
        given: the settings it was made of.

    Returns:
        The exit code: 0 after a clean end, 1 when the workers end again and again.

    Raises:
        ConfigError: an address cannot be bound.
    """
    set_up_logging(config.log.level)
    check_parser()
    check_files(config)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, sources, given))


async def _serve(config: Config, sources: Sources, given: Mapping[str, Given]) -> int:
    del sources
    admin = await _bind("server.admin_listen", config.server.admin_listen)
    sockets = await _bind("server.listen", config.server.listen)
    count = config.server.workers or os.cpu_count() or 1
    service: Service = Alone(config) if count == 1 else Supervisor(config, given, count)
    try:
        async with StopSignals() as signals:
            if await _start(service, signals, sockets, admin):
                _log.info(
                    "serving %s on %s, admin on %s%s",
                    *(config.upstream.url, sockets.address, admin.address),
                    f", {count} workers" if count > 1 else "",
                )
                if (too_low := raise_limit(config)) is not None:
                    _log.warning("%s", too_low)
                await _until_stopped(service, signals)
                _log.info("draining; a second signal ends at once")
                service.begin_drain()
                await _first_of(signals.wait(), _drain(service, config.server.drain_grace_s))
    except ServiceFailed as failure:
        _log.critical("%s: giving up", failure)
        return 1
    finally:
        await service.close()
    _log.info("stopped")
    return 0


async def _start(
    service: Service, signals: StopSignals, sockets: ListeningSockets, admin: ListeningSockets
) -> bool:
    """Start, and tell whether that is done; not so when a signal to stop comes before.

    Raises:
        ServiceFailed: it cannot start.
    """
    _, is_stopped = await _first_of(service.start(sockets, admin), signals.wait())
    return not is_stopped


async def _until_stopped(service: Service, signals: StopSignals) -> None:
    """Wait for a signal to stop.

    Raises:
        ServiceFailed: it cannot go on before one comes.
    """
    await _first_of(_fail(service), signals.wait())


async def _fail(service: Service) -> None:
    raise ServiceFailed(await service.failed())


async def _drain(service: Service, grace_s: float) -> None:
    await asyncio.sleep(grace_s)
    await service.drain(is_gentle=False)


async def _bind(key: str, address: Address) -> ListeningSockets:
    try:
        return await open_sockets(address)
    except OSError as error:
        # asyncio's own text repeats the address.
        is_known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if is_known else "the name cannot be resolved"
        raise cannot_listen(f"{key} = {address}", reason) from error


async def _first_of(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> tuple[bool, bool]:
    """Run two until one of them ends, cancel the other, and tell which have ended by themselves.

    Raises:
        Exception: what one of them has raised.
    """
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return not tasks[0].cancelled(), not tasks[1].cancelled()
