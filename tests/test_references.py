"""The references are what the code says, and leave nothing out."""

import pytest

from gateway.config.model import RULES
from gateway.core.http.errors import GatewayError
from gateway.telemetry.metrics_catalogue import FAMILIES
from tests.references import REFERENCES, ROOT


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_is_what_the_code_says(name: str) -> None:
    committed = (ROOT / name).read_text("utf-8")
    assert committed == REFERENCES[name](), "run python -m tests.references"


def test_every_key_and_every_metric_has_a_line() -> None:
    configuration = REFERENCES["config/reference.md"]()
    metrics = REFERENCES["deploy/monitoring/metrics.md"]()
    for name in RULES:
        section, _, key = name.partition(".")
        table = configuration.partition(f"## `[{section}]`")[2].partition("\n## ")[0]
        assert f"| `{key}` |" in table, name
    texts = {kind.detail for kind in GatewayError.__subclasses__() if "detail" in vars(kind)}
    assert texts
    for text in texts:
        assert text in metrics
    for family in FAMILIES:
        assert f"`{family.full_name}" in metrics, family.name
