"""What every source of credentials offers."""

from __future__ import annotations

from typing import Protocol

from gateway.config.model import Config
from gateway.core.http.messages import Fields
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog

TOKEN_NAME = b"X-Auth-Token"


class Source(Protocol):
    """Where the gateway's own credentials come from."""

    @property
    def needs_body(self) -> bool:
        """They depend on a request's body."""

    @property
    def since_s(self) -> float | None:
        """Unix time from which the token in use is; ``None`` without one."""

    @property
    def is_unavailable(self) -> bool:
        """There are none at present."""

    def description(self) -> tuple[str, ...]:
        """Return what tells these credentials from others, whatever the token of the hour; no secret."""

    async def fields(self, method: str, target: bytes, fields: Fields, body: bytes) -> Fields:
        """Return the field lines to add to a request; see `gateway.upstream.upstream.Credentials`."""

    async def renew(self, refused: Fields) -> bool:
        """Get others than those that got a 401; ``False`` where there are none yet."""

    def change(self, config: Config) -> None:
        """Use other settings, and try again what has failed."""

    async def close(self) -> None:
        """Stop."""


class Outcomes:
    """Counts and logs how renewals end.

    Args:
        metrics: counts them.
        state: logs changes.
    """

    def __init__(self, metrics: Metrics, state: StateLog) -> None:
        self._metrics = metrics
        self._state = state

    def renewed(self) -> None:
        """There is a new token."""
        self._metrics.credential_renewals["renewed"] += 1
        self._state.up()

    def refused(self, words: str) -> None:
        """IAM has said no, in these words."""
        self._metrics.credential_renewals["refused"] += 1
        self._state.down(f"refused by IAM: {words}")

    def failed(self, kind: str) -> None:
        """There was no answer that could be used."""
        self._metrics.credential_renewals["failed"] += 1
        self._state.down(kind)
