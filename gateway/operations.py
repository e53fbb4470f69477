"""What the admin side and its page need from whatever serves: one gateway, or a parent with workers."""

from typing import Protocol

from gateway.config.model import Config
from gateway.telemetry.snapshot import Snapshot
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution


class Operations(Protocol):
    """The operator's view of a running service."""

    def ready(self) -> bool:
        """Whether requests are accepted; false from the moment draining begins."""

    def health(self) -> dict[str, object]:
        """Return what `/readyz` reports besides readiness, as plain JSON data without secrets."""

    def metrics_snapshot(self) -> Snapshot:
        """Return the metrics of all processes."""

    @property
    def config(self) -> Config:
        """The effective configuration."""

    def executions(self) -> list[TopExecution]:
        """Return the executions requested most."""

    def throttled(self) -> list[ThrottledCaller]:
        """Return the callers that receive the most 429 responses."""

    async def refresh(self) -> None:
        """Collect the state of other processes, which the methods above return."""

    async def purge(self, stack_id: str) -> bool:
        """Invalidate a stack's stored responses; return false while Redis has not confirmed."""
