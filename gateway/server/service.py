"""What `gateway.server.run` runs: one gateway in this process, or a parent with workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.config.model import Config
from gateway.config.sources import RawSetting
from gateway.runtime.listeners import ListeningSockets


class Service(Protocol):
    """What `gateway.server.run` starts, reloads and stops."""

    async def start(self, sockets: ListeningSockets, admin: ListeningSockets) -> None:
        """Serve on these sockets and own them.

        Raises:
            ServiceFailed: it cannot start.
        """

    def disable_memory(self) -> None:
        """Turn the memory tier off; call it before `start`."""

    def enable_memory(self) -> None:
        """Turn the memory tier on: every former process whose invalidations were missed has ended."""

    async def failed(self) -> str:
        """Wait until it cannot go on, usually for ever; return the reason in one line."""

    async def reload(self, config: Config, raw: Mapping[str, RawSetting]) -> None:
        """Apply a configuration that differs in live settings alone.

        Raises:
            ConfigError: the old one stays.
        """

    def begin_drain(self) -> None:
        """Report not ready; requests are still accepted."""

    def hand_over(self) -> None:
        """Leave the files of Unix sockets to the successor."""

    async def drain(self, *, is_handover: bool) -> None:
        """Stop accepting and let requests end, within ``server.drain_timeout_s``.

        Args:
            is_handover: another process already accepts: close an idle connection after its next response,
                not at once.
        """

    async def close(self) -> None:
        """End, aborting requests in progress."""


class ServiceFailed(Exception):
    """The service cannot run; the text is one line."""
