"""First lines and whole heads, byte for byte."""

import pytest

from gateway.core.http.fields import MessageError
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
def test_any_other_line_is_refused(line: bytes, status: int) -> None:
    with pytest.raises(MessageError) as refused:
        check_line(line)
    assert refused.value.status == status
