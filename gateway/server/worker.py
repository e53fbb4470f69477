"""One of several workers: a gateway on inherited sockets that sends its invalidations to the others."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence

from gateway.app.gateway import Gateway
from gateway.config.errors import ConfigError
from gateway.config.load import config_of
from gateway.config.sources import RawSetting
from gateway.runtime.event_loop import loop_factory, settle_memory
from gateway.runtime.file_limit import raise_limit
from gateway.runtime.listeners import inherited_sockets
from gateway.server import messages
from gateway.server.channel import Channel
from gateway.server.messages import Message, Response, State, Stop
from gateway.server.peers import ChannelPeers
from gateway.server.shared_counts import SharedCounts
from gateway.tasks import TaskSet, first_of
from gateway.telemetry.access_log import set_level, set_up_logging
from gateway.telemetry.line_writer import unblock_standard_streams

_log = logging.getLogger("gateway")

_CONFIGURATION = 2
_PING_S = 1.0
# Without messages for longer, dropped entries may have been missed; invalidations are counted, so never.
_SILENT_S = 2.0
# Handled by the parent alone.
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main(arguments: Sequence[str]) -> int:
    """Run a worker, and return its exit code.

    The arguments are descriptors: the channel to the parent, the shared counts, then the listening sockets.
    """
    unblock_standard_streams()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    channel, counts, *listening = map(int, arguments)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(_work(channel, counts, listening))
        except ConfigError as error:
            _log.error("%s", error)
            return _CONFIGURATION


async def _work(descriptor: int, counts: int, listening: Sequence[int]) -> int:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    first = await channel.receive()
    if not isinstance(first, messages.Start):
        return 1
    set_up_logging("info")
    config = config_of(first.settings)
    set_up_logging(config.log.level, config.log.format)
    peers = ChannelPeers(first.number, channel.send, SharedCounts(counts, first.number))
    gateway = Gateway(config, peers=peers)
    if first.memory_disabled:
        gateway.tiers.disable_memory()
    try:
        return await Worker(gateway, channel, peers).run(listening)
    finally:
        channel.close()


class Worker:
    """A gateway and its end of the channel to the parent."""

    def __init__(self, gateway: Gateway, channel: Channel, peers: ChannelPeers) -> None:
        self._gateway = gateway
        self._tiers = gateway.tiers
        self._channel = channel
        self._peers = peers
        self._tasks = TaskSet()
        self._stop: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._is_aborted = asyncio.Event()
        self._received_s = 0.0

    async def run(self, listening: Sequence[int]) -> int:
        """Serve until the parent sends `Stop` or ends; return the exit code."""
        loop = asyncio.get_running_loop()
        config = self._gateway.config
        raise_limit(config)
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        self._received_s = loop.time()
        self._tasks.start(self._receive(), "worker-channel")
        self._tasks.start(self._watch(), "worker-watch")
        self._channel.send(messages.Ready(is_serving=False))
        try:
            await self._gateway.start(inherited_sockets(config.server.listen, listening))
            settle_memory()
            self._channel.send(messages.Ready(is_serving=True))
            stop = await self._stop
            self._gateway.begin_drain()
            await first_of(self._is_aborted.wait(), self._gateway.close(is_handover=stop.is_handover))
        finally:
            await self._gateway.close(0)
            self._channel.send(messages.FinalState(self._state()))
            await self._channel.flush()
            await self._tasks.cancel()
        return 0

    async def _receive(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._received_s = asyncio.get_running_loop().time()
            self._handle(message)
        # Without the parent nobody forwards invalidations or replaces workers.
        _log.warning("the parent process is gone: draining")
        self._tiers.start_over()
        self._request_stop(Stop())

    def _handle(self, message: Message) -> None:
        send = self._channel.send
        match message:
            case messages.Invalidate():
                self._tiers.invalidations_received(message.invalidations)
                if not self._peers.received(message):
                    self._tiers.start_over()
            case messages.Ping():
                send(message)
            case messages.EnableMemory():
                self._tiers.enable_memory()
            case messages.StateRequest(request_id=request_id):
                send(Response(request_id, self._state()))
            case messages.Purge(request_id=request_id, stack_id=stack_id):
                self._tasks.start(self._purge(request_id, stack_id), "worker-purge")
            case messages.Reload(request_id=request_id, settings=settings):
                self._tasks.start(self._reload(request_id, settings), "worker-reload")
            case Stop():
                self._request_stop(message)
            case _:
                pass

    def _request_stop(self, stop: Stop) -> None:
        if stop.at_once:
            self._is_aborted.set()
        if not self._stop.done():
            self._stop.set_result(stop)

    def _on_sigterm(self) -> None:
        """Stop after the parent's grace period: SIGTERM may go to all processes of the service."""
        grace_s = self._gateway.config.server.drain_grace_s
        asyncio.get_running_loop().call_later(grace_s, self._request_stop, Stop())

    async def _watch(self) -> None:
        """Clear the memory tier while the parent is silent: dropped entries may be missed."""
        loop = asyncio.get_running_loop()
        was_silent = False
        while True:
            await asyncio.sleep(_PING_S)
            is_silent = loop.time() - self._received_s > _SILENT_S
            if is_silent or was_silent:
                self._tiers.start_over()
            was_silent = is_silent

    async def _purge(self, request_id: int, stack_id: str) -> None:
        self._channel.send(Response(request_id, await self._gateway.purge(stack_id)))

    async def _reload(self, request_id: int, settings: dict[str, RawSetting]) -> None:
        problem = ""
        try:
            config = config_of(settings)
            await self._gateway.apply(config)
            set_level(config.log.level)
            raise_limit(config)
        except ConfigError as error:
            problem = str(error)
        self._channel.send(Response(request_id, problem))

    def _state(self) -> State:
        gateway = self._gateway
        return State(
            is_ready=gateway.ready(),
            health=gateway.health(),
            metrics=gateway.metrics_snapshot(),
            executions=gateway.executions(),
            throttled=gateway.throttled(),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
