"""How the open-loop generator reads responses and what it makes of Cache-Status."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openloop.response import MalformedError, Response, ResponseReader, outcome_of

WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n"
    ),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "bodiless": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    "last": b"HTTP/1.1 503 No\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello",
}


@given(name=st.sampled_from(sorted(WHOLE)), cuts=st.sets(st.integers(1, 120)))
def test_a_response_reads_the_same_however_it_is_cut(name: str, cuts: set[int]) -> None:
    data = WHOLE[name]
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader = ResponseReader(keeps_body=True)
    responses = [reader.feed(data[start:end]) for start, end in pairwise(edges)]
    assert responses[:-1] == [None] * (len(responses) - 1)
    response = responses[-1]
    assert response is not None
    assert response.status == {"bodiless": 304, "last": 503}.get(name, 200)
    assert response.body == (b"" if name in {"empty", "bodiless"} else b"hello")
    assert response.is_last == (name == "last")
    assert not reader.has_begun


def test_a_response_without_a_length_ends_with_its_connection() -> None:
    reader = ResponseReader(keeps_body=True)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    response = reader.end()
    assert isinstance(response, Response)
    assert (response.body, response.is_last) == (b"hello", True)


def test_a_response_cut_short_is_none() -> None:
    for data in (b"HTTP/1.1 200 OK\r\n", WHOLE["length"][:-1], WHOLE["chunked"][:-2]):
        reader = ResponseReader(keeps_body=False)
        assert reader.feed(data) is None
        assert reader.end() is None
        assert reader.has_begun


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        WHOLE["length"] + b"x",
        WHOLE["chunked"] + b"x",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 300_000,
    ],
)
def test_what_is_no_response_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        ResponseReader(keeps_body=False).feed(data)


@pytest.mark.parametrize(
    ("value", "outcome", "is_collapsed"),
    [
        (b"", "none", False),
        (b"aos-gateway; hit; ttl=10", "hit", False),
        (b"origin; hit, aos-gateway; fwd=uri-miss; stored", "miss", False),
        (b"aos-gateway; fwd=uri-miss; collapsed", "miss", True),
        (b"aos-gateway; fwd=method", "bypass", False),
        (b"aos-gateway; hit; ttl=1, outer; fwd=bypass", "hit", False),
        (b"inner; fwd=miss, other; hit", "hit", False),
        (b"aos-gateway; fwd=request; detail=request-no-cache", "miss", False),
    ],
)
def test_the_gateways_own_member_of_cache_status_counts(
    value: bytes, outcome: str, is_collapsed: bool
) -> None:
    assert outcome_of(value) == (outcome, is_collapsed)
