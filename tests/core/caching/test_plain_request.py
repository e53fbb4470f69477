"""Plain requests read from their bytes, compared with what the parser makes of them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.aos.route import execution
from gateway.core.caching.eligibility import Eligible, eligibility
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.key import KeySpace
from gateway.core.caching.plain_request import (
    PlainRequest,
    known_request,
    plain_fields,
    read_owner,
    read_plain,
    trace_fields,
    without_fields,
)
from gateway.core.caching.request_directives import NO_DIRECTIVES
from gateway.core.http import request as incoming
from gateway.core.http.fields import HOP_BY_HOP, VARIANT, is_sent_unchanged
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Fields, Request, wire_lines
from gateway.core.http.proxy_identity import check_request, make_proxy_identity, upstream_fields

READER = IdentityReader((b"x-project-id", b"cookie"), b"secret", shared=False)
KEYS = KeySpace("aosgw", b"upstream")
PROXY = make_proxy_identity(b"\x01\x23\x45\x67" * 4, "aos.example", (), READER.names)
LINE = b"GET /v2/stacks/s/actions/a HTTP/1.1\r\n"
ALICE = b"Host: h\r\nX-Auth-Token: alice\r\n"


def owner(rest: bytes, own_hosts: OwnHosts | None = None) -> bytes | None:
    found = read_owner(rest, identity_reader=READER, keys=KEYS, proxy=PROXY, own_hosts=own_hosts)
    return None if found is None else found.owner


def rest_of(lines: bytes) -> bytes:
    seen = read_plain(LINE + lines + b"\r\n")
    assert seen is not None
    return seen.rest


def parsed(data: bytes) -> list[RawRequestMessage]:
    """What aiohttp's parser makes of bytes, with nothing left over; empty when it rejects them."""
    loop: Any = SimpleNamespace(create_future=asyncio.Future)
    parser = HttpRequestParser(
        BaseProtocol(loop), loop, 65_536, max_line_size=65_536, max_field_size=65_536, auto_decompress=False
    )
    try:
        messages, is_upgraded, tail = parser.feed_data(data)
    except HttpProcessingError:
        return []
    return [] if is_upgraded or tail else [message for message, _ in messages]


def test_a_plain_get_is_seen_whole() -> None:
    assert read_plain(LINE + ALICE + b"\r\n") == PlainRequest(b"s/actions/a", None, b"\r\n" + ALICE + b"\r\n")


@pytest.mark.parametrize("name", [b"X-Request-Id", b"x-request-id", b"X-Request-ID"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_request_id_is_taken_out_wherever_it_stands(name: bytes, place: int) -> None:
    lines = [b"Host: h\r\n", b"X-Auth-Token: alice\r\n"]
    lines.insert(place, name + b": id-1\r\n")
    data = LINE + b"".join(lines) + b"\r\n"
    start = data.index(b"\r\n" + name)
    assert read_plain(data) == PlainRequest(b"s/actions/a", b"id-1", b"\r\n" + ALICE + b"\r\n", start)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINE,
        LINE + ALICE,
        b"HEAD" + LINE[3:] + ALICE + b"\r\n",
        b"GET /v2/templates HTTP/1.1\r\n" + ALICE + b"\r\n",
        LINE.replace(b"1.1", b"1.0") + ALICE + b"\r\n",
        LINE.replace(b" HTTP/1.1", b"") + ALICE + b"\r\n",
        b"\r\n" + LINE + ALICE + b"\r\n",
        LINE + ALICE + b"X-Request-Id: \xe9\r\n\r\n",
        LINE + ALICE + b"X-Request-Id: \r\n\r\n",
        LINE + ALICE + b"X-Request-Id: " + b"a" * 129 + b"\r\n\r\n",
    ],
)
def test_anything_else_is_not_looked_at(data: bytes) -> None:
    assert read_plain(data) is None


