"""The header of the PROXY protocol, versions 1 and 2, as its specification has it."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.forwarded import UNKNOWN
from gateway.core.http.proxy_header import MOST_READ_BYTES, BadProxyHeader, ProxyHeader, Unfit, proxy_header
from tests.core.kit import BOUNDED

_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_INET = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack("!HH", 4000, 443)
_INET6 = (
    ipaddress.IPv6Address("2001:db8::7").packed
    + ipaddress.IPv6Address("2001:db8::1").packed
    + struct.pack("!HH", 4000, 443)
)
_MAPPED = ipaddress.IPv6Address("::ffff:192.0.2.7").packed * 2 + bytes(4)
_UNIX = b"/run/a.sock".ljust(108, b"\0") + b"/run/b.sock".ljust(108, b"\0")
_TLV = b"\x04\x00\x03abc"


def v2(command: int, kind: int, rest: bytes, length: int | None = None) -> bytes:
    return _V2 + struct.pack("!BBH", command, kind, len(rest) if length is None else length) + rest


_LONGEST_V1 = b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(
    b"f...f", b":".join([b"ffff"] * 6)
)
_FIT: dict[str, tuple[bytes, str | None]] = {
    "TCP4": (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n", "192.0.2.7"),
    "TCP6": (b"PROXY TCP6 2001:DB8::7 2001:db8::1 0 65535\r\n", "2001:db8::7"),
    "TCP6, mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n", "192.0.2.7"),
    "the longest TCP6": (_LONGEST_V1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "UNKNOWN with more": (b"PROXY UNKNOWN ffff::1 any\tthing \xff 1 2\r\n", None),
    "the longest UNKNOWN": (b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n", None),
    "2: LOCAL": (v2(0x20, 0x00, b""), None),
    "2: LOCAL with addresses": (v2(0x20, 0x11, _INET), None),
    "2: LOCAL with a family that there is none of": (v2(0x20, 0xFF, b"x"), None),
    "2: TCP4": (v2(0x21, 0x11, _INET), "192.0.2.7"),
    "2: TCP4 with a TLV": (v2(0x21, 0x11, _INET + _TLV), "192.0.2.7"),
    "2: TCP4, TLVs of 60 kB": (v2(0x21, 0x11, _INET + b"\x30\xea\x60" + b"x" * 60_000), "192.0.2.7"),
    "2: UDP4": (v2(0x21, 0x12, _INET), "192.0.2.7"),
    "2: TCP6": (v2(0x21, 0x21, _INET6 + _TLV), "2001:db8::7"),
    "2: TCP6, mapped": (v2(0x21, 0x21, _MAPPED), "192.0.2.7"),
    "2: Unix": (v2(0x21, 0x31, _UNIX), UNKNOWN),
    "2: unspecified": (v2(0x21, 0x00, b""), None),
    "2: unspecified with a TLV": (v2(0x21, 0x00, _TLV), None),
    "2: unspecified transport": (v2(0x21, 0x10, _INET), None),
}


@pytest.mark.parametrize(("sent", "source"), _FIT.values(), ids=_FIT.keys())
def test_what_a_header_says_is_known_however_it_is_cut_and_whatever_follows(
    sent: bytes, source: str | None
) -> None:
    expected = ProxyHeader(len(sent), source)
    assert proxy_header(sent) == expected
    assert proxy_header(sent + b"GET / HTTP/1.1\r\n\r\n") == expected
    for cut in range(min(len(sent), MOST_READ_BYTES)):
        assert proxy_header(sent[:cut]) in (None, expected)
    assert proxy_header(sent[:MOST_READ_BYTES]) == expected


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"PROXY\r\n",
        b"proxy TCP4 ",
        b" PROXY TCP4 ",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\r\nGET / HTTP/1.1\r\n",
    ],
)
def test_what_begins_otherwise_is_missing_its_header(sent: bytes) -> None:
    with pytest.raises(BadProxyHeader) as caught:
        proxy_header(sent)
    assert caught.value.why is Unfit.MISSING


_MALFORMED = [
    b"PROXY \r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY unknown\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP5 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
    b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7  10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
    b"PROXY TCP4\t192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 2\r\n",
    b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0 1 2\r\n",
    b"PROXY TCP4 example.com 10.0.0.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
    b"PROXY TCP6 2001:db8::7 10.0.0.1 1 2\r\n",
    b"PROXY TCP6 [2001:db8::7] 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 fe80::7%eth0 2001:db8::1 1 2\r\n",
    b"PROXY TCP6 2001:db8:::7 2001:db8::1 1 2\r\n",
    # Too long for its version, complete or not.
    b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    b"PROXY TCP4 ".ljust(107, b"1"),
    # Version, command, family or transport that there is none of.
    v2(0x11, 0x11, _INET),
    v2(0x22, 0x11, _INET),
    v2(0x31, 0x11, _INET),
    v2(0x21, 0x41, _INET),
    v2(0x21, 0x13, _INET),
    # Too short for its addresses.
    v2(0x21, 0x11, _INET[:11]),
    v2(0x21, 0x10, _INET[:11]),
    v2(0x21, 0x21, _INET),
    v2(0x21, 0x31, _UNIX[:-1]),
    v2(0x21, 0x11, b"", 11),
]


@pytest.mark.parametrize("sent", _MALFORMED)
def test_what_is_not_as_specified_is_malformed(sent: bytes) -> None:
    with pytest.raises(BadProxyHeader) as caught:
        proxy_header(sent)
    assert caught.value.why is Unfit.MALFORMED


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: _V2 + rest)))
@BOUNDED
def test_any_bytes_are_decided_in_time(data: bytes) -> None:
    try:
        header = proxy_header(data)
    except BadProxyHeader:
        return
    assert len(data) < MOST_READ_BYTES if header is None else header.length > 0


_addresses: st.SearchStrategy[ipaddress.IPv4Address | ipaddress.IPv6Address] = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6, network="2001:db8::/32")
)


@given(source=_addresses, port=st.integers(0, 65_535))
@BOUNDED
def test_both_versions_tell_any_address(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text, kind = f"TCP{source.version} {source} {source} {port} {port}", 0x11 if source.version == 4 else 0x21
    for sent in (
        f"PROXY {text}\r\n".encode(),
        v2(0x21, kind, source.packed * 2 + struct.pack("!HH", port, port)),
    ):
        header = proxy_header(sent)
        assert header is not None
        assert (header.length, header.source) == (len(sent), str(source))
