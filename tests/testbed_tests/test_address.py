"""Addresses and free ports."""

import socket

import pytest

from tests.testbed.address import free_port, join, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("unix:/a:1", "/a:1")],
)
def test_an_address_is_taken_apart(text: str, parts: str | tuple[str, int]) -> None:
    assert split(text) == parts
    if not isinstance(parts, str):
        assert join(*parts) == text


def test_a_free_port_is_free_and_below_the_range_of_source_ports() -> None:
    port = free_port()
    assert port < 32768
    with socket.create_server(("127.0.0.1", port)):
        pass
