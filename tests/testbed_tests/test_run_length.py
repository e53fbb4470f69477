"""How long the tests take is chosen by an option or by the environment, and the gateway is not told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent.parent
_TEST = """
import os
from tests.testbed.run_length import run_length

def test_tells():
    assert "AOS_GATEWAY_LONG" not in os.environ and "AOS_GATEWAY_SOAK" not in os.environ
    raise AssertionError(run_length().name)
"""


@pytest.mark.parametrize(
    ("options", "variables", "length"),
    [
        ([], {}, "SHORT"),
        (["--long"], {}, "LONG"),
        ([], {"AOS_GATEWAY_LONG": "1"}, "LONG"),
        ([], {"AOS_GATEWAY_LONG": "0"}, "SHORT"),
        (["--long"], {"AOS_GATEWAY_SOAK": "1"}, "SOAK"),
    ],
)
def test_the_longest_that_is_asked_for_counts(
    tmp_path: Path, options: list[str], variables: dict[str, str], length: str
) -> None:
    (tmp_path / "test_one.py").write_text(_TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.testbed.run_length",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, *options, "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
        env={**os.environ, **variables},
        timeout=30,
    )
    assert f"AssertionError: {length}\n" in done.stdout
