"""Which fields travel."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http import fields as headers
from gateway.core.http.fields import (
    HOP_BY_HOP,
    MessageError,
    accepts_gzip,
    check_request,
    end_to_end,
    kept_fields,
    make_proxy_identity,
    nominated,
    not_modified_fields,
    upstream_fields,
)
from gateway.core.http.messages import Fields, first, values
from tests.core.kit import BOUNDED, names, request, texts

HOP = make_proxy_identity(
    bytes.fromhex("0123456789abcdef"), "aos.example", ["Gateway.Example"], [b"x-auth-token", b"cookie"]
)
OTHER_VIA = b"1.1 aos-gateway (ffffffff)"

SIGNATURE = b"SDK-HMAC-SHA256 Access=AK, SignedHeaders=%s, Signature=00"


def signed(listed: bytes) -> tuple[bytes, bytes]:
    return (b"Authorization", SIGNATURE % listed)


def sent(*fields: tuple[bytes, bytes], execution_call: bool = False) -> Fields:
    return upstream_fields(request(*fields), HOP, execution_call=execution_call)


def test_hop_by_hop_fields_are_those_of_the_design() -> None:
    assert {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    } == HOP_BY_HOP


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_field_never_crosses(name: bytes) -> None:
    field = (name.title(), b"x")
    assert end_to_end((field, (b"A", b"b"))) == ((b"A", b"b"),)
    assert first(sent(field), name) is None
    assert kept_fields((field,)) == ()


@BOUNDED
@given(st.lists(st.tuples(st.one_of(names, st.sampled_from(sorted(HOP_BY_HOP))), st.one_of(texts, names))))
def test_neither_hop_by_hop_fields_nor_nominated_ones_cross_and_the_rest_keeps_its_order(
    lines: list[tuple[bytes, bytes]],
) -> None:
    fields = (*lines, (b"Connection", b"close, " + b",".join(value for _, value in lines[:2])))
    gone = HOP_BY_HOP | nominated(fields)
    crossed = end_to_end(fields)
    assert not {name.lower() for name, _ in crossed} & gone
    assert list(crossed) == [field for field in fields if field[0].lower() not in gone]


def test_connection_names_further_fields_that_stay_behind() -> None:
    fields = ((b"Connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-ONE", b"1"), (b"X-Two", b"2"))
    assert nominated(fields) == {b"close", b"x-one", b"x-two"}
    assert end_to_end(fields) == ()
    assert first(sent(*fields), b"x-one") is None


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
    with pytest.raises(MessageError, match="Connection") as refused:
        check_request(request((b"Connection", b"close, " + name.lower())), HOP)
    assert refused.value.status == 400


def test_connection_may_not_name_a_signed_field() -> None:
    fields = (signed(b"host;x-own"), (b"Host", b"aos.example"), (b"Connection", b"X-Own"))
    with pytest.raises(MessageError) as refused:
        check_request(request(*fields), HOP)
    assert refused.value.status == 400


@pytest.mark.parametrize("name", [b"close", b"keep-alive", b"Upgrade", b"TE", b"X-Other"])
def test_connection_may_name_others(name: bytes) -> None:
    check_request(request((b"Connection", name)), HOP)


def test_its_own_via_is_a_loop() -> None:
    with pytest.raises(MessageError, match="Via") as refused:
        check_request(request((b"Via", b"1.1 a, " + HOP.via + b", 1.1 b")), HOP)
    assert refused.value.status == 502


def test_via_of_a_gateway_before_another_upstream_is_no_loop() -> None:
    check_request(request((b"Via", b"1.0 fred, " + OTHER_VIA)), HOP)


def test_via_holds_eight_digits_of_the_upstream() -> None:
    assert HOP.via == b"1.1 aos-gateway (01234567)"


@pytest.mark.parametrize("host", [b"aos.example", b"AOS.example", b"gateway.example"])
def test_a_signed_request_may_name_the_upstream_or_a_signed_host(host: bytes) -> None:
    fields = (signed(b"host"), (b"Host", host))
    check_request(request(*fields), HOP)
    assert sent(*fields)[0] == (b"Host", host)


@pytest.mark.parametrize("fields", [((b"Host", b"evil.example"),), ((b"Host", b"aos.example:8443"),), ()])
def test_a_signed_request_to_a_foreign_host_is_misdirected(fields: Fields) -> None:
    with pytest.raises(MessageError, match="Host") as refused:
        check_request(request(signed(b"host"), *fields), HOP)
    assert refused.value.status == 421


@pytest.mark.parametrize("name", [b"TE", b"Expect", b"Keep-Alive"])
def test_a_signed_field_that_cannot_travel_is_refused(name: bytes) -> None:
    fields = (signed(b"host;" + name), (b"Host", b"aos.example"), (name, b"x"))
    with pytest.raises(MessageError, match="SignedHeaders") as refused:
        check_request(request(*fields), HOP)
    assert refused.value.status == 400


def test_a_signed_name_that_is_absent_harms_nothing() -> None:
    check_request(request(signed(b"host;te"), (b"Host", b"aos.example")), HOP)


SIGNABLE = [b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"]


@BOUNDED
@given(
    st.sets(st.one_of(names, st.sampled_from(SIGNABLE)), max_size=6),
    st.lists(st.tuples(st.one_of(names, st.sampled_from(SIGNABLE[1:])), texts), max_size=6),
)
def test_a_signed_field_goes_up_as_it_came(listed: set[bytes], lines: list[tuple[bytes, bytes]]) -> None:
    came = (signed(b";".join([b"host", *listed])), (b"Host", b"aos.EXAMPLE"), *lines)
    try:
        check_request(request(*came), HOP)
    except MessageError:
        return
    went = sent(*came)
    for name in {b"host", b"authorization", *(name.lower() for name in listed)}:
        assert values(went, name) == values(came, name)


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
    ("came", "went"),
    [(None, b"identity"), (b"br", b"identity"), (b"br, gzip;q=0.5", b"gzip"), (b"gzip;q=0", b"identity")],
)
def test_gzip_is_all_that_goes_up_as_accept_encoding(came: bytes | None, went: bytes) -> None:
    fields = () if came is None else ((b"Accept-Encoding", came),)
    assert values(sent(*fields, execution_call=True), b"accept-encoding") == [went]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"x-gzip", True),
        (b"deflate, gzip", True),
        (b"*", True),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"*;q=0, gzip", True),
        (b"gzip;q=0.000", False),
        (b"gzip; Q=0.", False),
        (b"gzip;q=0.001", True),
        (b"gzip ;q=1", True),
        (b"identity", False),
        (b"gzipped", False),
    ],
)
def test_gzip_is_accepted_by_name_or_wildcard_unless_weighted_zero(value: bytes, expected: bool) -> None:
    assert accepts_gzip(((b"Accept-Encoding", value),)) is expected


@pytest.mark.parametrize(
    "name",
    [
        b"X-Request-Id",
        b"traceparent",
        b"tracestate",
        b"X-B3-TraceId",
        b"Server-Timing",
        b"Retry-After",
        b"RateLimit",
        b"RateLimit-Remaining",
        b"X-RateLimit-Limit",
        b"Proxy-Status",
        b"Via",
        b"Age",
        b"Connection",
    ],
)
def test_an_entry_keeps_nothing_of_a_single_exchange(name: bytes) -> None:
    assert kept_fields(((b"A", b"1"), (name, b"x"), (b"a", b"2"))) == ((b"A", b"1"), (b"a", b"2"))


def test_an_entry_keeps_names_order_and_repeats() -> None:
    fields = ((b"Date", b"d"), (b"x-Own", b"1"), (b"ETag", b'"e"'), (b"X-OWN", b"1"))
    assert kept_fields(fields) == fields


def test_a_304_repeats_what_validates_and_nothing_of_the_body() -> None:
    repeated = (
        (b"Date", b"d"),
        (b"ETag", b'"e"'),
        (b"Age", b"1"),
        (b"Cache-Control", b"max-age=1"),
        (b"cache-control", b"public"),
        (b"CDN-Cache-Control", b"max-age=1"),
        (b"Content-Location", b"/x"),
        (b"Expires", b"d"),
        (b"Vary", b"Accept"),
    )
    others = ((b"Content-Type", b"a/b"), (b"Content-Length", b"1"), (b"Content-Encoding", b"gzip"))
    assert not_modified_fields(others + repeated) == repeated


def test_a_hop_is_made_for_any_case_of_hosts() -> None:
    assert HOP.signed_hosts == {b"gateway.example"}
    assert HOP.authority == b"aos.example"
    assert re.fullmatch(rb"[0-9a-f]{8}", HOP.via_hex)
    assert isinstance(HOP, headers.ProxyIdentity)
