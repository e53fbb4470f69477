"""Addresses and the upstream's URL."""

import pytest

from gateway.config.address import (
    TcpAddress,
    UnixAddress,
    UpstreamUrl,
    host_and_port_of,
    host_name_of,
    is_loopback,
    parse_address,
    upstream_url_of,
)
from gateway.config.errors import ConfigError, InvalidValue


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TcpAddress(host="127.0.0.1", port=8080)),
        ("localhost:0", TcpAddress(host="localhost", port=0)),
        (":8080", TcpAddress(host="", port=8080)),
        ("0.0.0.0:65535", TcpAddress(host="0.0.0.0", port=65535)),
        ("[::1]:8080", TcpAddress(host="::1", port=8080)),
        ("[0:0::1]:8080", TcpAddress(host="::1", port=8080)),
        ("[::]:1", TcpAddress(host="::", port=1)),
        ("my_host-1.example.:80", TcpAddress(host="my_host-1.example.", port=80)),
        ("unix:/run/aos.sock", UnixAddress(path="/run/aos.sock")),
    ],
)
def test_an_address_is_read_as_written(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "has no port; write host:port"),
        ("::1:8080", "has a bad host; write host:port, [v6]:port"),
        ("[::1]", "has a bad host; write host:port, [v6]:port"),
        ("[::g]:80", "has a bad IPv6 address; write it like [::1]"),
        ("[fe80::1%eth0]:80", "has a bad IPv6 address"),
        ("host:", "has a bad port; write a number from 0 to 65535"),
        ("host:65536", "has a bad port"),
        ("host:-1", "has a bad port"),
        ("host:٨٠", "has a bad port"),
        ("127.0.0.256:80", "has a bad IPv4 address"),
        ("0177.0.0.1:80", "has a bad IPv4 address"),
        ("ho st:80", "has a bad host"),
        ("-host:80", "has a bad host"),
        ("a..b:80", "has a bad host"),
        ("bücher.example:80", "has a bad host"),
        (f"{'a' * 64}:80", "has a bad host"),
        (f"{'a.' * 127}aa:80", "has a bad host"),
        ("unix:", "is not an absolute path; write unix:/run/name.sock"),
        ("unix:run/aos.sock", "is not an absolute path"),
        ("unix:/run/", "is not an absolute path"),
        ("unix:/run/\0", "is not an absolute path"),
        (f"unix:/{'a' * 107}", "is too long for a socket; use at most 107 bytes"),
    ],
)
def test_a_bad_address_gets_one_line_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert remedy in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("localhost:80", True),
        ("LOCALHOST.:80", True),
        ("127.0.0.1:80", True),
        ("127.255.0.9:80", True),
        ("[::1]:80", True),
        ("[::ffff:127.0.0.1]:80", True),
        ("unix:/run/aos.sock", True),
        (":80", False),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("[::ffff:10.0.0.1]:80", False),
        ("10.0.0.1:80", False),
        ("localhost.example.com:80", False),
        ("0x7f000001:80", False),
    ],
)
def test_only_what_this_machine_alone_can_reach_is_loopback(text: str, loopback: bool) -> None:
    assert is_loopback(parse_address(text)) is loopback


@pytest.mark.parametrize(
    ("text", "parts", "authority", "written"),
    [
        ("https://aos.example.com", ("https", "aos.example.com", 443, ""), "aos.example.com", None),
        ("HTTPS://AOS.Example.com/", ("https", "aos.example.com", 443, ""), "aos.example.com", None),
        ("http://aos:80/Base/", ("http", "aos", 80, "/Base"), "aos", "http://aos/Base"),
        ("http://aos:8090/a/b%20c", ("http", "aos", 8090, "/a/b%20c"), "aos:8090", None),
        ("https://aos:80", ("https", "aos", 80, ""), "aos:80", None),
        ("http://[0::1]:8090", ("http", "::1", 8090, ""), "[::1]:8090", None),
        ("http://[::1]", ("http", "::1", 80, ""), "[::1]", None),
        ("http://[::ffff:1.2.3.4]", ("http", "::ffff:1.2.3.4", 80, ""), "[::ffff:1.2.3.4]", None),
        ("http://10.0.0.1/a:b@c", ("http", "10.0.0.1", 80, "/a:b@c"), "10.0.0.1", None),
    ],
)
def test_an_upstream_url_has_one_form_on_all_replicas(
    text: str, parts: tuple[str, str, int, str], authority: str, written: str | None
) -> None:
    url = upstream_url_of(text)
    assert (url.scheme, url.host, url.port, url.base_path) == parts
    assert url.authority == authority
    assert upstream_url_of(str(url)) == url
    assert written is None or str(url) == written


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "is not a URL; write http://host:port"),
        ("aos.example.com", "is not a URL"),
        ("http://aos\n/", "is not a URL"),
        (" http://aos", "is not a URL"),
        ("ftp://aos", "has an unknown scheme; write http:// or https://"),
        ("http://", "has no host"),
        ("http://:80", "has no host"),
        ("http://aos:0", "has a bad port; write a number from 1 to 65535"),
        ("http://aos:65536", "has a bad port"),
        ("http://aos:８０", "is not ASCII"),
        ("http://bücher.example", "is not ASCII; write an international host name in its xn-- form"),
        ("http://::1", "has a bad host; put IPv6 addresses in brackets"),
        ("http://[::1]x:80", "has a bad host"),
        ("http://[fe80::1%25eth0]", "has a bad IPv6 address"),
        ("http://1.2.3", "has a bad IPv4 address"),
        ("http://a,b", "has a bad host"),
        ("http://aos?", "has a query or fragment; end the URL after the base path"),
        ("http://aos#x", "has a query or fragment"),
        ("http://aos/a//b", "has an empty or dot segment"),
        ("http://aos/../b", "has an empty or dot segment"),
        ("http://aos/%2", "percent-encode it"),
        ("http://aos/a\\b", "percent-encode it"),
    ],
)
def test_a_bad_upstream_url_is_rejected_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        upstream_url_of(text)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "http://user:s3cret@aos",
        "http://s3cret@aos",
        "http://user:s3cret/x@aos",
        "user:s3cret@aos",
        "http://aos/?token=s3cret",
        "http://user:s3cret@bücher.example",
        "ftp://user:s3cret@aos",
        "http://user:s3cret@aos:99999",
    ],
)
def test_an_invalid_upstream_url_does_not_show_what_may_be_secret(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        upstream_url_of(text)
    for piece in ("s3cret", "s3", "cret"):
        assert piece not in caught.value.value + caught.value.remedy


def test_a_url_made_by_hand_writes_its_port_unless_it_is_the_default() -> None:
    assert str(UpstreamUrl(scheme="http", host="::1", port=443, base_path="/x")) == "http://[::1]:443/x"


def test_host_values_are_lower_cased_and_checked() -> None:
    assert host_and_port_of("AOS.example.com:8443") == "aos.example.com:8443"
    assert host_and_port_of("[::1]:80") == "[::1]:80"
    assert host_name_of("Gateway.Internal") == "gateway.internal"
    for text in ("", "a:b", "a:80:80", "https://a", "a/b", "a@b"):
        with pytest.raises(InvalidValue):
            host_and_port_of(text)
    for text in ("", "a:80", "*.example.com", "a b"):
        with pytest.raises(InvalidValue, match="write the name alone"):
            host_name_of(text)
