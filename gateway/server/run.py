"""Runs the service until it is stopped: sockets, signals, reload, hot restart, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import msgspec

from gateway.config.address import Address, Mode
from gateway.config.errors import ConfigError
from gateway.config.load import Sources, config_of
from gateway.config.model import Config
from gateway.config.redis_url import invalidation_scope
from gateway.config.sources import RawSetting, unused_variables
from gateway.runtime.cores import cores
from gateway.runtime.event_loop import check_parser, loop_factory
from gateway.runtime.file_limit import log_limit, raise_limit
from gateway.runtime.listeners import ListeningSockets, address_of, inherited_sockets, open_sockets, why_not
from gateway.runtime.signals import HELD, STOPPING, Signals
from gateway.runtime.systemd import Activation, Notifier
from gateway.runtime.tls import check_files
from gateway.server.hot_restart import (
    HotRestartFailed,
    Inheritance,
    InheritedSockets,
    Lineage,
    ended,
    inheritance,
    start_next,
)
from gateway.server.reload import FROM_ACTIVATION, Reloads, reread
from gateway.server.service import Service, ServiceFailed
from gateway.server.single import SingleProcess
from gateway.server.supervisor import Supervisor
from gateway.tasks import TaskSet, first_of
from gateway.telemetry.access_log import set_level, set_up_logging
from gateway.telemetry.caller_digest import digest_key

_log = logging.getLogger("gateway")

_SIGNALS = (*STOPPING, *HELD)
_LISTEN = "server.listen"
_ADMIN = "server.admin_listen"
# When process 1 ends, so does its container: no successor could go on.
_CONTAINER_PID = 1


class StartContext(msgspec.Struct, frozen=True):
    """What this process inherited.

    Attributes:
        activation: sockets opened by systemd.
        inherited: from the former process of a hot restart.
        notifier: reports the state of the service to systemd.
    """

    activation: Activation
    inherited: Inheritance
    notifier: Notifier


def run(sources: Sources) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second one ends at once.

    SIGHUP reloads the configuration, SIGUSR2 does a hot restart.

    Args:
        sources: of the settings.

    Returns:
        The exit code: 0 after a clean end, 1 if the workers fail repeatedly.

    Raises:
        ConfigError: the settings are invalid, or an address cannot be bound.
    """
    context = StartContext(
        Activation(os.environ, os.getpid()), inheritance(os.environ), Notifier(os.environ, os.getpid())
    )
    raw = sources.read()
    raw |= _activated(context)
    config = config_of(raw)
    set_up_logging(config.log.level, config.log.format)
    if (unused := unused_variables(sources.environ)) is not None:
        _log.warning("%s", unused)
    check_parser()
    check_files(config)
    # Before the workers start: they inherit it.
    digest_key(config.cache.secret.reveal().encode(), os.environ)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, sources, raw, context))


def _activated(context: StartContext) -> dict[str, RawSetting]:
    """Return the settings that follow from sockets opened by systemd: the addresses they have."""
    listen = context.activation.listen or _from_systemd(context.inherited.listen)
    admin = context.activation.admin or _from_systemd(context.inherited.admin)
    return {
        name: RawSetting(value=str(address_of(descriptors[0])), is_text=True, source=FROM_ACTIVATION)
        for name, descriptors in ((_LISTEN, listen), (_ADMIN, admin))
        if descriptors
    }


def _from_systemd(sockets: InheritedSockets) -> list[int]:
    return [] if sockets.address else sockets.descriptors


async def _serve(config: Config, sources: Sources, raw: dict[str, RawSetting], context: StartContext) -> int:
    activation, inherited = context.activation, context.inherited
    server = config.server
    admin = await take_sockets(
        _ADMIN, server.admin_listen, server.admin_listen_mode, activation.admin, inherited.admin
    )
    sockets = await take_sockets(
        _LISTEN, server.listen, server.listen_mode, activation.listen, inherited.listen
    )
    count = server.workers or cores()
    lineage = Lineage(inherited.formers, invalidation_scope(config.redis.url, config.redis.prefix))
    reloads = Reloads()
    service: Service = (
        SingleProcess(config, reloads)
        if count == 1
        else Supervisor(config, raw, count, reloads, lineage.liveness)
    )
    if lineage.unconnected():
        service.disable_memory()
    try:
        async with Signals(_SIGNALS) as signals:
            _, is_stopped = await first_of(service.start(sockets, admin), signals.wait())
            if is_stopped:
                return 0
            _log.info(
                "serving %s on %s, admin on %s%s",
                *(config.upstream.url, sockets.address, admin.address),
                f", {count} workers" if count > 1 else "",
            )
            raise_limit(config)
            log_limit(config)
            context.notifier.ready(main_pid=os.getpid() if inherited.parent else None)
            inherited.report_ready()
            # Not earlier: until now the former process served there.
            inherited.listen.hand_over_file(sockets)
            inherited.admin.hand_over_file(admin)
            running = _Running(
                service,
                sockets,
                admin,
                signals=signals,
                sources=sources,
                raw=raw,
                notifier=context.notifier,
                reloads=reloads,
                lineage=lineage,
            )
            await running.until_stopped()
    except ServiceFailed as failure:
        _log.critical("%s: giving up", failure)
        return 1
    finally:
        await service.close()
    _log.info("stopped")
    return 0


