"""Which fields travel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.http.fields import (
    HOP_BY_HOP,
    accepts_gzip,
    end_to_end,
    kept_fields,
    nominated,
    not_modified_fields,
)
from tests.core.kit import BOUNDED, names, texts


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_field_never_crosses(name: bytes) -> None:
    field = (name.title(), b"x")
    assert end_to_end((field, (b"A", b"b"))) == ((b"A", b"b"),)
    assert kept_fields((field,)) == ()


@BOUNDED
@given(st.lists(st.tuples(st.one_of(names, st.sampled_from(sorted(HOP_BY_HOP))), st.one_of(texts, names))))
def test_neither_hop_by_hop_fields_nor_nominated_ones_cross_and_the_rest_keeps_its_order(
    lines: list[tuple[bytes, bytes]],
) -> None:
    fields = (*lines, (b"Connection", b"close, " + b",".join(value for _, value in lines[:2])))
    gone = HOP_BY_HOP | nominated(fields)
    crossed = end_to_end(fields)
    assert not {name.lower() for name, _ in crossed} & gone
    assert list(crossed) == [field for field in fields if field[0].lower() not in gone]


def test_connection_names_further_fields_that_stay_behind() -> None:
    fields = ((b"Connection", b"close, X-One"), (b"connection", b"x-two"), (b"x-ONE", b"1"), (b"X-Two", b"2"))
    assert nominated(fields) == {b"close", b"x-one", b"x-two"}
    assert end_to_end(fields) == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"x-gzip", True),
        (b"deflate, gzip", True),
        (b"*", True),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"*;q=0, gzip", True),
        (b"gzip;q=0.000", False),
        (b"gzip; Q=0.", False),
        (b"gzip;q=0.001", True),
        (b"gzip ;q=1", True),
        (b"identity", False),
        (b"gzipped", False),
    ],
)
def test_gzip_is_accepted_by_name_or_wildcard_unless_weighted_zero(value: bytes, expected: bool) -> None:
    assert accepts_gzip(((b"Accept-Encoding", value),)) is expected


@pytest.mark.parametrize(
    "name",
    [
        b"X-Request-Id",
        b"traceparent",
        b"tracestate",
        b"X-B3-TraceId",
        b"Server-Timing",
        b"Retry-After",
        b"RateLimit",
        b"RateLimit-Remaining",
        b"X-RateLimit-Limit",
        b"Proxy-Status",
        b"Via",
        b"Age",
        b"Connection",
    ],
)
def test_an_entry_keeps_nothing_of_a_single_exchange(name: bytes) -> None:
    assert kept_fields(((b"A", b"1"), (name, b"x"), (b"a", b"2"))) == ((b"A", b"1"), (b"a", b"2"))


def test_an_entry_keeps_names_order_and_repeats() -> None:
    fields = ((b"Date", b"d"), (b"x-Own", b"1"), (b"ETag", b'"e"'), (b"X-OWN", b"1"))
    assert kept_fields(fields) == fields


def test_a_304_repeats_what_validates_and_nothing_of_the_body() -> None:
    repeated = (
        (b"Date", b"d"),
        (b"ETag", b'"e"'),
        (b"Age", b"1"),
        (b"Cache-Control", b"max-age=1"),
        (b"cache-control", b"public"),
        (b"CDN-Cache-Control", b"max-age=1"),
        (b"Content-Location", b"/x"),
        (b"Expires", b"d"),
        (b"Vary", b"Accept"),
    )
    others = ((b"Content-Type", b"a/b"), (b"Content-Length", b"1"), (b"Content-Encoding", b"gzip"))
    assert not_modified_fields(others + repeated) == repeated
