"""How long the tests take is chosen by an option or by the environment, which the gateway does not get."""

import os

import pytest

from tests.testbed import run_length as plugin
from tests.testbed.run_length import RunLength, pytest_configure, run_length


@pytest.mark.parametrize(
    ("options", "variables", "length"),
    [
        ([], {}, RunLength.SHORT),
        (["--long"], {}, RunLength.LONG),
        ([], {"AOS_GATEWAY_LONG": "1"}, RunLength.LONG),
        ([], {"AOS_GATEWAY_LONG": "0"}, RunLength.SHORT),
        (["--long"], {"AOS_GATEWAY_SOAK": "1"}, RunLength.SOAK),
    ],
)
def test_the_longest_that_is_asked_for_counts(
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
    options: list[str],
    variables: dict[str, str],
    length: RunLength,
) -> None:
    monkeypatch.setattr(plugin, "_chosen", RunLength.SHORT)
    for name in ("long", "soak"):
        monkeypatch.delenv(f"AOS_GATEWAY_{name.upper()}", raising=False)
        monkeypatch.setattr(pytestconfig.option, name, f"--{name}" in options)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pytest_configure(pytestconfig)
    assert run_length() is length
    assert not {"AOS_GATEWAY_LONG", "AOS_GATEWAY_SOAK"} & set(os.environ)
