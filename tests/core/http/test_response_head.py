"""Heads that are read by what they have in common with one before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.http.framing import wire_head
from gateway.core.http.messages import Head
from gateway.core.http.response_head import (
    MAX_HEAD_BYTES,
    Framing,
    HeadReader,
    ReceivedHead,
    ResponseError,
    sent_on,
)
from tests.core.kit import BOUNDED

_ID = b"X-Request-Id: 0123456789abcdef\r\n"
_DATE = b"Date: Fri, 27 Nov 2026 18:00:00 GMT\r\n"
_LENGTH = b"Content-Length: 17\r\n"
_MORE = b'ETag: "x"\r\n'
_BAD_LENGTHS = (b"9" * 19, b"-1", b"+1", b"1_0", b"1 0", b"x", b"")
_DATE_ENDS = (b"", b"\t", b"GMT ", b"\xe4", b"\x00", b"\r", b"a\nb: c")
_ALL = _LENGTH + b"Server: 100%b\r\n" + _DATE + _ID + b"Connection: keep-alive\r\n"


def _head(lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + lines + b"\r\n"


def _read(reader: HeadReader, raw: bytes) -> tuple[Head, Framing] | str:
    try:
        return reader.read(raw)
    except ResponseError as error:
        return error.proxy_error


def _received(raw: bytes) -> Head:
    """A head as it is read when some like it have been."""
    reader = HeadReader()
    return [reader.read(raw)[0] for _ in range(4)][-1]


def _is_same(learned: bytes, raw: bytes) -> bool:
    """Whether a reader that has read another head before reads a head as one does that has not."""
    reader = HeadReader()
    for _ in range(3):
        _read(reader, learned)
    found, expected = _read(reader, raw), _read(HeadReader(), raw)
    if isinstance(found, str) or isinstance(expected, str):
        return found == expected
    (head, framing), (plain, plain_framing) = found, expected
    sent, plain_sent = sent_on(head, _MORE), sent_on(plain, _MORE)
    return (
        (head.status, head.reason, framing) == (plain.status, plain.reason, plain_framing)
        and all(
            one.fields == other.fields for one, other in ((head, plain), (sent, plain_sent), (head, plain))
        )
        and (head.lines(), sent.lines()) == (plain.lines(), plain_sent.lines())
    )


@pytest.mark.parametrize(
    "raw",
    [
        _head(_ALL),
        _head(_ALL.replace(b"17", b"0")),
        _head(_ALL.replace(b"17", b"123456").replace(b"18:00:00", b"18:00:01").replace(b"abc", b"%d%")),
        _head(_ALL.replace(b"17", b"9" * 18)),
        *(
            _head(_ALL.replace(b"17", length))
            for length in (b"9" * 19, b"-1", b"+1", b"1_0", b"1 0", b"x", b"")
        ),
        *(
            _head(_ALL.replace(b"GMT", end))
            for end in (b"", b"\t", b"GMT ", b"\xe4", b"\x00", b"\r", b"a\nb: c")
        ),
        # As long as what is known.
        *(
            _head(_ALL.replace(b"GMT", end))
            for end in (b"CET", b"G\nT", b"GM ", b"GM\t", b"G\xe4T", b"G\r\n")
        ),
        *(_head(_ALL.replace(b"17", length)) for length in (b"18", b"1 ", b" 1", b"1x", b"-1")),
        _head(_ALL.replace(b"100%b", b"101%b")),
        _head(_ALL.replace(b": ", b":")),
        _head(_ALL.replace(b": ", b":  ")),
        _head(_ALL.replace(b"Date", b"DATE")),
        _head(_ALL + _LENGTH),
        _head(_ALL + _ID),
        _head(_ALL + b"Date:\r\n"),
        _head(_ALL + b"date: " + b"x" * MAX_HEAD_BYTES + b"\r\n"),
        _head(_ALL, b"HTTP/1.0 200 OK"),
        _head(_ALL, b"HTTP/1.1 404 Not Found"),
    ],
)
def test_a_head_like_one_before_means_what_it_means_alone(raw: bytes) -> None:
    assert _is_same(_head(_ALL), raw)
    assert _is_same(raw, _head(_ALL))
    assert _is_same(raw, raw)


@pytest.mark.parametrize("name", [b"Date", b"X-Request-Id", b"Content-Length"])
def test_a_value_may_be_as_long_as_a_whole_head_and_no_longer(name: bytes) -> None:
    longer = _head(_ALL).replace(name + b": ", name + b": " + b"1" * MAX_HEAD_BYTES)
    assert _is_same(_head(_ALL), longer)
    assert _read(HeadReader(), longer) == "http_protocol_error"


def test_a_head_with_a_field_that_connection_names_is_sent_on_without_it() -> None:
    for name in (b"date", b"x-request-id", b"server"):
        raw = _head(_ALL.replace(b"keep-alive", name))
        sent = sent_on(_received(raw), b"")
        assert not sent.has_any(frozenset({name, b"connection"}))


def test_no_content_has_no_length_whatever_one_before_had() -> None:
    reader = HeadReader()
    for _ in range(3):
        reader.read(_head(b"Content-Length: 0\r\n", b"HTTP/1.1 204 No Content"))
    assert _read(reader, _head(_LENGTH, b"HTTP/1.1 204 No Content")) == "http_protocol_error"


def test_only_so_many_kinds_of_heads_are_known() -> None:
    reader = HeadReader()
    for number in range(1000):
        reader.read(_head(b"X-Kind: %d\r\n" % number + _ALL))
    assert len(reader._known) < 100
    known = dict(reader._known)
    for other in (b"X-Kind: " + b"k" * 5000 + b"\r\n", b"set-Cookie: a=b\r\n"):
        assert not isinstance([reader.read(_head(other))[0] for _ in range(3)][-1], ReceivedHead)
    assert reader._known == known


def test_only_so_many_sizes_are_known() -> None:
    reader = HeadReader()
    for size in range(1, 200):
        reader.read(_head(_ALL.replace(b"GMT", b"G" * size)))
    assert 1 < len(reader._layouts) <= 64
    before = dict(reader._layouts)
    for other in (b"Server: a\r\n", _ALL + b"X-Kind: " + b"k" * 4000 + b"\r\n"):
        assert len([reader.read(_head(other)) for _ in range(4)]) == 4
    assert reader._layouts == before


def test_fields_that_are_added_count() -> None:
    received = _received(_head(_ALL))
    assert isinstance(received, ReceivedHead)
    sent = sent_on(received, _MORE)
    assert sent.has_any(frozenset({b"etag"}))
    assert sent.has_any(frozenset({b"server"}))
    assert not sent.has_any(frozenset({b"vary", b"connection"}))
    assert sent.fields[-1] == (b"ETag", b'"x"')
    data, _, _ = wire_head(sent, method="GET", body_bytes=17, http_11=True, keep_alive=True)
    assert data == _head(_ALL.replace(b"Connection: keep-alive\r\n", b'ETag: "x"\r\n'))


_PIECES = [b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"%", b"%b", b"\x00", b"\xe4", b"0", _DATE, _ID, _LENGTH]


@given(
    edits=st.lists(st.tuples(st.integers(0, 170), st.integers(0, 2), st.sampled_from(_PIECES)), max_size=3),
    more=st.lists(st.tuples(st.integers(0, 170), st.integers(0, 2), st.sampled_from(_PIECES)), max_size=2),
)
@settings(BOUNDED, max_examples=300)
def test_two_heads_never_mix(edits: list[tuple[int, int, bytes]], more: list[tuple[int, int, bytes]]) -> None:
    raw = _head(_ALL)
    for place, dropped, piece in edits:
        raw = raw[:place] + piece + raw[place + dropped :]
    changed = raw
    for place, dropped, piece in more:
        changed = changed[:place] + piece + changed[place + dropped :]
    for one in (raw, changed):
        if not one.endswith(b"\r\n\r\n") or b"\r\n\r\n" in one[:-4]:
            return
    assert _is_same(raw, changed)
    assert _is_same(_head(_ALL), changed)
