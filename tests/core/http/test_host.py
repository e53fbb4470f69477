"""Which hosts are the gateway's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.host import OwnHosts
from tests.core.kit import BOUNDED

OWN = OwnHosts.of(["Admin.example", "dotted.example."], ["AOS.example", "gw.example:8080"])


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:8080",
        b"localhost.",
        b"127.0.0.1",
        b"192.0.2.7:9901",
        b"[::1]",
        b"[2001:db8::1]:80",
        b"Admin.Example",
        b"admin.example.:1",
        b"dotted.example",
        b"AOS.example",
        b"gw.example:8080",
    ],
)
def test_a_loopback_name_an_address_and_its_own_names_pass(host: bytes) -> None:
    assert OWN.has(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"aos.example:8443",
        b"gw.example",
        b"admin.example:123456",
        b"admin.example:80:80",
        b"admin.example:65536",
        b"[::1",
        b"::1",
        b"[localhost]",
        b"[127.0.0.1]",
        b"127.0.0.1\xff",
    ],
)
def test_a_foreign_host_does_not(host: bytes) -> None:
    assert not OWN.has(host)


@BOUNDED
@given(st.binary(max_size=20))
def test_no_host_makes_the_reader_fail(host: bytes) -> None:
    OWN.has(host)
