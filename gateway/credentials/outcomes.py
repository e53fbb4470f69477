"""How renewals of credentials end."""

from dataclasses import dataclass

from gateway.telemetry.metrics import Metrics
from gateway.telemetry.state_log import StateLog


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
