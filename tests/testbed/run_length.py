"""How long the tests that can be short or long take: a plugin with `--long` and `--soak`.

The environment variables `AOS_GATEWAY_LONG=1` and `AOS_GATEWAY_SOAK=1` say the same.
"""

import os
from enum import Enum

import pytest


class RunLength(Enum):
    """How long; the value is how long the mixed load goes on, in seconds."""

    SHORT = 36
    LONG = 300
    SOAK = 1800


_chosen = RunLength.SHORT


def run_length() -> RunLength:
    """The chosen length; known once pytest is configured, before test modules are imported."""
    return _chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("aos-gateway")
    group.addoption(
        "--long", action="store_true", help="longer load and fuzz runs: minutes (or AOS_GATEWAY_LONG=1)"
    )
    group.addoption("--soak", action="store_true", help="half an hour of mixed load (or AOS_GATEWAY_SOAK=1)")


def pytest_configure(config: pytest.Config) -> None:
    """Take the choice from options and environment."""
    global _chosen  # noqa: PLW0603  # options are one per process
    # Taken out: a gateway that a test starts rejects unknown variables with its prefix.
    chosen = {name for name in ("LONG", "SOAK") if os.environ.pop(f"AOS_GATEWAY_{name}", "") == "1"}
    chosen |= {name for name in ("LONG", "SOAK") if config.getoption(name.lower())}
    _chosen = max((RunLength[name] for name in chosen), key=lambda length: length.value, default=_chosen)
