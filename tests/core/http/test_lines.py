"""First lines and whole heads, byte for byte."""

import pytest

from gateway.core.http.errors import MessageError
from gateway.core.http.fields import is_sound_head, response_defect
from gateway.core.http.messages import Fields, Head
from gateway.core.http.request import check_line


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/1.1\r", b"POST /a?b HTTP/1.0\r", b"GET http://h/ HTTP/1.1\r", b"OPTIONS * HTTP/1.1\r"],
)
def test_a_request_line_of_http_1_passes(line: bytes) -> None:
    check_line(line)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/2.0\r", 505),
        (b"GET / HTTP/1.2\r", 505),
        (b"GET / HTTP/0.9\r", 505),
        (b"PRI * HTTP/2.0\r", 505),
        (b"GET /\r", 505),
        (b"GET / RTSP/1.0\r", 400),
        (b"GET  / HTTP/1.1\r", 400),
        (b"GET /  HTTP/1.1\r", 400),
        (b"GET / HTTP/1.1 \r", 400),
        (b"GET / HTTP/1.10\r", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET /\x00 HTTP/1.1\r", 400),
        (b"GET\t/ HTTP/1.1\r", 400),
        (b"GET x\r", 400),
        (b"\r", 400),
    ],
)
def test_any_other_line_is_rejected(line: bytes, status: int) -> None:
    with pytest.raises(MessageError) as raised:
        check_line(line)
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("raw", "is_sound"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 404\r\nA: b\r\nc:\r\n\r\n", True),
        (b"HTTP/1.1 200 caf\xe9\r\nA: \xff\tb\r\n\r\n", True),
        (b"HTTP/2.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 200OK\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n", False),
    ],
)
def test_a_response_head_is_sound_when_it_reads_in_one_way_only(raw: bytes, is_sound: bool) -> None:
    assert is_sound_head(raw) is is_sound


@pytest.mark.parametrize(
    ("fields", "defect"),
    [
        ((), None),
        (((b"Content-Length", b"0"),), None),
        (((b"Content-Length", b"3"),), "http_protocol_error"),
        (((b"Transfer-Encoding", b"chunked"),), "http_protocol_error"),
    ],
)
def test_a_204_that_announces_a_body_is_unusable(fields: Fields, defect: str | None) -> None:
    assert response_defect(Head(204, b"No Content", fields)) == defect
