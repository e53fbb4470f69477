"""A request head while it comes, cut anywhere."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.errors import MessageError
from gateway.core.http.request import MAX_FIELDS
from gateway.core.http.request_head import RequestHead
from tests.core.kit import BOUNDED

MAX_BYTES = 40
GET = b"GET / HTTP/1.1\r\n"


def decided(data: bytes, cuts: list[int]) -> int | bytes | None:
    """The status with which a head, cut into pieces, is rejected; the head when it is complete."""
    head = RequestHead(MAX_BYTES)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in itertools.pairwise(places):
            taken = head.take(data[:end], start)
            if head.is_whole:
                return head.data() + b"|" + data[taken:]
    except MessageError as error:
        return error.status
    return None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET + b"A: b\r\n\r\nmore", GET + b"A: b\r\n\r\n|more"),
        (b"\r\n\r\n" + GET + b"\r\n", GET + b"\r\n|"),
        (GET + b"A: b\r\n", None),
        (b"\r\n\r\n", None),
        (b"\r\n\r", None),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"\n" + GET, 400),
        (b"\r" + GET, 400),
        (b"\r\n\r" + GET, 400),
        (b"GET / HTTP/1.1\n", 400),
        (GET + b"A: b\n", 400),
        (GET + b"A: b\rC", 400),
        (GET + b"A: b\x00", 400),
        (b"\x16\x03\x01", 400),
        (b"GET /" + b"x" * MAX_BYTES + b" HTTP/9\r\n", 414),
        (GET + b"A: " + b"b" * MAX_BYTES, 431),
        (b"\r\n" * MAX_BYTES, 414),
    ],
)
@BOUNDED
@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_the_result_does_not_depend_on_where_a_head_is_cut(
    data: bytes, expected: int | bytes | None, cuts: list[int]
) -> None:
    got = decided(data, cuts)
    assert (got.partition(b"|")[0] if isinstance(got, bytes) else got) == (
        expected.partition(b"|")[0] if isinstance(expected, bytes) else expected
    )
    if not cuts:
        assert got == expected


def test_the_next_request_has_a_head_of_its_own() -> None:
    head = RequestHead(MAX_BYTES)
    data = GET + b"\r\n" + b"not a line\r\n"
    end = head.take(data, 0)
    assert (head.is_whole, head.size, head.data()) == (True, end, GET + b"\r\n")
    head.begin()
    assert (head.is_whole, head.size, head.data()) == (False, 0, b"")
    with pytest.raises(MessageError):
        head.take(data, end)


@pytest.mark.parametrize("step", [1, 5, 100_000])
@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["unfinished", "whole"])
def test_too_many_fields_are_rejected_while_they_arrive(step: int, end: bytes) -> None:
    def took(fields: int) -> int:
        head = RequestHead(100_000)
        data = GET + b"a:\r\n" * fields + end
        for start in range(0, len(data), step):
            head.take(data[: start + step], start)
        return head.size

    assert took(MAX_FIELDS) == len(GET) + MAX_FIELDS * 4 + len(end)
    with pytest.raises(MessageError) as raised:
        took(MAX_FIELDS + 2)
    assert raised.value.status == 431


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\r\nGET /a?b HTTP/1.1\r\nA", (b"GET", b"/a?b")),
        (b"GET /a", (b"", b"")),
        (b"GET /a HTTP/2.0\r\n", (b"", b"")),
        (b"GET  /a HTTP/1.1\r\n", (b"", b"")),
    ],
)
def test_method_and_target_are_those_of_a_complete_valid_line(
    data: bytes, expected: tuple[bytes, bytes]
) -> None:
    head = RequestHead(MAX_BYTES)
    with contextlib.suppress(MessageError):
        head.take(data, 0)
    assert head.method_and_target() == expected