@pytest.mark.parametrize(
    "rest",
    [
        b"\r\n X-Auth-Token: alice\r\n\r\n",
        b"\r\nX-Auth-Token : alice\r\n\r\n",
        b"\r\nX-Auth-Token: alice\r\n\tbob\r\n\r\n",
        b"\r\nX-Auth-Token: a\tb\r\n\r\n",
        b"\r\nX-Auth-Token: a\x00b\r\n\r\n",
        b"\r\nX-Auth-Token: a\nb\r\n\r\n",
        b"\r\nX-Auth-Token: a\rb\r\n\r\n",
        b"\r\nX-Auth-Token: \xe9\r\n\r\n",
        b"\r\nX-Auth-Token\r\n\r\n",
        b"\r\n: alice\r\n\r\n",
        b"\r\nHost: h\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"\r\nHost: h\r\n\r\n\r\n\r\n",
    ],
)
def test_field_lines_that_could_be_read_otherwise_are_not_plain(rest: bytes) -> None:
    assert plain_fields(rest) is None
    assert owner(rest) is None


def test_blanks_around_a_value_go_and_those_inside_stay() -> None:
    assert plain_fields(b"\r\nA:b\r\nC:  d  e \r\nF:\r\n\r\n") == ((b"A", b"b"), (b"C", b"d  e"), (b"F", b""))


def test_what_passes_by_is_left_out_when_it_is_plain() -> None:
    plain = b"\r\ntraceparent: 00-1-2-01\r\nHost: h\r\nTraceState: a=b\r\n\r\n"
    assert without_fields(plain, trace_fields(READER)) == b"\r\nHost: h\r\n\r\n"
    assert without_fields(b"\r\ntraceparent: a\x01\r\nHost: h\r\n\r\n", trace_fields(READER)) is None


@pytest.mark.parametrize("name", sorted(trace_fields(READER)))
def test_what_tells_callers_apart_does_not_pass_by(name: bytes) -> None:
    for configured in (name, name.replace(b"-", b"_")):
        assert name not in trace_fields(IdentityReader((configured,), b"", shared=False))


def test_nothing_that_decides_about_an_answer_passes_by() -> None:
    deciding = HOP_BY_HOP | VARIANT | {b"cache-control", b"pragma", b"origin"}
    assert trace_fields(READER).isdisjoint(deciding)
    assert all(map(is_sent_unchanged, trace_fields(READER)))


def test_a_caller_has_the_owner_of_the_ordinary_way() -> None:
    found = owner(rest_of(ALICE))
    fields = ((b"Host", b"h"), (b"X-Auth-Token", b"alice"))
    eligible = eligibility(Request("GET", b"/v2/stacks/s/actions/a", fields, b"", b"http", 0, b""), READER)
    assert isinstance(eligible, Eligible)
    key = KEYS.entry(eligible.identity.entry, eligible.variant.general, eligible.execution)
    assert found is not None
    assert found + b"s/actions/a" == key.local


@pytest.mark.parametrize(
    "line",
    [
        b"X-Auth-Token: bob",
        b"X_Auth_Token: bob",
        b"Authorization: Basic eDp5",
        b"Cookie: a=b",
        b"X-Project-Id: p",
        b"Accept: text/plain",
        b"Accept-Encoding: gzip",
        b"Accept-Language: zh",
    ],
)
def test_another_credential_or_variant_is_another_owner(line: bytes) -> None:
    assert owner(rest_of(ALICE + line + b"\r\n")) != owner(rest_of(ALICE))


@pytest.mark.parametrize(
    "line",
    [
        b"Cache-Control: no-cache",
        b"Cache-Control: max-age=5",
        b"Cache-Control: only-if-cached",
        b"Pragma: no-cache",
        b"If-None-Match: *",
        b"If-Match: *",
        b"If-Modified-Since: x",
        b"Range: bytes=0-1",
        b"Expect: 100-continue",
        b"Content-Length: 0",
        b"Content_Length: 0",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive, X-Auth-Token",
        b"Upgrade: h2c",
        b"TE: trailers",
        b"X-Request-Id: one\r\nX-Request-Id: two",
        b"X-request-id: odd",
        b"Host: other",
        b"Accept: " + b"a" * 65,
        b"Via: 1.1 aos-gateway (01234567)",
        b"X-HTTP-Method-Override: PUT",
    ],
)
def test_what_asks_for_more_than_a_look_up_is_for_the_parser(line: bytes) -> None:
    seen = read_plain(LINE + ALICE + line + b"\r\n\r\n")
    assert seen is None or owner(seen.rest) is None


