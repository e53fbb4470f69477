"""The panels of deploy/monitoring/dashboard.json: their queries, as Grafana would send them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"


@dataclass(frozen=True)
class Query:
    """One query of one panel.

    Attributes:
        panel: the panel's title.
        expression: PromQL with Grafana's variables in it.
    """

    panel: str
    expression: str

    def filled(self, *, job: str, instance: str, interval: str) -> str:
        """Return the PromQL with the variables filled in."""
        return (
            self.expression.replace("$__rate_interval", interval)
            .replace("$job", job)
            .replace("$instance", instance)
        )


def dashboard() -> dict[str, Any]:
    """Read the dashboard."""
    found = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def queries() -> list[Query]:
    """Return all queries of the dashboard."""
    return [
        Query(panel["title"], target["expr"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]
