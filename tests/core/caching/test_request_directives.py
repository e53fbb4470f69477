"""What a caller asks of the cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.cache_status import Forward, Reason
from gateway.core.caching.request_directives import (
    NO_DIRECTIVES,
    RequestDirectives,
    entity_tag,
    is_not_modified,
    read_directives,
)
from gateway.core.http.messages import Fields
from tests.core.kit import BOUNDED, NOW_S

CC = b"Cache-Control"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), NO_DIRECTIVES),
        (((CC, b""),), NO_DIRECTIVES),
        (((CC, b"no-cache"),), RequestDirectives(no_cache=True)),
        (((CC, b"No-Store"),), RequestDirectives(no_store=True)),
        (((CC, b"only-if-cached"),), RequestDirectives(only_if_cached=True)),
        (((CC, b"max-age=60"),), RequestDirectives(max_age_s=60)),
        (((CC, b"max-age=0"),), RequestDirectives(no_cache=True, max_age_s=0)),
        (
            ((CC, b"max-age=60"), (CC, b"max-age=5, min-fresh=7")),
            RequestDirectives(max_age_s=5, min_fresh_s=7),
        ),
        (((b"Pragma", b"no-cache"),), RequestDirectives(no_cache=True)),
        (((b"Pragma", b"x, NO-cache"),), RequestDirectives(no_cache=True)),
        (((b"Pragma", b"x"),), NO_DIRECTIVES),
        # Pragma speaks only where Cache-Control is silent (RFC 9111 §5.4).
        (((b"Pragma", b"no-cache"), (CC, b"max-age=60")), RequestDirectives(max_age_s=60)),
        (((CC, b"max-stale"),), NO_DIRECTIVES),
        (((CC, b"max-stale=60, no-transform, x-own"),), NO_DIRECTIVES),
    ],
)
def test_request_directives_are_obeyed_and_max_stale_is_ignored(
    fields: Fields, expected: RequestDirectives
) -> None:
    assert read_directives(fields) == expected


@pytest.mark.parametrize(
    "value", [b"@", b"max-age", b"max-age=x", b"min-fresh=x", b"min-fresh", b"max-age=-1"]
)
def test_what_cannot_be_read_fetches_anew(value: bytes) -> None:
    assert read_directives(((CC, value),)).no_cache


@BOUNDED
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_field_makes_the_readers_fail(control: bytes, matched: bytes) -> None:
    read_directives(((CC, control), (b"Pragma", matched)))
    is_not_modified(((b"If-None-Match", matched),), b'"e"', None, NOW_S)
    is_not_modified(((b"If-Modified-Since", matched),), b'"e"', matched, NOW_S)


@pytest.mark.parametrize(
    ("directives", "age_s", "ttl_s", "why_not"),
    [
        (NO_DIRECTIVES, 10_000, 0.1, None),
        (NO_DIRECTIVES, 10_000, 0.0, (Forward.STALE, None)),
        (RequestDirectives(max_age_s=60, min_fresh_s=60), 61, -1.0, (Forward.STALE, None)),
        (RequestDirectives(max_age_s=60), 60, 1.0, None),
        (RequestDirectives(max_age_s=60), 61, 1.0, (Forward.REQUEST, Reason.REQUEST_MAX_AGE)),
        (RequestDirectives(min_fresh_s=60), 1, 60.0, None),
        (RequestDirectives(min_fresh_s=60), 1, 59.9, (Forward.REQUEST, Reason.REQUEST_MIN_FRESH)),
        (RequestDirectives(max_age_s=60, min_fresh_s=60), 61, 0.1, (Forward.REQUEST, Reason.REQUEST_MAX_AGE)),
    ],
)
def test_a_stale_too_old_or_too_short_lived_entry_is_not_used(
    directives: RequestDirectives, age_s: int, ttl_s: float, why_not: tuple[Forward, Reason | None] | None
) -> None:
    assert directives.unmet(age_s, ttl_s) == why_not


@BOUNDED
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_made_etag_is_strong_and_differs_with_the_body(one: bytes, other: bytes) -> None:
    assert (entity_tag(one) == entity_tag(other)) == (one == other)
    assert entity_tag(one)[:1] == entity_tag(one)[-1:] == b'"'
    assert len(entity_tag(one)) == 34


@pytest.mark.parametrize(
    ("lines", "etag", "expected"),
    [
        ([], b'"e"', False),
        ([b""], b'"e"', False),
        ([b"*"], b'"e"', True),
        ([b" * "], b'W/"e"', True),
        ([b'"e"'], b'"e"', True),
        ([b'W/"e"'], b'"e"', True),
        ([b'"e"'], b'W/"e"', True),
        ([b'W/"e"'], b'W/"e"', True),
        ([b'"E"'], b'"e"', False),
        ([b'"a", "e"'], b'"e"', True),
        ([b'"a,b" , W/"e" , "c"'], b'"e"', True),
        ([b'"a"', b'"e"'], b'"e"', True),
        ([b', ,"e"'], b'"e"', True),
        ([b'"a",, "e"'], b'"e"', True),
        ([b'"a, "e"'], b'"e"', False),
        ([b"e"], b'"e"', False),
        ([b'x, "e"'], b'"e"', False),
        ([b'w/"e"'], b'"e"', False),
        ([b'""'], b'""', True),
    ],
)
def test_if_none_match_compares_weakly_over_lists(lines: list[bytes], etag: bytes, expected: bool) -> None:
    request = tuple((b"If-None-Match", line) for line in lines)
    assert is_not_modified(request, etag, None, NOW_S) is expected


MODIFIED = b"Tue, 14 Nov 2023 22:13:20 GMT"
SECOND_BEFORE = b"Tue, 14 Nov 2023 22:13:19 GMT"
SECOND_AFTER = b"Tue, 14 Nov 2023 22:13:21 GMT"
SINCE = b"If-Modified-Since"


@pytest.mark.parametrize(
    ("request_fields", "last_modified", "expected"),
    [
        (((SINCE, MODIFIED),), MODIFIED, True),
        (((SINCE, SECOND_AFTER),), MODIFIED, True),
        (((SINCE, b"Tuesday, 14-Nov-23 22:13:20 GMT"),), MODIFIED, True),
        (((SINCE, b"Tue Nov 14 22:13:20 2023"),), MODIFIED, True),
        (((SINCE, SECOND_BEFORE),), MODIFIED, False),
        (((SINCE, b"yesterday"),), MODIFIED, False),
        (((SINCE, b""),), MODIFIED, False),
        (((SINCE, MODIFIED), (SINCE, MODIFIED)), MODIFIED, False),
        (((SINCE, MODIFIED),), b"yesterday", False),
        (((SINCE, MODIFIED),), None, False),
        ((), MODIFIED, False),
        # If-None-Match stands above it, readable or not.
        (((SINCE, MODIFIED), (b"If-None-Match", b'"other"')), MODIFIED, False),
        (((SINCE, SECOND_BEFORE), (b"If-None-Match", b'"e"')), MODIFIED, True),
        (((SINCE, MODIFIED), (b"If-None-Match", b"")), MODIFIED, False),
    ],
)
def test_if_modified_since_is_held_against_last_modified_alone(
    request_fields: Fields, last_modified: bytes | None, expected: bool
) -> None:
    assert is_not_modified(request_fields, b'"e"', last_modified, NOW_S) is expected


def test_what_has_no_validator_matches_nothing() -> None:
    assert not is_not_modified(((b"If-None-Match", b"*"),), None, None, 0.0)


@pytest.mark.parametrize(
    ("directives", "oldest_s"),
    [
        (NO_DIRECTIVES, 2.0),
        (RequestDirectives(max_age_s=60), 2.0),
        (RequestDirectives(max_age_s=1), 1.0),
        (RequestDirectives(no_cache=True), 0.0),
        (RequestDirectives(min_fresh_s=1, max_age_s=1), 0.0),
    ],
)
def test_how_old_a_record_may_be_that_does_not_stay_fresh(
    directives: RequestDirectives, oldest_s: float
) -> None:
    assert directives.oldest_s(2.0) == oldest_s
