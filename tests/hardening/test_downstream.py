"""Raw requests that break or bend HTTP: each is refused, or reaches the upstream in one clean form."""

import asyncio
import logging
import re
from dataclasses import dataclass

import pytest

from tests.testbed.aos import ScriptedAos
from tests.testbed.client import RawClient
from tests.testbed.gateway import RunningGateway
from tests.testbed.response import assert_refused

from .segments import WAYS, send_split

_SECRET = b"zqxj"
_HOST = b"Host: h\r\n"
_FIELDS = _HOST + b"X-Auth-Token: zqxj\r\nX-Other: zqxj\r\n"
_AFTER = b"GET /after HTTP/1.1\r\nHost: h\r\n\r\n"
_Sent = tuple[str, str, bytes]


@dataclass(frozen=True)
class Case:
    """A raw request and what must become of it.

    Attributes:
        name: what is odd about it.
        data: the bytes.
        status: of the one answer.
        upstream: method, target and body of all that the upstream gets whole.
        is_kept: the connection carries another request.
        method: of the request, for reading its answer.
    """

    name: str
    data: bytes
    status: int = 400
    upstream: tuple[_Sent, ...] = ()
    is_kept: bool = False
    method: str = "GET"


def _post(name: str, fields: bytes, rest: bytes = b"abc") -> Case:
    return Case(name, b"POST /zqxj HTTP/1.1\r\n" + _FIELDS + fields + b"\r\n" + rest)


def _chunks(name: str, rest: bytes) -> Case:
    return _post(name, b"Transfer-Encoding: chunked\r\n", rest)


def _get(name: str, fields: bytes, status: int = 400) -> Case:
    return Case(name, b"GET /zqxj HTTP/1.1\r\n" + fields + b"\r\n", status)


def _line(name: str, line: bytes, status: int = 400) -> Case:
    return Case(name, line + b"\r\n" + _FIELDS + b"\r\n", status)


def _fine(
    name: str,
    data: bytes,
    target: str = "/x",
    *,
    method: str = "GET",
    body: bytes = b"",
    is_kept: bool = True,
) -> Case:
    return Case(name, data, 200, ((method, target, body),), is_kept, method)


