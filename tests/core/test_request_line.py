"""The request line while it comes, cut anywhere."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.headers import Refusal
from gateway.core.request_line import RequestLine

from .kit import BOUNDED

MAX_BYTES = 40


def judged(data: bytes, cuts: list[int]) -> int | None:
    """The status with which a head, cut at some places, is refused for its first line."""
    line = RequestLine(MAX_BYTES)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    try:
        for start, end in itertools.pairwise(places):
            line.take(data[start:end])
    except Refusal as refusal:
        return refusal.status
    return None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n", None),
        (b"\r\n\r\nGET / HTTP/1.1\r\n", None),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"\nGET / HTTP/1.1\r\n", 400),
        (b"\rGET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        # The bound of the whole head refuses it.
        (b"GET /" + b"x" * MAX_BYTES + b" HTTP/9\r\n", None),
    ],
)
@BOUNDED
@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_a_line_is_judged_alike_however_it_is_cut(data: bytes, status: int | None, cuts: list[int]) -> None:
    assert judged(data, cuts) == status


def test_the_next_request_has_a_line_of_its_own() -> None:
    line = RequestLine(MAX_BYTES)
    line.take(b"GET / HTTP/1.1\r\n")
    assert line.is_complete
    assert line.refusal() is None
    line.take(b"not a line\r\n")
    line.begin()
    assert not line.is_complete
    with pytest.raises(Refusal):
        line.take(b"not a line\r\n")


@pytest.mark.parametrize(("begun", "status"), [(b"GET / HTTP/3", 505), (b"G@T", 400)])
def test_a_line_refused_in_its_middle_says_why(begun: bytes, status: int) -> None:
    line = RequestLine(MAX_BYTES)
    line.take(begun)
    refusal = line.refusal()
    assert refusal is not None
    assert refusal.status == status


def test_too_much_is_the_fault_of_what_came_last() -> None:
    line = RequestLine(MAX_BYTES)
    line.take(b"GET /xxxx")
    assert line.too_large().status == 414
    line.take(b" HTTP/1.1\r\nA: b")
    assert line.too_large().status == 431


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"GET /a?b HTTP/1.1\r\nA", (b"GET", b"/a?b")),
        (b"GET /a", (b"", b"")),
        (b"GET /a HTTP/2.0\r\n", (b"", b"")),
        (b"GET  /a HTTP/1.1\r\n", (b"", b"")),
    ],
)
def test_method_and_target_are_told_of_a_whole_and_sound_line_alone(
    data: bytes, told: tuple[bytes, bytes]
) -> None:
    line = RequestLine(MAX_BYTES)
    with contextlib.suppress(Refusal):
        line.take(data)
    assert line.told() == told
