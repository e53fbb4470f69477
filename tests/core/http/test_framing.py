"""How heads are put on the wire."""

import pytest

from gateway.core.http.framing import (
    BodyFraming,
    has_body,
    head_bytes,
    request_bytes,
    whole_response,
    wire_head,
)
from gateway.core.http.messages import Fields, Head, wire_lines

LENGTH = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("GET", 200, True),
        ("GET", 404, True),
        ("HEAD", 200, False),
        ("GET", 204, False),
        ("GET", 304, False),
        ("DELETE", 200, True),
    ],
)
def test_an_answer_to_head_and_204_and_304_have_no_body(method: str, status: int, expected: bool) -> None:
    assert has_body(method, status) is expected


@pytest.mark.parametrize(
    ("call", "fields", "body_bytes", "added", "framing"),
    [
        (("GET", 200), (LENGTH,), None, b"", BodyFraming.LENGTH),
        (("GET", 200), (), 5, b"Content-Length: 5\r\n", BodyFraming.LENGTH),
        (("GET", 200), (), 0, b"Content-Length: 0\r\n", BodyFraming.LENGTH),
        (("GET", 200), (), None, b"Transfer-Encoding: chunked\r\n", BodyFraming.CHUNKED),
        (("HEAD", 200), (), None, b"", BodyFraming.NONE),
        (("HEAD", 200), (LENGTH,), None, b"", BodyFraming.NONE),
        (("GET", 304), (), 5, b"", BodyFraming.NONE),
        (("DELETE", 204), (), None, b"", BodyFraming.NONE),
    ],
)
def test_a_body_is_framed_by_what_is_known_of_it(
    call: tuple[str, int],
    fields: Fields,
    body_bytes: int | None,
    added: bytes,
    framing: BodyFraming,
) -> None:
    method, status = call
    head = Head(status, b"Reason", fields)
    data, framed, keep_alive = wire_head(
        head, method=method, body_bytes=body_bytes, http_11=True, keep_alive=True
    )
    own = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    assert data == b"HTTP/1.1 %d Reason\r\n" % status + own + added + b"\r\n"
    assert framed is framing
    assert keep_alive


@pytest.mark.parametrize(("fields", "body_bytes"), [((LENGTH,), None), ((), 5)])
def test_http_10_needs_keep_alive_written_out(fields: Fields, body_bytes: int | None) -> None:
    head = Head(200, b"OK", fields)
    data, framed, keep_alive = wire_head(
        head, method="GET", body_bytes=body_bytes, http_11=False, keep_alive=True
    )
    assert data == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"
    assert framed is BodyFraming.LENGTH
    assert keep_alive


def test_a_stream_to_http_10_ends_with_the_connection() -> None:
    data, framed, keep_alive = wire_head(
        Head(200, b"OK", ()), method="GET", body_bytes=None, http_11=False, keep_alive=True
    )
    assert data == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    assert framed is BodyFraming.CLOSE
    assert not keep_alive


def test_a_connection_that_ends_says_so() -> None:
    data, _, keep_alive = wire_head(
        Head(200, b"", ()), method="GET", body_bytes=0, http_11=True, keep_alive=False
    )
    assert data == b"HTTP/1.1 200 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert not keep_alive


def test_names_order_repeats_and_bytes_are_kept() -> None:
    fields = ((b"x-B", b"\xe9"), (b"X-A", b""), (b"X-b", b"2"), LENGTH)
    data, _, _ = wire_head(
        Head(418, b"\xe4", fields), method="GET", body_bytes=None, http_11=True, keep_alive=True
    )
    assert data == b"HTTP/1.1 418 \xe4\r\nx-B: \xe9\r\nX-A: \r\nX-b: 2\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "body_bytes", "tail"),
    [
        ((), 0, b""),
        ((LENGTH,), 5, b"Content-Length: 5\r\n"),
        ((), None, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_a_request_head_is_target_and_fields_byte_for_byte(
    fields: Fields, body_bytes: int | None, tail: bytes
) -> None:
    data = request_bytes("PUT", b"/a%2F?", wire_lines(((b"Host", b"h"), *fields)), body_bytes)
    assert data == b"PUT /a%2F? HTTP/1.1\r\nHost: h\r\n" + tail + b"\r\n"


def test_the_size_of_a_request_head_is_known() -> None:
    fields = ((b"Host", b"h"), (b"X-A", b""))
    assert head_bytes("GET", b"/a", fields) == len(request_bytes("GET", b"/a", wire_lines(fields), 0))


@pytest.mark.parametrize("status", [200, 204, 304, 503])
@pytest.mark.parametrize("fields", [(), ((b"Content-Length", b"4"),), ((b"ETag", b'"x"'),)])
def test_a_whole_response_is_framed_like_others(status: int, fields: Fields) -> None:
    head = Head(status, b"Reason", fields)
    lines, framing, _ = wire_head(head, method="GET", body_bytes=4, http_11=True, keep_alive=True)
    body = b"" if framing is BodyFraming.NONE else b"body"
    assert whole_response(head, b"body") == lines + body
