"""What the gateway adds to a request, and which requests it cannot carry."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.errors import GatewayError, MessageError, ProxyLoop
from gateway.core.http.fields import HOP_BY_HOP
from gateway.core.http.messages import Fields, first, values
from gateway.core.http.proxy_identity import check_request, make_proxy_identity, upstream_fields
from tests.core.kit import BOUNDED, names, request, texts

PROXY = make_proxy_identity(
    bytes.fromhex("0123456789abcdef"), "aos.example", ["Gateway.Example"], [b"x-auth-token", b"cookie"]
)
OTHER_VIA = b"1.1 aos-gateway (ffffffff)"

SIGNATURE = b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=%s, Signature=00"


def signed(listed: bytes) -> tuple[bytes, bytes]:
    return (b"Authorization", SIGNATURE % listed)


def sent(*fields: tuple[bytes, bytes], execution_call: bool = False) -> Fields:
    return upstream_fields(request(*fields), PROXY, execution_call=execution_call)


@pytest.mark.parametrize("name", [*sorted(HOP_BY_HOP), b"x-nominated"])
def test_no_hop_by_hop_or_nominated_field_is_sent_upstream(name: bytes) -> None:
    assert first(sent((name.title(), b"x"), (b"Connection", b"X-Nominated")), name) is None


@pytest.mark.parametrize(
    "name",
    [
        b"X-Auth-Token",
        b"Cookie",
        b"Authorization",
        b"X-Sdk-Date",
        b"X-Sdk-Content-Sha256",
        b"Accept",
        b"Accept-Encoding",
        b"Accept-Language",
        b"X-Language",
        b"If-Match",
        b"If-None-Match",
        b"If-Modified-Since",
        b"If-Unmodified-Since",
        b"If-Range",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Host",
        b"Cache-Control",
        b"Via",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Forwarded-Host",
        b"X-Forwarded-Port",
        b"X-HTTP-Method-Override",
    ],
)
def test_connection_may_not_name_what_must_reach_the_upstream(name: bytes) -> None:
    with pytest.raises(MessageError, match="Connection") as raised:
        check_request(request((b"Connection", b"close, " + name.lower())), PROXY)
    assert raised.value.status == 400


def test_connection_may_not_name_a_signed_field() -> None:
    fields = (signed(b"host;x-own"), (b"Host", b"aos.example"), (b"Connection", b"X-Own"))
    with pytest.raises(MessageError) as raised:
        check_request(request(*fields), PROXY)
    assert raised.value.status == 400


@pytest.mark.parametrize("name", [b"close", b"keep-alive", b"Upgrade", b"TE", b"X-Other"])
def test_connection_may_name_others(name: bytes) -> None:
    check_request(request((b"Connection", name)), PROXY)


def test_its_own_via_is_a_loop() -> None:
    with pytest.raises(ProxyLoop) as raised:
        check_request(request((b"Via", b"1.1 a, " + PROXY.via + b", 1.1 b")), PROXY)
    assert (raised.value.status, raised.value.code) == (502, "GATEWAY.5020002")


def test_via_of_a_gateway_before_another_upstream_is_no_loop() -> None:
    check_request(request((b"Via", b"1.0 fred, " + OTHER_VIA)), PROXY)


def test_via_holds_eight_digits_of_the_upstream() -> None:
    assert PROXY.via == b"1.1 aos-gateway (01234567)"


@pytest.mark.parametrize("host", [b"aos.example", b"AOS.example", b"gateway.example"])
def test_a_signed_request_may_name_the_upstream_or_a_signed_host(host: bytes) -> None:
    fields = (signed(b"host"), (b"Host", host))
    check_request(request(*fields), PROXY)
    assert sent(*fields)[0] == (b"Host", host)


@pytest.mark.parametrize("fields", [((b"Host", b"evil.example"),), ((b"Host", b"aos.example:8443"),), ()])
def test_a_signed_request_to_a_foreign_host_is_misdirected(fields: Fields) -> None:
    with pytest.raises(MessageError, match="Host") as raised:
        check_request(request(signed(b"host"), *fields), PROXY)
    assert raised.value.status == 421


@pytest.mark.parametrize("name", [b"TE", b"Expect", b"Keep-Alive"])
def test_a_signed_field_that_is_not_forwarded_is_rejected(name: bytes) -> None:
    fields = (signed(b"host;" + name), (b"Host", b"aos.example"), (name, b"x"))
    with pytest.raises(MessageError, match="SignedHeaders") as raised:
        check_request(request(*fields), PROXY)
    assert raised.value.status == 400


def test_a_signed_name_that_is_absent_harms_nothing() -> None:
    check_request(request(signed(b"host;te"), (b"Host", b"aos.example")), PROXY)


SIGNABLE = [b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"]


@BOUNDED
@given(
    st.sets(st.one_of(names, st.sampled_from(SIGNABLE)), max_size=6),
    st.lists(st.tuples(st.one_of(names, st.sampled_from(SIGNABLE[1:])), texts), max_size=6),
)
def test_a_signed_field_goes_up_as_it_came(listed: set[bytes], lines: list[tuple[bytes, bytes]]) -> None:
    received = (signed(b";".join([b"host", *listed])), (b"Host", b"aos.EXAMPLE"), *lines)
    try:
        check_request(request(*received), PROXY)
    except GatewayError:
        return
    went = sent(*received)
    for name in {b"host", b"authorization", *(name.lower() for name in listed)}:
        assert values(went, name) == values(received, name)


def test_what_the_gateway_adds_upstream() -> None:
    assert sent((b"Host", b"gw:8080"), (b"X-Own", b"1")) == (
        (b"Host", b"aos.example"),
        (b"X-Own", b"1"),
        (b"Via", b"1.1 aos-gateway (01234567)"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"gw:8080"),
        (b"X-Request-Id", b"request-1"),
    )


def test_forwarded_fields_are_appended_to_the_last_line() -> None:
    went = sent(
        (b"x-forwarded-for", b"198.51.100.1"),
        (b"X-Forwarded-For", b"198.51.100.2"),
        (b"X-Forwarded-Host", b""),
        (b"Host", b"gw"),
    )
    assert values(went, b"x-forwarded-for") == [b"198.51.100.1", b"198.51.100.2, 192.0.2.7"]
    assert values(went, b"x-forwarded-host") == [b"gw"]


def test_without_a_host_no_forwarded_host_is_made_up() -> None:
    assert first(sent(), b"x-forwarded-host") is None


def test_a_request_id_and_a_traceparent_are_passed_on() -> None:
    went = sent((b"X-Request-Id", b"mine"), (b"traceparent", b"00-1-2-01"))
    assert values(went, b"x-request-id") == [b"mine"]
    assert values(went, b"traceparent") == [b"00-1-2-01"]


def test_expect_is_never_forwarded() -> None:
    assert first(sent((b"Expect", b"100-continue")), b"expect") is None


CONDITIONS = [
    b"If-Match",
    b"If-None-Match",
    b"If-Modified-Since",
    b"If-Unmodified-Since",
    b"If-Range",
    b"If-Schedule-Tag-Match",
]


@pytest.mark.parametrize("name", [*CONDITIONS, b"Prefer", b"Expect"])
def test_the_execution_call_goes_up_unconditional(name: bytes) -> None:
    assert first(sent((name, b"x"), execution_call=True), name.lower()) is None


@pytest.mark.parametrize("name", [*CONDITIONS, b"Prefer", b"Accept-Encoding"])
def test_any_other_call_keeps_its_conditions(name: bytes) -> None:
    assert values(sent((name, b"x")), name.lower()) == [b"x"]


@pytest.mark.parametrize(
    ("received", "went"),
    [(None, b"identity"), (b"br", b"identity"), (b"br, gzip;q=0.5", b"gzip"), (b"gzip;q=0", b"identity")],
)
def test_gzip_is_all_that_goes_up_as_accept_encoding(received: bytes | None, went: bytes) -> None:
    fields = () if received is None else ((b"Accept-Encoding", received),)
    assert values(sent(*fields, execution_call=True), b"accept-encoding") == [went]


def test_hosts_are_compared_in_lower_case() -> None:
    assert PROXY.signed_hosts == {b"gateway.example", b"aos.example"}
    assert PROXY.authority == b"aos.example"
    assert re.fullmatch(rb"[0-9a-f]{8}", PROXY.via_hex)
