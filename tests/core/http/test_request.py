"""What a message must be before it is a request."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.errors import MessageError
from gateway.core.http.messages import Fields
from gateway.core.http.request import (
    body_bytes,
    check_host,
    check_target,
    expects_continue,
    loggable_path,
    own_request_id,
    persists,
)
from tests.core.kit import BOUNDED


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_connect_and_trace_are_rejected(method: str) -> None:
    with pytest.raises(MessageError) as raised:
        check_target(method, b"/")
    assert raised.value.status == 405


@pytest.mark.parametrize("target", [b"*", b"host:443", b"/a#b", b"/\xc3\xa9", b"", b"/a b"])
def test_a_target_that_is_no_path_is_rejected(target: bytes) -> None:
    with pytest.raises(MessageError) as raised:
        check_target("GET", target)
    assert raised.value.status == 400


def test_a_target_is_reduced_to_origin_form() -> None:
    assert check_target("GET", b"/a?b") == (b"/a?b", None)
    assert check_target("GET", b"http://h:1/a") == (b"/a", b"h:1")


@pytest.mark.parametrize(
    ("hosts", "authority", "http_11"),
    [
        ([b"aos.example"], None, True),
        ([b"aos.example:8080"], None, True),
        ([b"127.0.0.1:"], None, True),
        ([b"[::1]:8080"], None, True),
        ([b"[::ffff:127.0.0.1]:65535"], None, True),
        ([b"gateway_1"], None, True),
        ([b""], None, True),
        ([], None, False),
        ([], b"aos.example", False),
        ([b"AOS.example"], b"aos.EXAMPLE", True),
    ],
)
def test_one_sound_host_is_taken(hosts: list[bytes], authority: bytes | None, http_11: bool) -> None:
    check_host(tuple((b"Host", host) for host in hosts), authority, http_11=http_11)


@pytest.mark.parametrize(
    ("hosts", "authority", "http_11"),
    [
        ([], None, True),
        ([b"a", b"a"], None, True),
        ([b"a", b"b"], None, False),
        ([b"a b"], None, True),
        ([b"a/b"], None, True),
        ([b"user@a"], None, True),
        ([b"a:80:80"], None, True),
        ([b"a:123456"], None, True),
        ([b"a:65536"], None, True),
        ([b"a,a"], None, True),
        ([b":80"], None, True),
        ([b"[::1"], None, True),
        ([b"[1::2::3]"], None, True),
        ([b"[::ffff:999.1.1.1]"], None, True),
        ([], b"user:password@a", False),
        ([], b"a:65536", False),
        ([], b":80", False),
        ([b"a"], b"b", True),
    ],
)
def test_a_missing_repeated_malformed_or_contradicted_host_is_rejected(
    hosts: list[bytes], authority: bytes | None, http_11: bool
) -> None:
    with pytest.raises(MessageError) as raised:
        check_host(tuple((b"Host", host) for host in hosts), authority, http_11=http_11)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("options", "http_11", "expected"),
    [
        ([], True, True),
        ([], False, False),
        ([b"keep-alive"], False, True),
        ([b"X-A", b"Keep-Alive"], False, True),
        ([b"close"], True, False),
        ([b"CLOSE"], True, False),
        ([b"closed"], True, True),
        ([b"close, keep-alive"], True, False),
        ([b"close, keep-alive"], False, False),
        ([b"keep-alive, close"], False, False),
        ([b"keep-alive", b"close"], False, False),
        ([b"close", b"keep-alive"], False, False),
    ],
)
def test_close_wins_over_keep_alive(options: list[bytes], http_11: bool, expected: bool) -> None:
    assert persists(tuple((b"Connection", option) for option in options), http_11=http_11) == expected


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"/a/b", b"/a/b"),
        (b"/a@b?token=c", b"/a@b"),
        (b"/a#token=c", b"/a"),
        (b"http://user:password@h/a?b", b"/a"),
        (b"http://user:password@h", b"/"),
        (b"user:password@h:443", b"h:443"),
        (b"ftp://user:p@ss@h/a", b"h/a"),
        (b"*", b"*"),
    ],
)
def test_a_log_shows_no_query_fragment_or_userinfo(target: bytes, shown: bytes) -> None:
    assert loggable_path(target) == shown


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), 0),
        (((b"Content-Length", b"0"),), 0),
        (((b"Content-Length", b"17"),), 17),
        (((b"Transfer-Encoding", b"Chunked"),), None),
    ],
)
def test_the_framing_tells_the_length(fields: Fields, expected: int | None) -> None:
    assert body_bytes(fields, http_11=True) == expected


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Content-Length", b"1"), (b"Content-Length", b"1")),
        ((b"Content-Length", b"1, 1"),),
        ((b"Content-Length", b"+1"),),
        ((b"Content-Length", b""),),
        ((b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")),
        ((b"Content-Length", b"1"), (b"Transfer-Encoding", b"")),
        ((b"Transfer-Encoding", b""),),
        ((b"Transfer-Encoding", b"gzip, chunked"),),
        ((b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")),
        ((b"Transfer-Encoding", b"identity"),),
        ((b"Transfer_Encoding", b"chunked"),),
        ((b"content_length", b"5"),),
    ],
)
def test_framing_that_can_be_read_in_two_ways_is_rejected(fields: Fields) -> None:
    with pytest.raises(MessageError) as raised:
        body_bytes(fields, http_11=True)
    assert raised.value.status == 400


def test_http_10_knows_no_chunks() -> None:
    with pytest.raises(MessageError):
        body_bytes(((b"Transfer-Encoding", b"chunked"),), http_11=False)
    assert body_bytes(((b"Content-Length", b"3"),), http_11=False) == 3


def test_an_underscore_elsewhere_is_no_framing() -> None:
    assert body_bytes(((b"X_Auth_Token", b"t"),), http_11=True) == 0


def test_a_caller_may_wait_for_100_continue() -> None:
    assert expects_continue(((b"Expect", b"100-Continue"),))
    assert not expects_continue(())


def test_any_other_expectation_is_rejected() -> None:
    with pytest.raises(MessageError) as raised:
        expects_continue(((b"Expect", b"100-continue, 200-ok"),))
    assert raised.value.status == 417


@BOUNDED
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Host", b"Expect"]),
            st.binary(max_size=12),
        ),
        max_size=3,
    ).map(tuple),
    st.binary(max_size=30),
)
def test_bad_input_is_rejected_and_never_fails_otherwise(fields: Fields, target: bytes) -> None:
    with contextlib.suppress(MessageError):
        check_target("GET", target)
    with contextlib.suppress(MessageError):
        check_host(fields, target, http_11=True)
    with contextlib.suppress(MessageError):
        expects_continue(fields)
    with contextlib.suppress(MessageError):
        length = body_bytes(fields, http_11=True)
        assert length is None or length >= 0


@pytest.mark.parametrize(
    ("ids", "own"),
    [
        ([b"a-1"], b"a-1"),
        ([b"a" * 128], b"a" * 128),
        ([b"a" * 129], None),
        ([b'a"b'], None),
        ([b""], None),
        ([b"a", b"b"], None),
        ([], None),
    ],
)
def test_a_request_id_is_repeated_only_if_it_is_fit_for_a_log(ids: list[bytes], own: bytes | None) -> None:
    assert own_request_id(tuple((b"X-Request-Id", value) for value in ids)) == own
