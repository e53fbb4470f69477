"""The framing of a chunked body."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.chunked import MAX_TRAILERS, ChunkedFraming

_EXTRA_BYTES = 1_000

_SOUND = [
    b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"00003\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\n",
    b'a;x="y;z" ; q\r\n0123456789\r\n0;end\r\n\r\n',
    b"3 ;x\r\nabc\r\n0\r\nX-Check: 1\r\ny:\r\n\r\n",
    b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
    b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
    b"3;" + b"a" * 900 + b"\r\nabc\r\n0\r\nA: " + b"a" * 90 + b"\r\n\r\n",
    b"1\r\na\r\n" * 100 + b"0\r\n" + b"A:\r\n" * 100 + b"\r\n",
]
_BROKEN = [
    b"\r\n",
    b"\n",
    b"zz\r\n",
    b"-3\r\n",
    b"+3\r\n",
    b"0x3\r\n",
    b" 3\r\n",
    b"3 \r\n",
    b"3\n",
    b"3\r\r\n",
    b"1_0\r\n",
    b"3;\x00\r\n",
    b"10000000000000003\r\n",
    b"3\r\nabcd\r\n",
    b"3\r\nabc\n",
    b"3\r\nabc0\r\n",
    b"0\r\n\n",
    b"0\r\n X: folded\r\n",
    b"0\r\nno field\r\n",
    b"0\r\nA : b\r\n",
    b"0\r\nA: b\n",
    b"0\r\nA: \x00\r\n",
    b"0\r\nContent-Length: 3\r\n",
    b"0\r\nA: b\r\ntransfer-encoding: chunked\r\n",
    b"8000000000000000\r\n",
    b"8000000000000003;a\r\nabc\r\n",
    b"FFFFFFFFFFFFFFFF\r\n",
    b"00000000000000003\r\nabc\r\n",
    b"1;" + b"x" * _EXTRA_BYTES + b"xxxxxxxxxxxxxxxxxx",
    b"0" * 1_100,
    (b"1;" + b"a" * 400 + b"\r\na\r\n") * 3,
    b"0\r\nA: " + b"a" * 1_100,
    b"0\r\n" + b"X: yyyyyyyy\r\n" * 100,
    b"3;" + b"a" * 600 + b"\r\nabc\r\n0\r\nA: " + b"a" * 600,
]


def _fed(pieces: list[bytes]) -> tuple[ChunkedFraming, int | None]:
    framing = ChunkedFraming(_EXTRA_BYTES)
    total = 0
    for piece in pieces:
        taken = framing.feed(piece)
        if taken is None:
            return framing, None
        total += taken
    return framing, total


def _cut(data: bytes, cuts: set[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@given(st.sampled_from(_SOUND), st.sets(st.integers(min_value=0)))
def test_a_body_ends_where_it_ends_however_it_arrives(data: bytes, cuts: set[int]) -> None:
    framing, taken = _fed(_cut(data, cuts))
    assert taken == len(data)
    assert framing.is_complete


@given(st.sampled_from(_SOUND), st.binary(min_size=1, max_size=9), st.sets(st.integers(min_value=0)))
def test_what_follows_a_body_is_none_of_it(data: bytes, more: bytes, cuts: set[int]) -> None:
    framing, taken = _fed(_cut(data + more, cuts))
    assert taken == len(data)
    assert framing.is_complete


@pytest.mark.parametrize("data", _SOUND)
def test_a_part_is_not_the_whole(data: bytes) -> None:
    for size in range(len(data)):
        framing, taken = _fed([data[:size]])
        assert taken == size
        assert not framing.is_complete


@given(st.sampled_from(_BROKEN), st.sets(st.integers(min_value=0), max_size=5))
def test_ambiguous_framing_is_rejected(data: bytes, cuts: set[int]) -> None:
    assert _fed(_cut(data, cuts))[1] is None


def test_too_many_trailers_are_rejected() -> None:
    framing = ChunkedFraming()
    assert framing.feed(b"0\r\n" + b"A:\r\n" * MAX_TRAILERS) is not None
    assert framing.feed(b"A:\r\n") is None
