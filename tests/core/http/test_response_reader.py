"""Responses of the upstream, read strictly and cut anywhere."""

import asyncio
import contextlib
from itertools import pairwise
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.http.framing import BodyFraming
from gateway.core.http.messages import Head
from gateway.core.http.response_head import MAX_HEAD_BYTES, HeadReader, ResponseError
from gateway.core.http.response_reader import ResponseReader
from tests.core.kit import BOUNDED

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


def _read(
    data: bytes, *, method: str = "GET", cuts: tuple[int, ...] = (), heads: HeadReader | None = None
) -> ResponseReader:
    reader = ResponseReader(method, heads)
    for begin, end in pairwise((0, *sorted(cuts), len(data))):
        reader.feed(data[begin:end])
    return reader


def _error(data: bytes, *, method: str = "GET", cuts: tuple[int, ...] = ()) -> str:
    with pytest.raises(ResponseError) as raised:
        _read(data, method=method, cuts=cuts)
    return raised.value.proxy_error


# Response, method, body, framing, and whether the connection can be used again.
_WHOLE = [
    (_OK + b"Content-Length: 3\r\n\r\nabc", "GET", b"abc", BodyFraming.LENGTH, True),
    (_OK + b"Content-Length: 0\r\n\r\n", "GET", b"", BodyFraming.LENGTH, True),
    (_OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", "GET", b"abc", BodyFraming.LENGTH, False),
    (_OK + b"Content-Length: 3\r\nConnection: x, Close\r\n\r\nabc", "GET", b"abc", BodyFraming.LENGTH, False),
    (_OK + b"Content-Length: 3\r\n\r\nabcd", "GET", b"abc", BodyFraming.LENGTH, False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", b"abc", BodyFraming.LENGTH, False),
    (
        b"HTTP/1.0 200\r\nContent-Length: 3\r\nConnection: Keep-Alive\r\n\r\nabc",
        *("GET", b"abc", BodyFraming.LENGTH, True),
    ),
    (_CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n", "GET", b"abcde", BodyFraming.CHUNKED, True),
    (_CHUNKED + b"3\r\nabc\r\n0\r\n\r\nHTTP", "GET", b"abc", BodyFraming.CHUNKED, False),
    (_OK + b"Content-Length: 3\r\n\r\n", "HEAD", b"", BodyFraming.NONE, True),
    (_OK + b"Content-Length: 3\r\n\r\nabc", "HEAD", b"", BodyFraming.NONE, False),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET", b"", BodyFraming.NONE, True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET", b"", BodyFraming.NONE, True),
    (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100\r\nContent-Length: 9\r\n\r\n"
        + _OK
        + b"Content-Length: 1\r\n\r\nx",
        *("GET", b"x", BodyFraming.LENGTH, True),
    ),
]


@pytest.mark.parametrize(("data", "method", "body", "framing", "is_reusable"), _WHOLE)
def test_a_response_is_the_same_wherever_it_is_cut(
    data: bytes, method: str, body: bytes, framing: BodyFraming, is_reusable: bool
) -> None:
    every = tuple(range(1, len(data)))
    for cuts in ((), every, *((cut,) for cut in every)):
        reader = _read(data, method=method, cuts=cuts)
        assert reader.is_complete
        assert reader.waiting_bytes == len(body)
        assert (reader.take(), reader.framing, reader.is_reusable) == (body, framing, is_reusable)
        assert (reader.waiting_bytes, reader.take()) == (0, b"")


_DATED = b"Date: Fri, 27 Nov 2026 18:00:00 GMT\r\nX-Request-Id: 0123\r\n"
_LENGTH_3 = b"Content-Length: 3\r\n"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("begin", [_DATED, b""])
@pytest.mark.parametrize("status", [b"200 OK", b"304 Not Modified", b"204 No Content", b"404"])
@pytest.mark.parametrize(
    "lines", [_LENGTH_3, _LENGTH_3 + b"Connection: close\r\n", b"Server: x\r\n", _CHUNKED[17:-2]]
)
def test_a_response_with_a_known_head_is_read_like_any_other(
    method: str, begin: bytes, status: bytes, lines: bytes
) -> None:
    raw = b"HTTP/1.1 " + status + b"\r\n" + begin + lines + b"\r\n"
    heads = HeadReader()
    for _ in range(4):
        with contextlib.suppress(ResponseError):
            heads.read(raw)

    def outcome(data: bytes, cuts: tuple[int, ...], heads: HeadReader | None = None) -> tuple[object, ...]:
        try:
            whole = heads.whole(data) if heads is not None and method == "GET" and not cuts else None
            if whole is not None:
                head, content, is_reusable = whole
                return head.lines(), head.fields, BodyFraming.LENGTH, len(content), content, True, is_reusable
            reader = _read(data, method=method, cuts=cuts, heads=heads)
        except ResponseError as error:
            return (error.proxy_error,)
        lines, fields = (reader.head.lines(), reader.head.fields) if reader.head else (None, None)
        waiting_bytes, content = reader.waiting_bytes, reader.take()
        return lines, fields, reader.framing, waiting_bytes, content, reader.is_complete, reader.is_reusable

    is_learned = b"Length" in lines and status not in {b"304 Not Modified", b"204 No Content"}
    assert (heads.whole(raw + b"abc") is not None) == is_learned
    for known, other in (
        (b"0123", b"4567"),
        (b"0123", b"4\n67"),
        (b"0123", b" 567"),
        (b": 3", b":3 "),
        (b"3", b"x"),
    ):
        for content in (b"", b"ab", b"abc", b"abcd", b"abc" + raw + b"abc", b"3\r\nabc\r\n0\r\n\r\n"):
            data = raw.replace(known, other) + content
            for cuts in ((), (len(raw) - 3,), (len(data) // 2,), (len(data),)):
                assert outcome(data, cuts, heads) == outcome(data, cuts), (data, cuts)


def test_the_end_of_the_connection_behind_a_whole_response_ends_its_use() -> None:
    reader = _read(_OK + b"Content-Length: 3\r\n\r\nabc")
    reader.feed_eof(is_clean=True)
    assert (reader.is_complete, reader.is_reusable, reader.take()) == (True, False, b"abc")


def test_a_head_that_has_begun_is_known() -> None:
    assert not ResponseReader("GET").is_in_head
    assert _read(_OK).is_in_head


def test_a_head_is_kept_as_it_came() -> None:
    reader = _read(b"HTTP/1.1 299 Own \xe4\r\nA: 1\r\nb:\t x\ty \r\nA:\r\nConnection: close\r\n\r\n")
    assert reader.head == Head(
        299, b"Own \xe4", ((b"A", b"1"), (b"b", b"x\ty"), (b"A", b""), (b"Connection", b"close"))
    )


def test_a_body_without_a_length_ends_with_its_connection_unless_that_was_reset() -> None:
    for is_clean in (True, False):
        reader = _read(_OK + b"\r\nabc")
        assert (reader.framing, reader.is_complete) == (BodyFraming.CLOSE, False)
        if is_clean:
            reader.feed_eof(is_clean=True)
            assert (reader.is_complete, reader.is_reusable, reader.take()) == (True, False, b"abc")
        else:
            with pytest.raises(ResponseError, match="incomplete"):
                reader.feed_eof(is_clean=False)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "connection_terminated"),
        (_OK, "connection_terminated"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "connection_terminated"),
        (_OK + b"Content-Length: 3\r\n\r\nab", "http_response_incomplete"),
        (_OK + b"Content-Length: 3\r\n\r\n", "http_response_incomplete"),
        (_CHUNKED + b"9\r\nabc", "http_response_incomplete"),
        (_CHUNKED + b"3\r\nabc\r\n0\r\n", "http_response_incomplete"),
    ],
)
def test_an_end_that_comes_too_early_is_an_error(data: bytes, error: str) -> None:
    reader = _read(data)
    with pytest.raises(ResponseError, match=error):
        reader.feed_eof(is_clean=True)


_STATUS_LINES = [
    *(b"HTTP/2.0 200 OK", b"HTTP/1.9 200 OK", b"ICY 200 OK", b"RTSP/1.0 200 OK", b"SSH-2.0-x", b"<html>"),
    *(b"200 OK", b"GET / HTTP/1.1", b"\x00\x01\x02", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 200OK"),
    *(b"HTTP/1.1 2000 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 abc OK", b"HTTP/1.1 000 OK"),
    *(b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1 200 O\x01K", b"HTTP/1.1 200 O\x00K"),
]
_UNSOUND = [
    *(line + b"\r\nContent-Length: 0\r\n\r\n" for line in _STATUS_LINES),
    b"HTTP/1.1 199 Interim\r\n\r\n" * 17,
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
    b"HTTP/1.1 200 " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    _OK + b" A: b\r\n\r\n",
    _OK + b"A: b\r\n c\r\n\r\n",
    _OK + b"A : b\r\n\r\n",
    _OK + b"A: b\nC: d\r\n\r\n",
    _OK + b"A: b\rc\r\n\r\n",
    _OK + b"A: \x00\r\n\r\n",
    _OK + b"A: \x1b[0m\r\n\r\n",
    _OK + b"A: \x7f\r\n\r\n",
    _OK + b": b\r\n\r\n",
    _OK + b"A b: c\r\n\r\n",
    _OK + b"A(b: c\r\n\r\n",
    _OK + b"A\xe4: c\r\n\r\n",
    _OK + b"no colon\r\n\r\n",
    _OK + b"A: b\r\n" * 257 + b"\r\n",
    _OK + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
    *(
        _OK + b"Content-Length: " + length + b"\r\n\r\n"
        for length in (b"-1", b"+1", b"0x1", b"", b"1, 1", b"9" * 20, b"1\r\nContent-Length: 2")
    ),
    _OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    _OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    _OK + b"Content-Length: 1\r\nTransfer-Encoding:\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\nx",
]


@pytest.mark.parametrize("data", _UNSOUND)
def test_what_can_be_read_in_two_ways_is_refused_wherever_it_is_cut(data: bytes) -> None:
    assert _error(data) == "http_protocol_error"
    assert _error(data, cuts=tuple(range(1, len(data), 1 + len(data) // 100))) == "http_protocol_error"


@pytest.mark.parametrize("begin", [b"HTP", b"SSH-2.0", b"<html>", b"HTTP/1.1 200 OK\nA", b"\r\nHTTP/1.1 200"])
def test_what_cannot_become_a_head_is_refused_at_once(begin: bytes) -> None:
    assert _error(begin) == "http_protocol_error"


@pytest.mark.parametrize(
    "coding",
    [
        *(b"gzip", b"gzip, chunked", b"chunked, gzip", b"xchunked", b"identity", b'"chunked"', b""),
        b"chunked\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_transfer_coding_other_than_chunked_is_refused(coding: bytes) -> None:
    data = _OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n"
    assert _error(data) == "http_response_transfer_coding"


@pytest.mark.parametrize(
    "chunks",
    [
        *(b"zz\r\n", b"-1\r\n\r\n", b"F" * 17 + b"\r\nabc", b"3\r\nabcd\r\n", b"3\nabc\r\n"),
        *(b"0\r\nA : b\r\n\r\n", b"0\r\nno colon\r\n\r\n"),
    ],
)
def test_bad_chunks_are_an_incomplete_response(chunks: bytes) -> None:
    assert _error(_CHUNKED + chunks) == "http_response_incomplete"


@given(
    body=st.binary(max_size=200),
    sizes=st.lists(st.integers(1, 40), max_size=8),
    cuts=st.lists(st.integers(1, 300), max_size=6, unique=True),
)
@BOUNDED
def test_chunks_give_the_body_that_was_cut_into_them(body: bytes, sizes: list[int], cuts: list[int]) -> None:
    pieces, left = [], body
    for size in sizes:
        pieces.append(left[:size])
        left = left[size:]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, left) if piece)
    data = _CHUNKED + framed + b"0\r\n\r\n"
    reader = _read(data, cuts=tuple(cut for cut in cuts if cut < len(data)))
    assert reader.is_reusable
    assert reader.take() == body


_SOUND = [data for data, method, *_ in _WHOLE if method == "GET" and b"103" not in data]
# What may be put in anywhere: separators, odd characters, and pieces that frame a body.
_PIECES = [
    *(b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"\x00", b"\x7f", b"\xe4", b"0", b"3", b"-"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"X: y\r\n"),
]


@given(
    data=st.sampled_from(_SOUND),
    edits=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 2), st.sampled_from(_PIECES)), max_size=3),
)
@settings(BOUNDED, max_examples=300)
async def test_what_is_accepted_is_read_by_llhttp_in_the_same_way(
    data: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for place, dropped, piece in edits:
        data = data[:place] + piece + data[place + dropped :]
    try:
        reader = _read(data)
    except ResponseError:
        return
    if reader.head is None or not reader.is_complete or reader.head.status < 200:
        return
    protocol = BaseProtocol(asyncio.get_running_loop())
    parser = HttpResponseParser(protocol, protocol._loop, 65_536, read_until_eof=True, auto_decompress=False)
    refusal = ""
    messages: Any = ()
    try:
        messages, _, _ = parser.feed_data(data)
    except HttpProcessingError as error:
        refusal = str(error)
    if refusal:
        # It reads on behind the response, where this reader only sees that the connection is of no more use,
        # and takes no blank in chunk extensions, where RFC 9112 section 7.1.1 allows one.
        assert not reader.is_reusable or "chunk extension" in refusal
        return
    message, payload = messages[-1]
    assert (message.code, tuple(message.raw_headers)) == (reader.head.status, tuple(reader.head.fields))
    assert payload.is_eof()
    assert await payload.read() == reader.take()
