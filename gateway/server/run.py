"""Runs the service until it is stopped: sockets, signals, reload, hot restart, drain."""

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
from gateway.server.single import SingleProcess
from gateway.server.supervisor import ServiceFailed, Supervisor
from gateway.tasks import TaskSet, first_of
from gateway.telemetry.access_log import set_level, set_up_logging
from gateway.telemetry.caller_digest import digest_key

_log = logging.getLogger("gateway")

_SIGNALS = (*STOPPING, *HELD)
_LISTEN = "server.listen"
_ADMIN = "server.admin_listen"
# When process 1 ends, so does its container: no successor could go on.
_CONTAINER_PID = 1


def run(sources: Sources) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second one ends at once.

    SIGHUP reloads the configuration, SIGUSR2 does a hot restart. The exit code is 0 after a clean end, 1 if
    the workers fail repeatedly. Invalid settings or an address that cannot be bound raise `ConfigError`.
    """
    activation, inherited = Activation(os.environ, os.getpid()), inheritance(os.environ)
    if activation.listen or activation.admin:
        inherited = Inheritance(
            listen=InheritedSockets(activation.listen), admin=InheritedSockets(activation.admin)
        )
    notifier = Notifier(os.environ, os.getpid())
    raw = sources.read() | _activated(inherited)
    config = config_of(raw)
    set_up_logging(config.log.level, config.log.format)
    if (unused := unused_variables(sources.environ)) is not None:
        _log.warning("%s", unused)
    check_parser()
    check_files(config)
    # Before the workers start: they inherit it.
    digest_key(config.cache.secret.reveal().encode(), os.environ)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config, sources, raw, inherited, notifier))


def _activated(inherited: Inheritance) -> dict[str, RawSetting]:
    """Return the settings that follow from sockets opened by systemd: the addresses they have."""
    return {
        name: RawSetting(value=str(address_of(sockets.descriptors[0])), is_text=True, source=FROM_ACTIVATION)
        for name, sockets in ((_LISTEN, inherited.listen), (_ADMIN, inherited.admin))
        if sockets.descriptors and not sockets.address
    }


async def _serve(
    config: Config, sources: Sources, raw: dict[str, RawSetting], inherited: Inheritance, notifier: Notifier
) -> int:
    server = config.server
    admin = await take_sockets(_ADMIN, server.admin_listen, server.admin_listen_mode, inherited.admin)
    sockets = await take_sockets(_LISTEN, server.listen, server.listen_mode, inherited.listen)
    count = server.workers or cores()
    lineage = Lineage(inherited.formers, invalidation_scope(config.redis.url, config.redis.prefix))
    reloads = Reloads()
    service = (
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
            notifier.ready(main_pid=os.getpid() if inherited.parent else None)
            inherited.report_ready()
            # Not earlier: until now the former process served there.
            inherited.listen.hand_over_file(sockets)
            inherited.admin.hand_over_file(admin)
            running = _Running(
                service, sockets, admin, lineage, signals, notifier, reloads, sources, raw, config
            )
            await running.until_stopped()
    except ServiceFailed as failure:
        _log.critical("%s: giving up", failure)
        return 1
    finally:
        await service.close()
    _log.info("stopped")
    return 0


class _Running(msgspec.Struct):
    """Runs a started service until a signal: reload, hot restart, drain."""

    service: SingleProcess | Supervisor
    sockets: ListeningSockets
    admin: ListeningSockets
    lineage: Lineage
    signals: Signals
    notifier: Notifier
    reloads: Reloads
    sources: Sources
    raw: dict[str, RawSetting]
    config: Config

    async def until_stopped(self) -> None:
        """Serve until a signal to stop, a hot restart or `ServiceFailed`, then drain."""
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
        signalled = tasks.start(self.signals.next(), "signal", awaited=True)
        tasks.start(self.notifier.keep_alive(), "systemd-keep-alive")
        tasks.start(self._enable_memory_when_alone(), "enable-memory")
        next_process: asyncio.Task[bool] | None = None
        try:
            while True:
                awaited: list[asyncio.Future[Any]] = [self.service.failure, signalled]
                if next_process is not None:
                    awaited.append(next_process)
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if self.service.failure.done():
                    raise ServiceFailed(self.service.failure.result())
                if next_process is not None and next_process.done():
                    if next_process.result():
                        return True
                    next_process = None
                if signalled.done():
                    number = signalled.result()
                    if number in STOPPING:
                        return False
                    signalled = tasks.start(self.signals.next(), "signal", awaited=True)
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
            self.service.hand_over()
        else:
            _log.info("draining; a second signal ends at once")
            self.notifier.stopping()
        self.service.begin_drain()
        await first_of(self.signals.wait(), self._drain_service(is_handover=is_handover))

    async def _drain_service(self, *, is_handover: bool) -> None:
        if not is_handover:
            await asyncio.sleep(self.config.server.drain_grace_s)
        await self.service.drain(is_handover=is_handover)

    async def _enable_memory_when_alone(self) -> None:
        """Enable the memory tier once all processes have ended whose invalidations are missed."""
        if unconnected := self.lineage.unconnected():
            await ended(unconnected)
            self.service.enable_memory()

    async def _reload(self) -> None:
        self.notifier.reloading()
        try:
            change = reread(self.sources, self.raw)
            await self.service.reload(change.config, change.raw)
        except ConfigError as error:
            self.reloads.count(is_done=False)
            _log.error("not reloaded, the old configuration stays: %s", error)
        else:
            self.raw, self.config = change.raw, change.config
            self.reloads.count(is_done=True)
            _log.info("reloaded; changed: %s", ", ".join(change.changed) or "no setting, perhaps files")
            if change.deferred:
                _log.warning("these need a restart or SIGUSR2: %s", ", ".join(change.deferred))
            set_level(change.config.log.level)
            raise_limit(change.config)
            log_limit(change.config)
        self.notifier.ready()

    async def _start_next(self) -> bool:
        """Start the next process, and return whether it has taken over."""
        server = self.config.server
        try:
            pid = await start_next(
                self._to_inherit(_LISTEN, self.sockets, server.listen),
                self._to_inherit(_ADMIN, self.admin, server.admin_listen),
                self.lineage.living(),
            )
        except (HotRestartFailed, OSError) as error:
            _log.error("no process has taken over: %s", error)
            return False
        _log.info("process %d has taken over", pid)
        return True

    def _to_inherit(self, name: str, sockets: ListeningSockets, address: Address) -> InheritedSockets:
        setting = self.raw.get(name)
        is_activated = setting is not None and setting.source == FROM_ACTIVATION
        return InheritedSockets(sockets.descriptors, "" if is_activated else str(address), sockets.file)


async def take_sockets(
    key: str, address: Address, mode: Mode, inherited: InheritedSockets
) -> ListeningSockets:
    """Return the inherited sockets of this address, or open new ones and close the inherited.

    ``key`` names the setting in the `ConfigError` when they cannot be bound; ``mode`` is not for systemd's.
    """
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
