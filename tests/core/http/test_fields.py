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
    response_defect,
)
from gateway.core.http.messages import Head
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
    "head",
    [
        Head(200, b"OK", ()),
        Head(200, b"", ((b"X-Any", b"caf\xe9\t"),)),
        Head(599, b"Own words", ((b"Content-Length", b"0"),)),
        Head(404, b"\xe4", ((b"Transfer-Encoding", b"Chunked"),)),
    ],
)
def test_a_sound_head_has_no_defect(head: Head) -> None:
    assert response_defect(head) is None


@pytest.mark.parametrize(
    "head",
    [
        Head(101, b"", ()),
        Head(199, b"", ()),
        Head(600, b"", ()),
        Head(200, b"a\nb", ()),
        Head(200, b"", ((b"", b"x"),)),
        Head(200, b"", ((b"X Y", b"x"),)),
        Head(200, b"", ((b"X\xe4", b"x"),)),
        Head(200, b"", ((b"X", b"a\rb"),)),
        Head(200, b"", ((b"X", b"\x00"),)),
        Head(200, b"", ((b"X", b"\x7f"),)),
        Head(200, b"", ((b"Content-Length", b"-1"),)),
        Head(200, b"", ((b"Content-Length", b""),)),
        Head(200, b"", ((b"Content-Length", b"1, 1"),)),
        Head(200, b"", ((b"Content-Length", b"1"), (b"Content-Length", b"1"))),
        Head(200, b"", ((b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked"))),
        Head(200, b"", ((b"Content-Length", b"1"), (b"Transfer-Encoding", b""))),
    ],
)
def test_what_cannot_be_carried_exactly_is_a_protocol_error(head: Head) -> None:
    assert response_defect(head) == "http_protocol_error"


@pytest.mark.parametrize("codings", [[b"gzip"], [b"gzip, chunked"], [b""], [b"chunked", b"chunked"]])
def test_a_transfer_coding_other_than_chunked_is_a_defect(codings: list[bytes]) -> None:
    head = Head(200, b"OK", tuple((b"Transfer-Encoding", coding) for coding in codings))
    assert response_defect(head) == "http_response_transfer_coding"


def test_http_10_has_no_transfer_coding() -> None:
    head = Head(200, b"OK", ((b"Transfer-Encoding", b"chunked"),))
    assert response_defect(head, http_10=True) == "http_protocol_error"


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