class _Running:
    """Runs a started service until a signal: reload, hot restart, drain.

    Args:
        service: the service.
        sockets: of ``server.listen``.
        admin: of ``server.admin_listen``.
        signals: to this process.
        sources: of the settings.
        raw: settings in use.
        notifier: reports to systemd.
        reloads: counts reloads.
        lineage: this process and the former ones.
    """

    def __init__(
        self,
        service: Service,
        sockets: ListeningSockets,
        admin: ListeningSockets,
        *,
        signals: Signals,
        sources: Sources,
        raw: dict[str, RawSetting],
        notifier: Notifier,
        reloads: Reloads,
        lineage: Lineage,
    ) -> None:
        self._service = service
        self._sockets = sockets
        self._admin = admin
        self._signals = signals
        self._sources = sources
        self._raw = raw
        self._config = config_of(raw)
        self._notifier = notifier
        self._reloads = reloads
        self._lineage = lineage

    async def until_stopped(self) -> None:
        """Serve until a signal to stop or a hot restart, then drain.

        Raises:
            ServiceFailed: the service cannot go on.
        """
        try:
            is_handover = await self._serve()
        except ServiceFailed:
            # Requests in the remaining workers may end.
            await self._drain(is_handover=False)
            raise
        await self._drain(is_handover=is_handover)

    async def _serve(self) -> bool:
        """Serve, and return whether another process has taken over."""
        tasks = TaskSet()
        failed = tasks.start(self._service.failed(), "service-failed", awaited=True)
        signalled = tasks.start(self._signals.next(), "signal", awaited=True)
        tasks.start(self._notifier.keep_alive(), "systemd-keep-alive")
        tasks.start(self._enable_memory_when_alone(), "enable-memory")
        next_process: asyncio.Task[int] | None = None
        try:
            while True:
                awaited: list[asyncio.Task[Any]] = [failed, signalled]
                if next_process is not None:
                    awaited.append(next_process)
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if failed.done():
                    raise ServiceFailed(failed.result())
                if next_process is not None and next_process.done():
                    if _has_taken_over(next_process):
                        return True
                    next_process = None
                if signalled.done():
                    number = signalled.result()
                    if number in STOPPING:
                        return False
                    signalled = tasks.start(self._signals.next(), "signal", awaited=True)
                    if number == signal.SIGHUP:
                        await self._reload()
                    elif next_process is None and os.getpid() != _CONTAINER_PID:
                        _log.info("SIGUSR2: starting a process that takes over")
                        next_process = tasks.start(self._start_next(), "hot-restart", awaited=True)
                    else:
                        why = "as process 1" if next_process is None else "under way"
                        _log.error("SIGUSR2: not now: %s", why)
        finally:
            await tasks.cancel()

    async def _drain(self, *, is_handover: bool) -> None:
        """Drain; a signal to stop ends it at once."""
        if is_handover:
            # systemd is not notified: the service goes on.
            _log.info("another process serves: draining")
            self._service.hand_over()
            self._service.begin_drain()
            work = self._service.drain(is_handover=True)
        else:
            _log.info("draining; a second signal ends at once")
            self._notifier.stopping()
            self._service.begin_drain()
            work = self._drain_after_grace()
        await first_of(self._signals.wait(), work)

    async def _drain_after_grace(self) -> None:
        await asyncio.sleep(self._config.server.drain_grace_s)
        await self._service.drain(is_handover=False)

    async def _enable_memory_when_alone(self) -> None:
        """Enable the memory tier once all processes have ended whose invalidations are missed."""
        if unconnected := self._lineage.unconnected():
            await ended(unconnected)
            self._service.enable_memory()

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            change = reread(self._sources, self._raw)
            await self._service.reload(change.config, change.raw)
        except ConfigError as error:
            self._reloads.count(is_done=False)
            _log.error("not reloaded, the old configuration stays: %s", error)
        else:
            self._raw, self._config = change.raw, change.config
            self._reloads.count(is_done=True)
            _log.info("reloaded; changed: %s", ", ".join(change.changed) or "no setting, perhaps files")
            if change.deferred:
                _log.warning("these need a restart or SIGUSR2: %s", ", ".join(change.deferred))
            set_level(change.config.log.level)
            raise_limit(change.config)
            log_limit(change.config)
        self._notifier.ready()

    async def _start_next(self) -> int:
        server = self._config.server
        return await start_next(
            self._to_inherit(_LISTEN, self._sockets, server.listen),
            self._to_inherit(_ADMIN, self._admin, server.admin_listen),
            self._lineage.living(),
        )

    def _to_inherit(self, name: str, sockets: ListeningSockets, address: Address) -> InheritedSockets:
        setting = self._raw.get(name)
        if setting is not None and setting.source == FROM_ACTIVATION:
            return InheritedSockets(sockets.descriptors, "")
        return InheritedSockets(sockets.descriptors, str(address), sockets.file)


def _has_taken_over(next_process: asyncio.Task[int]) -> bool:
    try:
        _log.info("process %d has taken over", next_process.result())
    except (HotRestartFailed, OSError) as error:
        _log.error("no process has taken over: %s", error)
        return False
    return True


async def take_sockets(
    key: str, address: Address, mode: Mode, activated: list[int], inherited: InheritedSockets
) -> ListeningSockets:
    """Return the activated or inherited sockets of this address, or open new ones.

    Args:
        key: the setting, for the error.
        address: as configured.
        mode: rights of the file of a Unix socket not opened by systemd.
        activated: descriptors from systemd.
        inherited: from the former process; closed if they are at another address.

    Raises:
        ConfigError: the address cannot be bound.
    """
    if activated:
        return inherited_sockets(address, activated)
    try:
        if inherited.is_at(address):
            if inherited.file is not None:
                inherited.file.allow(mode)
            return inherited_sockets(address, inherited.descriptors)
        for descriptor in inherited.descriptors:
            # Left open, it would queue connections that nobody accepts.
            os.close(descriptor)
        return await open_sockets(address, mode)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {key} = {address}: {why_not(error)}; "
            "choose an address that is free and may be used"
        ) from error
