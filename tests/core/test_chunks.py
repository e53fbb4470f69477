"""What chunks may cost beside their data."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.chunks import ChunkBounds
from gateway.core.headers import Refusal
from gateway.core.incoming import MAX_FIELDS

from .kit import BOUNDED

_MAX_BYTES = 1000
_END = b"0\r\n\r\n"


def _take(data: bytes, cuts: tuple[int, ...] = ()) -> None:
    bounds = ChunkBounds(_MAX_BYTES)
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        bounds.take(data[start:end])


def _bytewise(data: bytes) -> None:
    _take(data, tuple(range(1, len(data))))


_FINE = [
    b"3\r\nabc\r\n" + _END,
    b"00000003\r\nabc\r\n" + _END,
    b"A\r\n0123456789\r\n" + _END,
    b"3;name=value\r\nabc\r\n" + _END,
    b"3;" + b"a" * 900 + b"\r\nabc\r\n" + _END,
    b"1\r\na\r\n" * 5000 + _END,
    b"7\r\n0\r\n\r\n\r\n\r\n" + _END,
    b"0\r\nA: " + b"a" * 900 + b"\r\n\r\n",
    b"0\r\n" + b"A:\r\n" * 200 + b"\r\n",
    b"7fffffffffffffff\r\nabc",
]
_TOO_MUCH = [
    b"8000000000000000\r\n",
    b"FFFFFFFFFFFFFFFF\r\n",
    b"8000000000000003;a\r\nabc\r\n",
    b"10000000000000003\r\nabc\r\n",
    b"00000000000000003\r\nabc\r\n",
    b"3;" + b"a" * 1100,
    b"0" * 1100,
    b"1;" + b"a" * 400 + b"\r\na\r\n" + b"1;" + b"a" * 400 + b"\r\na\r\n" + b"1;" + b"a" * 400,
    b"0\r\nA: " + b"a" * 1100,
    b"0\r\n" + b"A:\r\n" * 300,
    b"3;" + b"a" * 600 + b"\r\nabc\r\n0\r\nA: " + b"a" * 600,
]


@pytest.mark.parametrize("data", _FINE)
def test_chunks_within_bounds_are_taken(data: bytes) -> None:
    _take(data)
    _bytewise(data)


@pytest.mark.parametrize("data", _TOO_MUCH)
def test_a_chunk_too_large_and_extensions_and_trailers_without_end_are_refused(data: bytes) -> None:
    for take in (_take, _bytewise):
        with pytest.raises(Refusal) as refused:
            take(data)
        assert refused.value.status == 400


def test_more_trailers_than_anybody_needs_are_refused() -> None:
    bounds = ChunkBounds(1 << 20)
    bounds.take(b"0\r\n" + b"A:\r\n" * MAX_FIELDS)
    with pytest.raises(Refusal):
        bounds.take(b"A:\r\n")


@pytest.mark.parametrize("size", [b"", b"xyz", b"-3", b"\xff", b"3_"])
def test_a_size_that_is_none_is_left_to_the_parser(size: bytes) -> None:
    _take(size + b"\r\nabc\r\n")


@BOUNDED
@given(
    st.sampled_from(_FINE[:5] + _TOO_MUCH[:5]) | st.binary(max_size=40),
    st.sets(st.integers(1, 60), max_size=8),
)
def test_the_verdict_does_not_depend_on_how_the_bytes_are_cut(data: bytes, cuts: set[int]) -> None:
    verdicts = []
    for chosen in ((), tuple(cut for cut in cuts if cut < len(data))):
        try:
            _take(data, chosen)
        except Refusal:
            verdicts.append(False)
        else:
            verdicts.append(True)
    assert verdicts[0] == verdicts[1]
