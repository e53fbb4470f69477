"""The limit of open descriptors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import logging, resource
from gateway.config.load import load_config
from gateway.runtime.file_limit import log_limit, raise_limit
logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
config = load_config(None, {{}}, {{"upstream.url": "http://127.0.0.1:1"}} | {flags})
raise_limit(config)
log_limit(config)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def _run(hard: int, flags: dict[str, object]) -> tuple[str, str]:
    """Return the limit that was reached, and what was logged."""
    program = _PROGRAM.format(hard=hard, flags=flags)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip(), done.stderr


def test_the_limit_is_raised_to_what_the_configuration_may_need() -> None:
    assert _run(4096, {"server.max_connections": 1000}) == ("1896", "")


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ({}, "INFO"),
        ({"server.max_connections": 20_000}, "INFO"),
        ({"upstream.max_connections": 300, "redis.url": "redis://h"}, "INFO"),
        ({"server.max_connections": 5000}, "WARNING"),
        ({"server.max_connections": 1000}, "WARNING"),
        ({"upstream.max_connections": 1000}, "WARNING"),
    ],
)
def test_a_limit_that_is_too_low_is_used_as_far_as_it_goes_and_warned_of_when_more_was_asked_for(
    flags: dict[str, object], level: str
) -> None:
    limit, line = _run(1024, flags)
    assert limit == "1024"
    assert line.startswith(f"{level} at most 1024 descriptors can be open, ")
    assert f"server.max_connections = {flags.get('server.max_connections', 20_000)}" in line


def test_the_runbook_adds_up_what_may_be_needed() -> None:
    runbook = Path(__file__).parents[2] / "deploy" / "README.md"
    [others] = re.findall(r"`redis.max_connections` \(.*?\) \+ (\d+);", runbook.read_text("utf-8"))
    flags: dict[str, object] = {"server.max_connections": 1000, "redis.url": "redis://h"}
    needed = 1000 + 2 * 256 + 32 + int(others)
    assert _run(4096, flags) == (str(needed), "")
