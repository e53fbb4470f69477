"""A 429 that is kept: what of it, and to whom it is repeated."""

import gzip

import pytest

from gateway.core.caching.cache_status import CacheStatus, Reason
from gateway.core.caching.eligibility import Eligible, eligibility
from gateway.core.caching.identity import IdentityReader
from gateway.core.caching.throttled_response import (
    LONGEST_BODY_BYTES,
    ThrottledResponse,
    readable_body,
    throttled_response,
)
from gateway.core.http.messages import Field, Head
from tests.core.kit import TOKEN, request

_READER = IdentityReader((b"cookie",), b"", shared=False)
_COVERED = frozenset(_READER.names)
_BODY = b'{"error_code": "APIGW.0308"}'


def _eligible(*fields: Field) -> Eligible:
    found = eligibility(request((TOKEN, b"t0ken"), *fields), _READER)
    assert isinstance(found, Eligible)
    return found


def _kept(
    *fields: Field, body: bytes | None = _BODY, asked: tuple[Field, ...] = ()
) -> ThrottledResponse | None:
    return throttled_response(Head(429, b"Slow Down", fields), body, _eligible(*asked), _COVERED)


def test_its_head_is_repeated_as_it_came_with_the_time_that_is_left() -> None:
    kept = _kept(
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"1"),
        (b"Via", b"1.1 apigw"),
        (b"retry-after", b"30"),
        (b"X-Request-Id", b"of-aos"),
        (b"Cache-Status", b"apigw; fwd=miss"),
    )
    assert kept is not None
    assert kept.repeated(17, b"1.1 aos-gateway (0)", CacheStatus(reason=Reason.HELD_BACK)) == Head(
        429,
        b"Slow Down",
        (
            (b"Via", b"1.1 apigw"),
            (b"X-Request-Id", b"of-aos"),
            (b"Cache-Status", b"apigw; fwd=miss"),
            (b"Retry-After", b"17"),
            (b"Via", b"1.1 aos-gateway (0)"),
            (b"Cache-Status", b"aos-gateway; detail=held-back"),
        ),
    )


_GZIP, _CODED = (b"Accept-Encoding", b"gzip"), (b"Content-Encoding", b"gzip")
_CHINESE = (b"X-Language", b"zh-cn")


@pytest.mark.parametrize(
    ("fields", "body", "method", "asked", "suits"),
    [
        ([], _BODY, "GET", [], True),
        ([], _BODY, "HEAD", [], True),
        # Nothing was negotiated: whatever the next request accepts.
        ([], _BODY, "GET", [_GZIP, _CHINESE], True),
        ([_CODED], _BODY, "GET", [], True),
        ([_CODED], _BODY, "GET", [_GZIP], False),
        ([(b"Vary", b"X-Language")], _BODY, "GET", [_CHINESE], False),
        ([(b"Vary", b"X-Language")], _BODY, "GET", [], True),
        # Without a body it answers a HEAD.
        ([], None, "GET", [], False),
        ([], None, "HEAD", [], True),
        ([], b"x" * LONGEST_BODY_BYTES, "GET", [], True),
        ([], b"x" * (LONGEST_BODY_BYTES + 1), "GET", [], False),
        ([], b"x" * (LONGEST_BODY_BYTES + 1), "HEAD", [], True),
    ],
)
def test_it_is_repeated_to_what_it_answers(
    fields: list[Field], body: bytes | None, method: str, asked: list[Field], suits: bool
) -> None:
    kept = _kept(*fields, body=body)
    assert kept is not None
    assert kept.suits(method, _eligible(*asked).variant) == suits


def test_a_coded_one_is_repeated_to_who_accepts_the_coding() -> None:
    kept = _kept(_CODED, asked=(_GZIP,))
    assert kept is not None
    assert kept.suits("GET", _eligible(_GZIP).variant)
    assert not kept.suits("GET", _eligible().variant)


@pytest.mark.parametrize(
    ("vary", "asked"),
    [
        ([(b"Vary", b"User-Agent")], []),
        ([(b"Vary", b"*")], []),
        ([(b"Vary", b"Origin")], [(b"Origin", b"https://a.example")]),
        ([], [(b"Cache-Control", b"no-store")]),
    ],
)
def test_it_is_not_kept_if_another_request_may_get_another_one_or_nothing_may_be_stored(
    vary: list[Field], asked: list[Field]
) -> None:
    assert _kept(*vary, asked=tuple(asked)) is None


def test_its_size_is_that_of_its_bytes_and_of_what_holds_them() -> None:
    small, large = _kept(body=None), _kept((b"Server", b"apigw"), body=b"x" * 10_000)
    assert small is not None
    assert large is not None
    assert 0 < small.size_bytes < 1_000
    assert large.size_bytes > small.size_bytes + 10_000 + len("Serverapigw")


@pytest.mark.parametrize(
    ("coding", "body", "readable"),
    [
        (None, _BODY, _BODY),
        (b"gzip", gzip.compress(_BODY, mtime=0), _BODY),
        (b"identity", _BODY, _BODY),
        (None, None, b""),
        (b"br", _BODY, b""),
        (b"gzip", _BODY, b""),
        (None, b" " * LONGEST_BODY_BYTES + _BODY, b""),
        (b"gzip", gzip.compress(b" " * LONGEST_BODY_BYTES + _BODY, mtime=0), b""),
    ],
)
def test_a_body_is_read_within_a_bound(coding: bytes | None, body: bytes | None, readable: bytes) -> None:
    fields = () if coding is None else ((b"Content-Encoding", coding),)
    assert readable_body(fields, body) == readable
