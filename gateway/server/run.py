"""Runs a gateway until it is told to stop: loop, listening sockets, signals, change, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from gateway.config.address import Address, Mode
from gateway.config.errors import ConfigError, cannot_listen
from gateway.config.load import Sources, config_of
from gateway.config.model import Config
from gateway.config.redis_url import invalidation_scope
from gateway.config.sources import RawSetting, unused_variables
from gateway.runtime.cores import cores
from gateway.runtime.event_loop import check_parser, loop_factory
from gateway.runtime.file_limit import raise_limit, tell_limit
from gateway.runtime.listeners import ListeningSockets, address_of, inherited_sockets, open_sockets, why_not
from gateway.runtime.signals import HELD, STOPPING, Signals
from gateway.runtime.systemd import Activation, Notifier
from gateway.runtime.tls import check_files
from gateway.server.hot_restart import (
    Inheritance,
    LeftSockets,
    Lineage,
    NotTakenOver,
    ended,
    hand_over,
    inheritance,
)
from gateway.server.reload import FROM_ACTIVATION, Reloads, read_anew
from gateway.server.service import Service, ServiceFailed, SingleProcess
from gateway.server.supervisor import Supervisor
from gateway.telemetry.access_log import set_level, set_up_logging
from gateway.telemetry.caller_digest import digest_key

_log = logging.getLogger("gateway")

_SIGNALS = (*STOPPING, *HELD)
_LISTEN = "server.listen"
_ADMIN = "server.admin_listen"
# The end of process 1 is the end of its container, so nobody could take over from it.
_CONTAINER_PID = 1


class StartContext(msgspec.Struct, frozen=True):
    """What this process was given by the one that has started it.

    Attributes:
        activation: sockets that systemd has opened.
        left: sockets of a process that this one takes over from; ``None`` when it starts alone.
        notifier: tells systemd how the service is.
    """

    activation: Activation
    left: Inheritance | None
    notifier: Notifier


def run(sources: Sources) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second one ends at once.

    SIGHUP reads the configuration anew, SIGUSR2 has a new process take over.

    Args:
        sources: where the settings are.

    Returns:
        The exit code: 0 after a clean end, 1 when the workers end again and again.

    Raises:
        ConfigError: the settings cannot be used, or an address cannot be bound.
    """
    origin = StartContext(
        Activation(os.environ, os.getpid()), inheritance(os.environ), Notifier(os.environ, os.getpid())
    )
    given = sources.read()
    given |= _places(origin)
    config = config_of(given)
    set_up_logging(config.log.level, config.log.format)
    if (unused := unused_variables(sources.environ)) is not None:
        _log.warning("%s", unused)
    check_parser()
    check_files(config)
    # Before there are workers: they inherit it.
    digest_key(config.cache.secret.reveal().encode(), os.environ)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, sources, given, origin))


def _places(origin: StartContext) -> dict[str, RawSetting]:
    """Return the settings that follow from sockets which systemd has opened: they are where they are."""
    listen, admin = origin.activation.listen, origin.activation.admin
    if origin.left is not None:
        listen = listen or ([] if origin.left.listen.address else origin.left.listen.descriptors)
        admin = admin or ([] if origin.left.admin.address else origin.left.admin.descriptors)
    found = ((_LISTEN, listen), (_ADMIN, admin))
    return {
        name: RawSetting(value=str(address_of(descriptors[0])), is_text=True, source=FROM_ACTIVATION)
        for name, descriptors in found
        if descriptors
    }


async def _serve(config: Config, sources: Sources, given: dict[str, RawSetting], origin: StartContext) -> int:
    activation, left = origin.activation, origin.left
    server = config.server
    admin = await take_sockets(
        *(_ADMIN, server.admin_listen, server.admin_listen_mode),
        *(activation.admin, left.admin if left is not None else None),
    )
    sockets = await take_sockets(
        *(_LISTEN, server.listen, server.listen_mode),
        *(activation.listen, left.listen if left is not None else None),
    )
    count = server.workers or cores()
    lineage = Lineage(
        left.formers if left is not None else (), invalidation_scope(config.redis.url, config.redis.prefix)
    )
    reloads = Reloads()
    service: Service = (
        SingleProcess(config, reloads)
        if count == 1
        else Supervisor(config, given, count, reloads, lineage.held)
    )
    if lineage.unheard():
        service.disable_memory()
    try:
        async with Signals(_SIGNALS) as signals:
            if not await _start(service, signals, sockets, admin):
                return 0
            _log.info(
                "serving %s on %s, admin on %s%s",
                *(config.upstream.url, sockets.address, admin.address),
                f", {count} workers" if count > 1 else "",
            )
            raise_limit(config)
            tell_limit(config)
            running = _Running(
                service,
                signals=signals,
                sources=sources,
                given=given,
                notifier=origin.notifier,
                reloads=reloads,
                lineage=lineage,
            )
            origin.notifier.ready(main_pid=os.getpid() if left is not None else None)
            if left is not None:
                left.tell_ready()
                # Not earlier: until now it was the one before that served there.
                left.listen.file_to(sockets)
                left.admin.file_to(admin)
            try:
                is_taken_over = await running.until_stopped(sockets, admin)
            except ServiceFailed:
                # Those that do serve end what they have begun.
                await running.drain(is_taken_over=False)
                raise
            await running.drain(is_taken_over=is_taken_over)
    except ServiceFailed as failure:
        _log.critical("%s: giving up", failure)
        return 1
    finally:
        await service.close()
    _log.info("stopped")
    return 0