def test_too_many_fields_are_for_the_parser() -> None:
    many = b"A: b\r\n" * incoming.MAX_FIELDS
    assert owner(rest_of(ALICE + many)) is None
    assert without_fields(rest_of(ALICE + many), trace_fields(READER)) is None


@pytest.mark.parametrize(("number", "is_plain"), [(50, True), (70, False)])
def test_little_is_remembered_of_a_request_with_many_fields(number: int, is_plain: bool) -> None:
    """Its bytes are bounded, and each field costs many times more."""
    for line in (b"A: b\r\n", b"b3: 1\r\n"):
        rest = rest_of(ALICE + line * number)
        assert (plain_fields(rest) is not None) is is_plain
        assert (without_fields(rest, trace_fields(READER)) is not None) is is_plain
    assert (owner(rest_of(ALICE + b"A: b\r\n" * number)) is not None) is is_plain


@pytest.mark.parametrize(("host", "is_taken"), [(b"localhost:80", True), (b"evil.example", False)])
def test_a_foreign_host_is_for_the_parser_where_hosts_are_checked(host: bytes, is_taken: bool) -> None:
    own = OwnHosts.of(())
    rest = rest_of(b"Host: %b\r\nX-Auth-Token: alice\r\n" % host)
    assert (owner(rest, own) is not None) is is_taken


def test_keep_alive_said_out_loud_is_plain() -> None:
    assert owner(rest_of(ALICE + b"Connection: Keep-Alive\r\n")) == owner(rest_of(ALICE))


# Pieces of heads that are nearly right, with what may make two readers differ.
_PIECES = st.sampled_from(
    [
        *(
            b"Host: h\r\n",
            b"Host:h\r\n",
            b"X-Auth-Token: alice\r\n",
            b"x-auth-token: bob\r\n",
            b"Accept: a\r\n",
        ),
        *(
            b"X-Request-Id: 1\r\n",
            b"x-request-id: 2\r\n",
            b"Accept-Encoding: gzip\r\n",
            b"traceparent: 1\r\n",
        ),
        *(
            b"Connection: keep-alive\r\n",
            b"Connection: Host\r\n",
            b"Cookie: \r\n",
            b"X-Project-Id: p  q \r\n",
        ),
        *(
            b"Content-Length: 0\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
        ),
        *(
            b"\x00",
            b"\xe9",
            b",",
            b"_",
            b"Via: 1.1 x\r\n",
            b"Upgrade: a\r\n",
            b"If-Match: *\r\n",
            b"GET / HTTP/1.1\r\n",
        ),
    ]
)


@settings(max_examples=2_000, deadline=None)
@given(st.lists(_PIECES, max_size=9), st.booleans())
def test_a_plain_request_means_the_same_to_the_parser(pieces: list[bytes], is_started: bool) -> None:
    data = LINE + (ALICE if is_started else b"") + b"".join(pieces) + b"\r\n"
    seen = read_plain(data)
    kept = without_fields(seen.rest, trace_fields(READER)) if seen is not None else None
    found = owner(kept) if kept is not None else None
    if seen is None or found is None:
        return
    (message,) = parsed(data)
    fields: Fields = tuple(message.raw_headers)
    assert not message.should_close
    assert not message.chunked
    assert incoming.own_request_id(fields) == seen.request_id
    target, authority = incoming.check_target(message.method, message.path.encode())
    incoming.check_host(fields, authority, http_11=message.version == (1, 1))
    assert incoming.body_bytes(fields, http_11=True) == 0
    assert not incoming.expects_continue(fields)
    request = Request(message.method, target, fields, b"", b"http", 0, b"")
    check_request(request, PROXY)
    eligible = eligibility(request, READER)
    assert isinstance(eligible, Eligible)
    assert eligible.directives == NO_DIRECTIVES
    key = KEYS.entry(eligible.identity.entry, eligible.variant.general, eligible.execution)
    assert key.local == found + seen.path
    plain = asked(data)
    if plain is not None:
        assert_fetched_as_parsed(*plain)


@pytest.mark.parametrize("path", [b"s", b"s/actions/a?", b"s/actions/..", b"s/elements", b"a%2Fb/actions/a"])
def test_what_is_no_execution_call_is_no_plain_request(path: bytes) -> None:
    assert asked(b"GET /v2/stacks/" + path + b" HTTP/1.1\r\n" + ALICE + b"\r\n") is None