_CONTENT_LENGTHS = [
    b"+3",
    b"-3",
    b"",
    b"3, 3",
    b"3,4",
    b"0x3",
    b"3;",
    b"3.0",
    b"1e1",
    b'"3"',
    b"3 3",
    b"\xb3",
    b"9" * 30,
    b"18446744073709551619",
    b"abc",
]
_CODINGS = [
    b"xchunked",
    b"chunkedx",
    b"gzip",
    b"identity",
    b"gzip, chunked",
    b"chunked, gzip",
    b"chunked, identity",
    b"chunked, chunked",
    b"identity, chunked",
    b'"chunked"',
    b"\x0bchunked",
    b"chunked\x0c",
    b"",
    b",",
    b"chunked;q=1",
    b"chunked,",
    b", chunked",
    b"chu nked",
    b"chunke\xc4",
]
_CHUNKS = [
    b"-1\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    b"g\r\nabc\r\n0\r\n\r\n",
    b"\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n",
    b"3\t\r\nabc\r\n0\r\n\r\n",
    b"3_0\r\nabc\r\n0\r\n\r\n",
    b"3,3\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\rabc\r\n0\r\n\r\n",
    b"3;a\nabc\r\n0\r\n\r\n",
    b"3;a=\x00\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcX0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc\r\n0\n\r\n",
    b"0\r\nX-Evil: a\x00b\r\n\r\n",
    b"0\r\nX-Evil : a\r\n\r\n",
    b"0\r\nContent-Length: 9\r\n\r\n",
    b"0\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nX-Evil: a\n\r\n",
    # Whose size or number has no bound.
    b"FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
    b"8000000000000003\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n8000000000000003\r\nabc\r\n0\r\n\r\n",
]
_LONG_CHUNKS = {
    "extension": b"3;" + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n",
    "extensions": (b"1;" + b"a" * 4000 + b"\r\na\r\n") * 20 + b"0\r\n\r\n",
    "zeros": b"0" * 100_000 + b"3\r\nabc\r\n0\r\n\r\n",
    "trailers": b"3\r\nabc\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
}
_HEADERS = [
    b"Host: h\nX-A: b\r\n",
    b"Host: h\r\nX-A: a\rb\r\n",
    b"Host: h\r\nX-A: a\r\n b\r\n",
    b"Host: h\r\nX-A: a\r\n\tb\r\n",
    b"Host : h\r\n",
    b"Host: h\r\nX-A : b\r\n",
    b"Host: h\r\nX-A\t: b\r\n",
    b" Host: h\r\n",
    b"Host: h\r\nX-A: a\x00b\r\n",
    b"Host: h\r\nX-A: a\x01b\r\n",
    b"Host: h\r\nX-A: a\x1bb\r\n",
    b"Host: h\r\nX-A: a\x7fb\r\n",
    b"Host: h\r\n: b\r\n",
    b"Host: h\r\nX(A: b\r\n",
    b"Host: h\r\nX\x00A: b\r\n",
    b"Host: h\r\nX\xe9: b\r\n",
    b"Host: h\r\nX A: b\r\n",
    b"Host: h\r\nXA\r\n",
    b"Host: h\r\n\x85X-A: b\r\n",
    # Which request is meant?
    b"",
    b"Host: a\r\nHost: b\r\n",
    b"Host: a\r\nHost: a\r\n",
    b"Host: a b\r\n",
    b"Host: a@b\r\n",
    b"Host: a/b\r\n",
    b"Host: a?b\r\n",
    b"Host: a#b\r\n",
    b"Host: a\\b\r\n",
    b"Host: a:b\r\n",
    b"Host: a:1:2\r\n",
    b"Host: a:123456\r\n",
    b"Host: [::1\r\n",
    b"Host: ::1\r\n",
    b"Host: \xe9\r\n",
    b"Host: h:65536\r\n",
    b"Host: h,h\r\n",
    b"Host: :80\r\n",
    b"Host: [1::2::3]\r\n",
    b"Host: [::ffff:999.1.1.1]\r\n",
    b"Host: [::1]x\r\n",
    b"Host: http://h\r\n",
    b"Host: h\r\nTransfer_Encoding: chunked\r\n",
    b"Host: h\r\nContent_Length: 3\r\n",
    b"Host: h\r\nConnection: X-Auth-Token\r\nX-Auth-Token: zqxj\r\n",
    b"Host: h\r\nConnection: close, host\r\n",
    b"Host: h\r\nConnection: Content-Length\r\nContent-Length: 0\r\n",
]
_LINES = [
    (b"GET /zqxj HTTP/2.0", 505),
    (b"GET /zqxj HTTP/3.0", 505),
    (b"GET /zqxj HTTP/1.2", 505),
    (b"GET /zqxj HTTP/0.9", 505),
    (b"GET /zqxj HTTP/9.9", 505),
    (b"GET /zqxj HTTP/1.10", 400),
    (b"GET /zqxj HTTP/01.1", 400),
    (b"GET /zqxj HTTP/1,1", 400),
    (b"GET /zqxj HTTP/1", 400),
    (b"GET /zqxj HTTP/", 400),
    (b"GET /zqxj HTTP/+1.1", 400),
    (b"GET /zqxj http/1.1", 400),
    (b"GET /zqxj HTTPS/1.1", 400),
    (b"GET /zqxj ICE/1.0", 400),
    (b"GET /zqxj RTSP/1.0", 400),
    (b"GET /zqxj", 505),
    (b"GET\t/zqxj\tHTTP/1.1", 400),
    (b"GET /zqxj\tHTTP/1.1", 400),
    (b"GET /zqxj HTTP/1.1 ", 400),
    (b"GET /zqxj HTTP/1.1 x", 400),
    (b"GET /zq xj HTTP/1.1", 400),
    (b" GET /zqxj HTTP/1.1", 400),
    (b"GET", 400),
    (b"GET ", 400),
    (b"zqxj", 400),
    (b"HTTP/1.1 200 OK", 400),
    (b"GE(T /zqxj HTTP/1.1", 400),
    (b"G\x00T /zqxj HTTP/1.1", 400),
    (b"get /zqxj HTTP/1.1", 400),
    (b"ZQXJ /zqxj HTTP/1.1", 400),
    (b"CONNECT h:443 HTTP/1.1", 405),
    (b"CONNECT /zqxj HTTP/1.1", 405),
    (b"TRACE /zqxj HTTP/1.1", 405),
    (b"GET * HTTP/1.1", 400),
    (b"PUT * HTTP/1.1", 400),
    (b"OPTIONS *? HTTP/1.1", 400),
    (b"GET h:80 HTTP/1.1", 400),
    (b"GET zqxj HTTP/1.1", 400),
    (b"GET /zqxj# HTTP/1.1", 400),
    (b"GET /zqxj#y HTTP/1.1", 400),
    (b"GET /zqxj?a#y HTTP/1.1", 400),
    (b"GET /zqxj\xe9 HTTP/1.1", 400),
    (b"GET /zqxj\xc3\xa9 HTTP/1.1", 400),
    (b"GET /zqxj\x00 HTTP/1.1", 400),
    (b"GET /zqxj\x7f HTTP/1.1", 400),
    (b"GET http://z/zqxj HTTP/1.1", 400),
    (b"GET http://u@h/zqxj HTTP/1.1", 400),
    (b"GET http://h#y/zqxj HTTP/1.1", 400),
    (b"GET http://h:65536/zqxj HTTP/1.0", 400),
    (b"GET http://[::1]x/zqxj HTTP/1.0", 400),
    (b"GET http:///zqxj HTTP/1.1", 400),
    (b"GET ftp://h/zqxj HTTP/1.1", 400),
]
_OTHER = [
    Case("bare LF behind the request line", b"GET /zqxj HTTP/1.1\n" + _FIELDS + b"\r\n"),
    Case("bare LF at the end of the head", b"GET /zqxj HTTP/1.1\r\nHost: h\r\n\n"),
    Case("bare LF everywhere", b"GET /zqxj HTTP/1.1\nHost: h\n\n"),
    Case("bare CR at the end of the head", b"GET /zqxj HTTP/1.1\r\nHost: h\r\n\rX"),
    Case("bare CR behind the request line", b"GET /zqxj HTTP/1.1\rHost: h\r\n\r\n"),
    Case("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Case("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    Case("proxy protocol", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + _AFTER),
    Case("NUL bytes", b"\x00" * 20),
    *(
        Case(f"{start!r} before a request", start + b"GET /zqxj HTTP/1.1\r\nHost: h\r\n\r\n")
        for start in (b"\r", b"\n", b"\r\n\r", b"\r\n\n", b"\n\r\n")
    ),
    Case("coding over 1.0", b"POST /zqxj HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Case(
        "coding over 1.0 with length",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    _post("twice the same length", b"Content-Length: 3\r\nContent-Length: 3\r\n"),
    _post("two lengths", b"Content-Length: 3\r\nContent-Length: 4\r\n"),
    _post("length and coding", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    _post("coding and length", b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"0\r\n\r\n"),
    _post("coding twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    _post("coding in two fields", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    _post("folded coding", b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    _post("coding with a blank before the colon", b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    Case(
        "unknown expectation",
        b"POST /zqxj HTTP/1.1\r\nHost: h\r\nExpect: zqxj\r\nContent-Length: 0\r\n\r\n",
        417,
    ),
    Case("long target", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    _get("long value", b"Host: h\r\nX-A: " + b"a" * 70_000 + b"\r\n", 431),
    _get("long name", b"Host: h\r\nX-" + b"a" * 70_000 + b": b\r\n", 431),
    _get("many fields", b"Host: h\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(3000)), 431),
    _get("large head", b"Host: h\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 8000) for n in range(20)), 431),
]
_FINE = [
    _fine("blank lines first", b"\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n"),
    _fine("empty Host", b"GET /x HTTP/1.1\r\nHost: \r\n\r\n"),
    _fine("IPv6 Host", b"GET /x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
    _fine("absolute target", b"GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n"),
    _fine("absolute target, upper case", b"GET HTTP://H/x HTTP/1.1\r\nHost: h\r\n\r\n"),
    _fine("absolute target without path", b"GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", "/"),
    _fine("bytes beyond ASCII in a value", b"GET /x HTTP/1.1\r\nHost: h\r\nX-A: \xe9\xff\r\n\r\n"),
    _fine(
        "length with blanks around",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: \t3 \r\n\r\nabc",
        method="POST",
        body=b"abc",
    ),
    _fine(
        "length with zeros",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\n\r\nabc",
        method="POST",
        body=b"abc",
    ),
    _fine("1.0", b"GET /x HTTP/1.0\r\n\r\n", is_kept=False),
    _fine("1.0 with keep-alive", b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
    _fine(
        "1.0 with Expect",
        b"POST /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        method="POST",
        body=b"abc",
        is_kept=False,
    ),
    _fine(
        "Expect",
        b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\nabc",
        method="POST",
        body=b"abc",
    ),
    _fine("Expect without a body", b"GET /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"),
    _fine("upgrade", b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    _fine(
        "upgrade with a body",
        b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        method="POST",
        body=b"abc",
    ),
    _fine(
        "h2c",
        b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    ),
    _fine(
        "coding in capitals behind a tab",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\tCHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        method="POST",
        body=b"abc",
        is_kept=False,
    ),
    _fine(
        "chunk extensions",
        b'POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n',
        method="POST",
        body=b"abc",
        is_kept=False,
    ),
    _fine(
        "zeros before a chunk size",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n000\r\n\r\n",
        method="POST",
        body=b"abc",
        is_kept=False,
    ),
    _fine(
        "trailers",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTrailer: X-Evil\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nX-Evil: 1\r\nX-Auth-Token: zqxj\r\n\r\n",
        method="POST",
        body=b"abc",
        is_kept=False,
    ),
    _fine(
        "a request behind chunks",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _AFTER,
        method="POST",
        is_kept=False,
    ),
    _fine(
        "a request behind Connection: close",
        b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + _AFTER,
        is_kept=False,
    ),
]
_CASES = [
    *(
        _post(f"Content-Length {value!r}", b"Content-Length: " + value + b"\r\n")
        for value in _CONTENT_LENGTHS
    ),
    *(
        _post(f"coding {value!r}", b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n")
        for value in _CODINGS
    ),
    *(_chunks(f"chunks {rest!r}", rest) for rest in _CHUNKS),
    *(_chunks(f"long {name} of chunks", rest) for name, rest in _LONG_CHUNKS.items()),
    *(_get(f"fields {fields!r}", fields) for fields in _HEADERS),
    *(_line(f"line {line!r}", line, status) for line, status in _LINES),
    *_OTHER,
    *_FINE,
]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
async def test_a_raw_request_is_refused_or_forwarded_in_one_clean_form(
    aos: ScriptedAos, gateway: RunningGateway, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for way in WAYS:
        aos.received.clear()
        aos.heads.clear()
        async with await RawClient.connect(gateway.address) as client:
            await send_split(client, case.data, way)
            answer = await client.read_response(case.method, timeout_s=2)
            if case.status == 200:
                assert answer.body == b"from upstream"
            else:
                assert_refused(answer, case.status)
                assert _SECRET not in answer.raw_head + answer.body
            assert [(r.method, r.target, r.body) for r in aos.received] == list(case.upstream), way
            if case.is_kept:
                await client.send(_AFTER)
                assert (await client.read_response()).status == 200
                assert aos.received[-1].target == "/after"
                assert len(aos.heads) == 2
            else:
                assert await client.at_eof(3)
        for received in aos.heads:
            names = {name.lower() for name in received.names()}
            assert not names & {
                b"x-evil",
                b"upgrade",
                b"http2-settings",
                b"expect",
                b"trailer",
                b"connection",
            }
            assert received.trailers == []
        # What was refused in one piece never reached the upstream, not even in part.
        assert way != "whole" or len(aos.heads) == len(case.upstream) + case.is_kept
    lines = [record for record in caplog.records if record.name.partition(".")[0] in {"gateway", "aiohttp"}]
    assert len(lines) <= len(WAYS) * 2
    assert all(record.exc_info is None and len(record.getMessage()) < 1000 for record in lines)
    assert aos.violations == []


@pytest.mark.parametrize(
    "first",
    [
        b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /first HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /first HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /first HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\n"
        b"Upgrade: x\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
@pytest.mark.parametrize(
    ("second", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"\x00", 400),
        (b"GET  /second HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /second RTSP/1.0\r\n\r\n", 400),
        (b"GET /second HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),
        (b"GET /second HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET /second HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ],
)
async def test_bytes_behind_a_request_are_read_alone_and_after_it(
    aos: ScriptedAos, gateway: RunningGateway, first: bytes, second: bytes, status: int
) -> None:
    expected = ["/first", "/second"] if status == 200 else ["/first"]
    for way in WAYS:
        aos.heads.clear()
        async with await RawClient.connect(gateway.address) as client:
            await send_split(client, first + second, way)
            assert (await client.read_response()).status == 200
            answer = await client.read_response()
            assert answer.status == status
            if status != 200:
                assert_refused(answer, status)
                assert await client.at_eof(3)
        assert [received.target for received in aos.heads] == expected, way
    assert len(aos.received) == len(WAYS) * len(expected)


@pytest.mark.parametrize("way", WAYS)
async def test_a_trailer_reaches_neither_another_connection_nor_the_next_request(
    aos: ScriptedAos, gateway: RunningGateway, way: str
) -> None:
    chunked = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        await RawClient.connect(gateway.address) as client,
        await RawClient.connect(gateway.address) as other,
    ):
        await send_split(
            client, chunked + b"1\r\na\r\n0\r\nX-Auth-Token: zqxj\r\nX-Evil: 1\r\n\r\n" + _AFTER, way
        )
        assert (await client.read_response("POST")).get("connection") == b"close"
        await other.send(_AFTER)
        assert (await other.read_response()).status == 200
        assert await client.at_eof(3)
    assert [received.target for received in aos.received] == ["/x", "/after"]
    for received in aos.received:
        assert received.trailers == []
        assert received.get("x-auth-token") is None
        assert received.get("x-evil") is None


async def test_100_continue_comes_once(aos: ScriptedAos, gateway: RunningGateway) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(2):
            await client.send(head)
            await aos.wait_heads(len(aos.received) + 1)
            await client.send(b"abc")
            answer = await client.read_response("POST")
            assert [interim.raw_head for interim in answer.interim] == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert [received.body for received in aos.received] == [b"abc", b"abc"]


async def test_a_refused_request_that_expects_100_continue_gets_none(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    async with await RawClient.connect(gateway.address) as client:
        await client.send(
            b"POST /x#y HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        answer = await client.read_response("POST")
        assert (answer.status, answer.interim) == (400, ())
        assert await client.at_eof(3)
    assert aos.heads == []


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"A /x HTTP/1.1", 400),
        (b"GET /x HTTP/3.0", 505),
        (b"GET /x HTTP/9.9", 505),
        (b"GET /x HTTP/1.10", 400),
    ],
)
async def test_a_request_line_has_one_status_however_it_is_cut(
    gateway: RunningGateway, line: bytes, status: int
) -> None:
    data = line + b"\r\n" + _HOST + b"\r\n"
    for end in range(1, len(line) + 3):
        async with await RawClient.connect(gateway.address) as client:
            await client.send(data[:end])
            # A turn for its parts to be read apart.
            for _ in range(4):
                await asyncio.sleep(0)
            await client.send(data[end:])
            assert ((await client.read_response()).status, end) == (status, end)


async def test_every_byte_in_every_place_of_a_head_is_refused_or_carried_exactly(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    token = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
    wanted = 0
    for number in range(256):
        byte = bytes([number])
        if byte == b":":
            continue  # ends a name wherever it stands
        places = {
            b"GET /a" + byte + b"b HTTP/1.1\r\n" + _HOST + b"\r\n": b"!" <= byte <= b"~" and byte != b"#",
            b"GET /a?" + byte + b" HTTP/1.1\r\n" + _HOST + b"\r\n": b"!" <= byte <= b"~" and byte != b"#",
            b"GET /a HTTP/1.1\r\n" + _HOST + b"A: b" + byte + b"c\r\n\r\n": byte == b"\t"
            or (byte >= b" " and byte != b"\x7f"),
            b"GET /a HTTP/1.1\r\n" + _HOST + b"A" + byte + b"c: d\r\n\r\n": bool(token.match(byte)),
        }
        for data, is_carried in places.items():
            async with await RawClient.connect(gateway.address) as client:
                await client.send(data)
                answer = await client.read_response()
            assert (answer.status, data) == (200 if is_carried else 400, data)
            if is_carried:
                wanted += 1
                got = aos.received[-1]
                kept = [line for line in data.split(b"\r\n")[2:] if line]
                assert got.target == data.split(b" ")[1].decode()
                assert all(line in got.raw_head.split(b"\r\n") for line in kept)
    assert len(aos.received) == wanted
