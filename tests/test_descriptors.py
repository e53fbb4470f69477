"""The limit of open descriptors."""

import subprocess
import sys

_PROGRAM = """
import resource
from gateway.config import load_config
from gateway.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))
flags = {{"upstream.url": "http://127.0.0.1:1", "server.max_connections": {connections}}}
print(raise_limit(load_config(None, {{}}, flags)))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def _run(*, hard: int, connections: int) -> list[str]:
    program = _PROGRAM.format(hard=hard, connections=connections)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.splitlines()


def test_the_limit_is_raised_to_what_the_configuration_may_need() -> None:
    assert _run(hard=4096, connections=1000) == ["None", "1896"]


def test_a_limit_that_is_too_low_is_told_with_a_remedy_and_used_as_far_as_it_goes() -> None:
    line, limit = _run(hard=1024, connections=5000)
    assert limit == "1024"
    assert "at most 1024 descriptors" in line
    assert "server.max_connections = 5000" in line
