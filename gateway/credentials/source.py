"""What every source of credentials offers."""

from dataclasses import dataclass
from typing import Protocol

from gateway.config.model import Config
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog
from gateway.upstream.upstream import Credentials

TOKEN_NAME = b"X-Auth-Token"


class Source(Credentials, Protocol):
    """Where the gateway's own credentials come from."""

    @property
    def since_s(self) -> float | None:
        """Unix time from which the token in use is; ``None`` without one."""

    @property
    def is_unavailable(self) -> bool:
        """There are none at present."""

    def description(self) -> tuple[str, ...]:
        """Return what tells these credentials from others, whatever the token of the hour; no secret."""

    def change(self, config: Config) -> None:
        """Use other settings, and try again what has failed."""

    async def close(self) -> None:
        """Stop."""


@dataclass(frozen=True, repr=False)
class Outcomes:
    """Counts and logs how renewals end."""

    metrics: Metrics
    state: StateLog

    def tell(self, outcome: str, why_not: str = "") -> None:
        """Take note of a renewal: ``renewed``, ``refused`` or ``failed``."""
        self.metrics.credential_renewals[outcome] += 1
        if why_not:
            self.state.down(why_not)
        else:
            self.state.up()
