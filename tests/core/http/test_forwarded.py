"""The caller's address behind trusted proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.forwarded import UNIX, UNKNOWN, TrustedProxies, forwarded_for, network_of
from gateway.core.http.messages import IndexedFields
from tests.core.kit import BOUNDED

TRUSTED = TrustedProxies.of(["10.0.0.0/8", "192.0.2.1", "2001:db8:ff::/48", "::ffff:172.16.0.0/108"])


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("172.31.0.1", True),
        ("2001:db8:ff::1", True),
        ("2001:db8:fe::1", False),
        (UNIX, False),
        (UNKNOWN, False),
        ("", False),
    ],
)
def test_a_trusted_proxy_is_known_by_its_address(peer: str, is_trusted: bool) -> None:
    assert TRUSTED.has(peer) is is_trusted


def test_unix_sockets_are_trusted_when_they_are_named() -> None:
    named = TrustedProxies.of([UNIX])
    assert named
    assert named.has(UNIX)
    assert not named.has(UNKNOWN)
    assert not TrustedProxies.of([])
    assert TrustedProxies.of(["fe80::/10"]).has("fe80::1%eth0")


@pytest.mark.parametrize(
    ("lines", "caller"),
    [
        ([], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        ([b" , ,"], "10.0.0.1"),
        ([b"203.0.113.9"], "203.0.113.9"),
        # Who is not trusted may have said anything before.
        ([b"1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ([b"10.9.9.9, 203.0.113.9,10.0.0.2 ,\t192.0.2.1"], "203.0.113.9"),
        ([b"1.1.1.1", b"203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ([b"203.0.113.9", b"10.0.0.2"], "203.0.113.9"),
        ([b"203.0.113.9,, 10.0.0.2,"], "203.0.113.9"),
        # Only trusted ones.
        ([b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # Ports and brackets.
        ([b"203.0.113.9:4711"], "203.0.113.9"),
        ([b"203.0.113.9, 10.0.0.2:80"], "203.0.113.9"),
        ([b"2001:DB8::9"], "2001:db8::9"),
        ([b"[2001:db8::9]"], "2001:db8::9"),
        ([b"[2001:db8::9]:4711, [2001:db8:ff::2]:80"], "2001:db8::9"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        ([b"[::ffff:203.0.113.9]:1, ::ffff:10.0.0.2"], "203.0.113.9"),
        # What is no address ends it.
        ([b"203.0.113.9, unknown"], "10.0.0.1"),
        ([b"203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
        ([b"203.0.113.9, _hidden, 10.0.0.2"], "10.0.0.2"),
        ([b"203.0.113.9, 10.0.0.02"], "10.0.0.1"),
        ([b"203.0.113.9, 10.0.0.256"], "10.0.0.1"),
        ([b"203.0.113.9, 10.0.0.2:"], "10.0.0.1"),
        ([b"203.0.113.9, 10.0.0.2:x"], "10.0.0.1"),
        ([b"203.0.113.9, [10.0.0.2]"], "10.0.0.1"),
        ([b"203.0.113.9, [2001:db8:ff::2"], "10.0.0.1"),
        ([b"203.0.113.9, fe80::1%\neth0"], "10.0.0.1"),
        ([b"203.0.113.9, \xff"], "10.0.0.1"),
        ([b'203.0.113.9, "10.0.0.2"'], "10.0.0.1"),
        ([b"203.0.113.9 10.0.0.2"], "10.0.0.1"),
    ],
)
def test_the_caller_is_the_right_most_untrusted_address(lines: list[bytes], caller: str) -> None:
    assert TRUSTED.caller("10.0.0.1", lines) == caller


def test_the_walk_over_trusted_proxies_has_an_end() -> None:
    assert TRUSTED.caller("10.0.0.1", [b"203.0.113.9" + b", 10.0.0.2" * 31]) == "203.0.113.9"
    assert TRUSTED.caller("10.0.0.1", [b"203.0.113.9" + b", 10.0.0.2" * 32]) == "10.0.0.2"


@given(claimed=st.lists(st.binary(max_size=30), max_size=4))
@BOUNDED
def test_nothing_that_a_caller_says_changes_who_he_is(claimed: list[bytes]) -> None:
    assert TRUSTED.caller("10.0.0.1", [*claimed, b"203.0.113.9, 10.0.0.2"]) == "203.0.113.9"


def test_the_field_is_found_in_lines_and_in_a_head_that_was_not_parsed() -> None:
    head = (
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: a, b\r\nX-Forwarded-For-Not: c\r\n"
        b"x-forwarded-FOR:  d \r\nX: X-Forwarded-For: e\r\n\r\n"
    )
    lines = [tuple(line.split(b":", 1)) for line in head.split(b"\r\n")[1:-2]]
    fields = IndexedFields((name, value.strip()) for name, value in lines)
    for given_head in (head, fields):
        assert [value.strip() for value in forwarded_for(given_head)] == [b"a, b", b"d"]


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_is_read(text: str, network: str) -> None:
    assert str(network_of(text)) == network


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/255.0.0.0",
        "10.0.0",
        "[::1]",
        "fe80::1%eth0",
    ],
)
def test_what_is_no_network_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        network_of(text or " ")
