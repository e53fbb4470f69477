"""The reasons, and what ``Cache-Status`` says."""

import re

import pytest

from gateway.core.caching.cache_status import (
    BYPASS,
    ERROR,
    HIT,
    MISS,
    CacheStatus,
    Forward,
    Reason,
    outcome,
)

# A token of RFC 8941, which is what a detail may be without quotes.
SF_TOKEN = re.compile(rb"[A-Za-z*][!#$%&'*+.^_`|~:/A-Za-z0-9-]*")


@pytest.mark.parametrize(
    ("cache_status", "expected"),
    [
        (CacheStatus(ttl_s=17), b"aos-gateway; hit; ttl=17"),
        (CacheStatus(ttl_s=0), b"aos-gateway; hit; ttl=0"),
        (CacheStatus(forward=Forward.BYPASS, reason=Reason.ROUTE), b"aos-gateway; fwd=bypass; detail=route"),
        (
            CacheStatus(forward=Forward.URI_MISS, fwd_status=200, stored=True),
            b"aos-gateway; fwd=uri-miss; fwd-status=200; stored",
        ),
        (
            CacheStatus(forward=Forward.URI_MISS, fwd_status=200, collapsed=True, reason=Reason.PHASE),
            b"aos-gateway; fwd=uri-miss; fwd-status=200; collapsed; detail=phase",
        ),
        (
            CacheStatus(forward=Forward.REQUEST, fwd_status=200, stored=True, collapsed=True),
            b"aos-gateway; fwd=request; fwd-status=200; stored; collapsed",
        ),
        (CacheStatus(reason=Reason.THROTTLED), b"aos-gateway; detail=throttled"),
        (CacheStatus(reason=Reason.HELD_BACK), b"aos-gateway; detail=held-back"),
        (CacheStatus(forward=Forward.METHOD, fwd_status=404), b"aos-gateway; fwd=method; fwd-status=404"),
    ],
)
def test_the_member_of_cache_status(cache_status: CacheStatus, expected: bytes) -> None:
    assert cache_status.member() == expected


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_a_token_in_cache_status(reason: Reason) -> None:
    member = CacheStatus(forward=Forward.BYPASS, reason=reason).member()
    detail = member.rpartition(b"; detail=")[2]
    assert SF_TOKEN.fullmatch(detail)
    assert detail.decode() == reason.value


@pytest.mark.parametrize(
    ("cache_status", "word"),
    [
        (CacheStatus(ttl_s=0), HIT),
        (CacheStatus(forward=Forward.BYPASS), BYPASS),
        (CacheStatus(forward=Forward.METHOD), BYPASS),
        (CacheStatus(forward=Forward.URI_MISS), MISS),
        (CacheStatus(forward=Forward.STALE), MISS),
        (CacheStatus(forward=Forward.REQUEST), MISS),
        (CacheStatus(reason=Reason.REQUEST_ONLY_IF_CACHED), MISS),
        (CacheStatus(reason=Reason.HELD_BACK), ERROR),
        (None, ERROR),
    ],
)
def test_the_one_word_outcome(cache_status: CacheStatus | None, word: str) -> None:
    assert outcome(cache_status) == word


def test_a_reason_says_no_to_one_of_three_things_or_how_it_was_answered() -> None:
    assert {reason.stage for reason in Reason} == {"lookup", "serve", "store", ""}
    assert [reason for reason in Reason if not reason.stage] == [Reason.RUNNING, Reason.WAITED]
    assert Reason.SIGNED.stage == "lookup"
    assert Reason.REQUEST_MIN_FRESH.stage == "serve"
    assert Reason.VARY.stage == "store"