class _Running:
    """A service that serves, and what may become of it.

    Args:
        service: it.
        signals: what it is told.
        sources: where the settings are.
        given: the settings that are in use.
        notifier: tells systemd how it is.
        reloads: counts reloads.
        lineage: this process and those before it.
    """

    def __init__(
        self,
        service: Service,
        *,
        signals: Signals,
        sources: Sources,
        given: Mapping[str, RawSetting],
        notifier: Notifier,
        reloads: Reloads,
        lineage: Lineage,
    ) -> None:
        self._service = service
        self._lineage = lineage
        self._signals = signals
        self._sources = sources
        self._given = given
        self._config = config_of(given)
        self._notifier = notifier
        self._reloads = reloads

    async def until_stopped(self, sockets: ListeningSockets, admin: ListeningSockets) -> bool:
        """Serve until a signal says stop, or another process has taken over; tell whether that is it.

        Args:
            sockets: for callers.
            admin: for operators.

        Raises:
            ServiceFailed: it cannot go on.
        """
        failing = asyncio.ensure_future(self._service.failed())
        alive = asyncio.ensure_future(self._notifier.keep_alive())
        told = asyncio.ensure_future(self._signals.next())
        keeping = asyncio.ensure_future(self._keep_again())
        taking: asyncio.Future[int] | None = None
        try:
            while True:
                waited: list[asyncio.Future[Any]] = [failing, told]
                if taking is not None:
                    waited.append(taking)
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    raise ServiceFailed(failing.result())
                if taking is not None and taking.done():
                    if _is_taken_over(taking):
                        return True
                    taking = None
                if told.done():
                    number = told.result()
                    if number in STOPPING:
                        return False
                    told = asyncio.ensure_future(self._signals.next())
                    if number == signal.SIGHUP:
                        await self._reload()
                    elif taking is None and os.getpid() != _CONTAINER_PID:
                        _log.info("SIGUSR2: starting a process that takes over")
                        taking = asyncio.ensure_future(
                            hand_over(
                                self._left(_LISTEN, sockets),
                                self._left(_ADMIN, admin),
                                self._lineage.living(),
                            )
                        )
                    else:
                        _log.error("SIGUSR2: not now: %s", "as process 1" if taking is None else "under way")
        finally:
            tasks: list[asyncio.Future[Any]] = [failing, alive, told, keeping]
            if taking is not None:
                tasks.append(taking)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, *, is_taken_over: bool) -> None:
        """End it; a signal to stop, or one more of them, ends it at once."""
        if is_taken_over:
            # The service goes on, so systemd is told nothing.
            _log.info("another process serves: draining")
            self._service.hand_over()
            self._service.begin_drain()
            work = self._service.drain(is_handover=True)
        else:
            _log.info("draining; a second signal ends at once")
            self._notifier.stopping()
            self._service.begin_drain()
            work = self._drain_after_grace()
        await _first_of(self._signals.wait(), work)

    async def _drain_after_grace(self) -> None:
        await asyncio.sleep(self._config.server.drain_grace_s)
        await self._service.drain(is_handover=False)

    async def _keep_again(self) -> None:
        """Have copies again once all have ended that forget without telling this process."""
        if unheard := self._lineage.unheard():
            await ended(unheard)
            self._service.enable_memory()

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            change = read_anew(self._sources, self._given)
            await self._service.reload(change.config, change.given)
        except ConfigError as error:
            self._reloads.count(is_done=False)
            _log.error("not reloaded, the old configuration stays: %s", error)
        else:
            self._given, self._config = change.given, change.config
            self._reloads.count(is_done=True)
            _log.info(
                "reloaded; changed: %s",
                ", ".join(change.changed) or "nothing but the content of files, perhaps",
            )
            if change.left:
                _log.warning("these need a restart or SIGUSR2: %s", ", ".join(change.left))
            set_level(change.config.log.level)
            raise_limit(change.config)
            tell_limit(change.config)
        self._notifier.ready()

    def _left(self, name: str, sockets: ListeningSockets) -> LeftSockets:
        """Return sockets for the next process, with where they were configured to be."""
        given = self._given.get(name)
        if given is not None and given.source == FROM_ACTIVATION:
            return LeftSockets(sockets.descriptors, "")
        server = self._config.server
        address = server.listen if name == _LISTEN else server.admin_listen
        return LeftSockets(sockets.descriptors, str(address), sockets.file)


def _is_taken_over(taking: asyncio.Future[int]) -> bool:
    try:
        _log.info("process %d has taken over", taking.result())
    except (NotTakenOver, OSError) as error:
        _log.error("no process has taken over: %s", error)
        return False
    return True


async def _start(
    service: Service, signals: Signals, sockets: ListeningSockets, admin: ListeningSockets
) -> bool:
    """Start, and tell whether that is done; not so when a signal to stop comes before.

    Raises:
        ServiceFailed: it cannot start.
    """
    _, is_stopped = await _first_of(service.start(sockets, admin), signals.wait())
    return not is_stopped


async def take_sockets(
    key: str, address: Address, mode: Mode, activated: list[int], left: LeftSockets | None
) -> ListeningSockets:
    """Take the sockets that another process has opened for this address, or open them.

    Args:
        key: the setting, for what is said when it fails.
        address: as configured.
        mode: rights of the file of a Unix socket that systemd has not opened.
        activated: descriptors from systemd.
        left: from the process before; closed unless they are taken.

    Raises:
        ConfigError: the address cannot be bound.
    """
    if activated:
        return inherited_sockets(address, activated)
    try:
        if left is not None and left.is_at(address):
            if left.file is not None:
                left.file.allow(mode)
            return inherited_sockets(address, left.descriptors)
        for descriptor in left.descriptors if left is not None else ():
            # Kept open, it would have callers wait at an address where nobody accepts any more.
            os.close(descriptor)
        return await open_sockets(address, mode)
    except OSError as error:
        raise cannot_listen(f"{key} = {address}", why_not(error)) from error


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