@pytest.mark.parametrize("trace", [None, b"traceparent: 00-1\r\n"])
@pytest.mark.parametrize("place", range(4))
def test_a_plain_request_is_what_the_parser_and_the_rules_make_of_it(place: int, trace: bytes | None) -> None:
    lines = [b"Host: h\r\n", b"Connection: keep-alive\r\n", b"X-Auth-Token: alice\r\n"]
    lines.insert(place, b"X-Request-Id: id-1\r\n")
    if trace is not None:
        lines.insert(2, trace)
    data = LINE + b"".join(lines) + b"\r\n"
    found = asked(data)
    assert found is not None
    request, eligible = found
    (message,) = parsed(data)
    assert request == Request(
        "GET", message.path.encode(), tuple(message.raw_headers), b"192.0.2.7", b"http", 0, b"id-1"
    )
    assert msgspec.structs.replace(eligible, fetch_lines=None) == eligibility(request, READER)
    assert (eligible.fetch_lines is None) == (trace is not None)
    assert_fetched_as_parsed(request, eligible)


def assert_fetched_as_parsed(request: Request, eligible: Eligible) -> None:
    """Lines that are made once for many requests are those that `upstream_fields` makes for this one."""
    if eligible.fetch_lines is not None:
        fields = upstream_fields(request, PROXY, execution_call=True)
        assert eligible.fetch_lines.of(request) == wire_lines(fields)


def asked(data: bytes) -> tuple[Request, Eligible] | None:
    seen = read_plain(data)
    assert seen is not None
    rest = without_fields(seen.rest, trace_fields(READER))
    assert rest is not None
    who = read_owner(rest, identity_reader=READER, keys=KEYS, proxy=PROXY, own_hosts=None)
    assert who is not None
    call = execution(b"/v2/stacks/" + seen.path)
    if call is None or call.has_query:
        return None
    request_id = seen.request_id or b"made"
    key = KEYS.entry(who.identity.entry, who.variant.general, call, who.owner)
    known = known_request(who, seen.path, call, key)
    assert known.seen == PlainRequest(seen.path, None, rest)
    return known.request(data, seen, request_id, peer=b"192.0.2.7", scheme=b"http")


def test_a_field_line_that_is_not_plain_makes_no_plain_request() -> None:
    data = LINE + ALICE + b"\r\n"
    seen = read_plain(data)
    assert seen is not None
    who = read_owner(seen.rest, identity_reader=READER, keys=KEYS, proxy=PROXY, own_hosts=None)
    assert who is not None
    assert who.user_agent == b""
    assert asked(LINE + ALICE + b"User-Agent: x/1\r\n\r\n") is not None
    other = read_plain(LINE + ALICE + b"A:\tb\r\n\r\n")
    assert other is not None
    call = execution(b"/v2/stacks/s/actions/a")
    assert call is not None
    key = KEYS.entry(who.identity.entry, who.variant.general, call)
    odd = LINE + ALICE + b"A:\tb\r\n\r\n"
    known = known_request(who, other.path, call, key)
    assert known.request(odd, other, b"made", peer=b"192.0.2.7", scheme=b"http") is None


def test_few_places_of_a_request_id_are_known() -> None:
    lines = [b"Host: h\r\n", b"X-Auth-Token: alice\r\n", *(b"X-%d: y\r\n" % number for number in range(8))]
    rest = b"\r\n" + b"".join(lines) + b"\r\n"
    who = read_owner(rest, identity_reader=READER, keys=KEYS, proxy=PROXY, own_hosts=None)
    call = execution(b"/v2/stacks/s/actions/a")
    assert who is not None
    assert call is not None
    key = KEYS.entry(who.identity.entry, who.variant.general, call, who.owner)
    known = known_request(who, b"s/actions/a", call, key)
    for place in range(len(lines)):
        data = LINE + b"".join([*lines[:place], b"X-Request-Id: id-1\r\n", *lines[place:]]) + b"\r\n"
        seen = read_plain(data)
        assert seen is not None
        found = known.request(data, seen, b"id-1", peer=b"192.0.2.7", scheme=b"http")
        assert found is not None
        assert found[0].fields[place] == (b"X-Request-Id", b"id-1")
        assert_fetched_as_parsed(*found)
        assert len(known.id_places) <= 4
