"""The origin's freshness and what it forbids to store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.caching.cache_status import Reason
from gateway.core.caching.freshness import (
    origin_freshness,
    parse_directives,
    seconds,
    unmet_vary,
    upstream_age_s,
)
from gateway.core.http.dates import date_s
from gateway.core.http.messages import Fields
from tests.core.kit import BOUNDED, NOW_S, texts

CC = b"Cache-Control"
CDN = b"CDN-Cache-Control"
SURROGATE = b"Surrogate-Control"
# NOW_S is Tue, 14 Nov 2023 22:13:20 GMT.
AT_NOW = b"Tue, 14 Nov 2023 22:13:20 GMT"
MINUTE_LATER = b"Tue, 14 Nov 2023 22:14:20 GMT"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], {}),
        ([b"", b" , ,\t"], {}),
        ([b"No-Store"], {b"no-store": [None]}),
        ([b"max-age=60, private"], {b"max-age": [b"60"], b"private": [None]}),
        ([b"max-age=60", b"MAX-AGE=5"], {b"max-age": [b"60", b"5"]}),
        ([b'private="x-a, x-b" , max-age="60"'], {b"private": [b"x-a, x-b"], b"max-age": [b"60"]}),
        ([rb'ext="a\"b\\"'], {b"ext": [rb'a"b\ '.strip()]}),
        ([b"a,,b"], {b"a": [None], b"b": [None]}),
        ([b",a\t , \t,b "], {b"a": [None], b"b": [None]}),
        ([b'a="max-age=60, no-store", b'], {b"a": [b"max-age=60, no-store"], b"b": [None]}),
        ([b'a="", b'], {b"a": [b""], b"b": [None]}),
        ([b"max-age = 60"], None),
        ([b"max-age="], None),
        ([b"max-age=60;x"], None),
        ([b"max-age=60 private"], None),
        ([b'private="x'], None),
        ([b'private="x"y'], None),
        ([b'private="x\\"'], None),
        ([b"@"], None),
        ([b"a", b"=b"], None),
    ],
)
def test_directives_are_read_or_known_to_be_unreadable(
    lines: list[bytes], expected: dict[bytes, list[bytes | None]] | None
) -> None:
    assert parse_directives(lines) == expected


@pytest.mark.parametrize("filler", [b" ", b",", b" ,", b"\t"])
def test_a_field_of_blanks_costs_its_length_and_not_the_square_of_it(filler: bytes) -> None:
    # The square would take a minute, far beyond the time limit of a test.
    assert parse_directives([b"a," + filler * 100_000 + b"@"]) is None
    assert parse_directives([b"a" + filler * 100_000 + b",b"]) == {b"a": [None], b"b": [None]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([b"60"], 60),
        ([b"60", b"5"], 5),
        ([b"000"], 0),
        ([b"9" * 5000], 2**31),
        ([b"9" * 12], 2**31),
        ([None], None),
        ([b""], None),
        ([b"-1"], None),
        ([b"1.5"], None),
        ([b"60", b"x"], None),
    ],
)
def test_delta_seconds_are_digits_and_the_smallest_counts(
    arguments: list[bytes | None], expected: int | None
) -> None:
    assert seconds(arguments) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), 0),
        (((b"Age", b""),), 0),
        (((b"Age", b"17"),), 17),
        (((b"Age", b"17"), (b"Age", b"99")), 17),
        (((b"Age", b"17, 99"),), 17),
        (((b"Age", b"017"),), 17),
        (((b"Age", b"9" * 30),), 2**31),
        (((b"Age", b"17;x"),), None),
        (((b"Age", b"17.0"),), None),
        (((b"Age", b"+17"),), None),
        (((b"Age", b"x, 17"),), None),
        (((b"Age", b"-1"),), None),
        (((b"Age", b"old"),), None),
    ],
)
def test_the_age_a_response_came_with_is_read(fields: Fields, expected: int | None) -> None:
    assert upstream_age_s(fields) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (((CC, b"no-store"),), Reason.NO_STORE),
        (((CC, b"max-age=60, No-Store"),), Reason.NO_STORE),
        (((CC, b"max-age=60"), (CC, b"no-store")), Reason.NO_STORE),
        (((CC, b"no-store=1"),), Reason.NO_STORE),
        (((CC, b"private"),), Reason.PRIVATE),
        (((CC, b'private="x-a"'),), Reason.PRIVATE),
        (((CC, b"no-cache"),), Reason.NO_CACHE),
        (((CC, b'no-cache="set-cookie"'),), Reason.NO_CACHE),
        (((CC, b"must-understand, no-store"),), Reason.NO_STORE),
        (((CDN, b"no-store"),), Reason.NO_STORE),
        (((SURROGATE, b"no-store"),), Reason.NO_STORE),
        (((SURROGATE, b'no-store, content="ESI/1.0"'), (CC, b"max-age=60")), Reason.NO_STORE),
        (((SURROGATE, b"max-age=60"), (CC, b"no-store")), Reason.NO_STORE),
        (((CDN, b"private"), (CC, b"max-age=60")), Reason.PRIVATE),
        (((CDN, b"max-age=60"), (CC, b"no-store")), Reason.NO_STORE),
        (((b"Pragma", b"No-Cache"),), Reason.NO_CACHE),
        (((b"Pragma", b"no-cache"), (CDN, b"max-age=60")), Reason.NO_CACHE),
    ],
)
def test_the_origin_forbids_storing(fields: Fields, reason: Reason) -> None:
    assert origin_freshness(fields, NOW_S) is reason


@pytest.mark.parametrize(
    "fields",
    [
        ((CC, b"max-age"),),
        ((CC, b"max-age=x"),),
        ((CC, b"max-age=60, max-age=x"),),
        ((CC, b"s-maxage=60, max-age=x"),),
        ((CC, b"s-maxage=x, max-age=60"),),
        ((CC, b"@"),),
        ((CDN, b"@"),),
        ((SURROGATE, b"max-age=60+60"),),
        ((SURROGATE, b"max-age=60;other"),),
        ((CDN, b"max-age=x"), (CC, b"max-age=60")),
        ((b"Expires", b"0"),),
        ((b"Expires", b""),),
        ((b"Expires", b"\xff"),),
        ((b"Expires", MINUTE_LATER), (b"Expires", MINUTE_LATER)),
        ((b"Expires", MINUTE_LATER), (b"Date", b"today")),
        ((b"Expires", MINUTE_LATER), (b"Date", AT_NOW), (b"Date", AT_NOW)),
        ((b"Expires", b"Tue, 14 Nov 2023 22:14:20 -0000"),),
        ((b"Expires", b"Tue, 14 Nov 2023 22:14:20 EST"),),
        ((b"Expires", b"Tue, 14 Nov 99999 22:13:20 GMT"),),
        ((b"Age", b"old"),),
        ((CC, b"max-age=60"), (b"Age", b"old")),
    ],
)
def test_an_unreadable_value_means_no(fields: Fields) -> None:
    assert origin_freshness(fields, NOW_S) is Reason.UNREADABLE_FRESHNESS


@pytest.mark.parametrize(
    ("fields", "lifetime_s"),
    [
        (((CC, b"max-age=60"),), 60),
        (((CC, b"max-age=60, s-maxage=600"),), 600),
        (((CC, b"max-age=600, s-maxage=60"),), 60),
        (((CC, b"max-age=60, max-age=30"),), 30),
        (((CC, b"max-age=60"), (b"Age", b"20")), 40),
        (((b"Expires", MINUTE_LATER),), 60),
        (((b"Expires", MINUTE_LATER), (b"Date", AT_NOW)), 60),
        (((b"Expires", MINUTE_LATER), (b"Date", b"Tue, 14 Nov 2023 22:14:00 GMT")), 20),
        (((b"Expires", b"Tuesday, 14-Nov-23 22:14:20 GMT"),), 60),
        (((b"Expires", b"Tue Nov 14 22:14:20 2023"),), 60),
        (((b"Expires", MINUTE_LATER), (b"Age", b"20")), 40),
        (((b"Expires", MINUTE_LATER), (CC, b"public")), 60),
        # A time in Cache-Control itself stands above Expires (RFC 9111 §5.3).
        (((b"Expires", MINUTE_LATER), (CC, b"max-age=600")), 600),
        (((b"Expires", b"0"), (CC, b"max-age=600")), 600),
        (((CDN, b"max-age=600"), (CC, b"max-age=60")), 60),
        (((CDN, b"max-age=60"), (CC, b"max-age=600")), 60),
        (((CDN, b"max-age=60"), (CC, b"public")), 60),
        (((SURROGATE, b"max-age=60"), (CC, b"max-age=600")), 60),
        (((SURROGATE, b"max-age=600"), (CDN, b"max-age=60")), 60),
        (((CDN, b"max-age=600"), (b"Expires", MINUTE_LATER)), 60),
        (((CDN, b"max-age=30"), (b"Expires", MINUTE_LATER)), 30),
        (((b"Pragma", b"no-cache"), (CC, b"max-age=60")), 60),
    ],
)
def test_the_origin_names_a_time(fields: Fields, lifetime_s: int) -> None:
    assert origin_freshness(fields, NOW_S) == lifetime_s


@pytest.mark.parametrize(
    "fields",
    [
        ((CC, b"max-age=0"),),
        ((CC, b"s-maxage=0, max-age=60"),),
        ((CDN, b"max-age=0"), (CC, b"max-age=60")),
        ((CC, b"max-age=60"), (b"Age", b"60")),
        ((CC, b"max-age=60"), (b"Age", b"9" * 30)),
        ((b"Expires", AT_NOW),),
        ((b"Expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),),
        ((b"Expires", MINUTE_LATER), (b"Date", MINUTE_LATER)),
        ((CDN, b"max-age=600"), (b"Expires", AT_NOW)),
    ],
)
def test_no_time_left_means_no(fields: Fields) -> None:
    assert origin_freshness(fields, NOW_S) is Reason.EXPIRED


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ((CC, b""),),
        ((CC, b"public, must-revalidate"),),
        ((CC, b"must-understand"),),
        ((CC, b"x-own=1"),),
        ((b"Pragma", b"x"),),
        ((b"Age", b"17"),),
        ((b"Last-Modified", AT_NOW),),
    ],
)
def test_an_origin_that_names_no_time_leaves_it_to_the_table(fields: Fields) -> None:
    assert origin_freshness(fields, NOW_S) is None


# 784111777 is Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110.
@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        (b"Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        (b"Sun Nov  6 08:49:37 1994", 784111777),
        (b"Sun Nov 06 08:49:37 1994", 784111777),
        (b"sUN, 06 nOV 1994 08:49:37 gmt", 784111777),
        (b"SUNDAY, 06-NOV-94 08:49:37 gMT", 784111777),
        # The day's name is not held against the date.
        (b"Mon, 06 Nov 1994 08:49:37 GMT", 784111777),
        (b"Sun, 06 Nov 1994 08:49:60 GMT", 784111799),
        (b"Tuesday, 14-Nov-23 22:13:20 GMT", 1700000000),
        (b"Friday, 14-Nov-70 22:13:20 GMT", 3183228800),
        # More than 50 years ahead is the past (RFC 9110 section 5.6.7).
        (b"Thursday, 15-Nov-73 22:13:20 GMT", 122249600),
        (b"Sunday, 14-Nov-99 22:13:20 GMT", 942617600),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (b"Fri, 31 Dec 9999 23:59:59 GMT", 253402300799),
        (b"", None),
        (b"0", None),
        (b"-1", None),
        (b"784111777", None),
        (b"06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 6 Nov 1994 08:49:37 GMT", None),
        (b"Sun 06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06  Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06-Nov-1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 94 08:49:37 GMT", None),
        (b"Sun, 06-Nov-94 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 8:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49 GMT", None),
        (b"Sun, 06 Nov 1994 08.49.37 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:37", None),
        (b"Sun, 06 Nov 1994 08:49:37 UTC", None),
        (b"Sun, 06 Nov 1994 08:49:37 AEST", None),
        (b"Sun, 06 Nov 1994 08:49:37 +0000", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT+1", None),
        (b"Sun, 06 Nov 1994 08:49:37 GMT, x", None),
        (b"Sun, 06 Now 1994 08:49:37 GMT", None),
        (b"Son, 06 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 31 Nov 1994 08:49:37 GMT", None),
        (b"Sun, 06 Nov 1994 24:00:00 GMT", None),
        (b"Sun, 06 Nov 1994 08:49:61 GMT", None),
        (b"Sun, 06 Nov 0000 08:49:37 GMT", None),
        (b"Sun Nov 6 08:49:37 1994", None),
        (b"Sun Nov  6 08:49:37 1994 GMT", None),
    ],
)
def test_a_date_has_one_of_three_formats(value: bytes, expected_s: int | None) -> None:
    assert date_s(value, NOW_S) == expected_s


dates = st.builds(
    b"%s%s%s".__mod__,
    st.tuples(
        st.sampled_from([b"", b"Tue, ", b"x "]),
        st.binary(max_size=12),
        st.sampled_from([b"", b" Nov 2023 9:9:9 GMT"]),
    ),
)


@BOUNDED
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CC, CDN, b"Expires", b"Date", b"Age", b"Pragma", b"Vary"]),
            st.one_of(
                texts,
                dates,
                st.text('max-age=",\\ 0123456789TueNovGMT:+', max_size=30).map(str.encode),
            ),
        ),
        max_size=4,
    ).map(tuple)
)
def test_no_field_makes_the_readers_fail_and_a_time_named_is_positive(fields: Fields) -> None:
    freshness = origin_freshness(fields, NOW_S)
    unmet_vary(fields, fields, ())
    if isinstance(freshness, float | int):
        assert freshness > 0


COVERED = frozenset({b"x-auth-token", b"cookie"})


@pytest.mark.parametrize(
    ("vary", "request_fields", "expected"),
    [
        ([], (), None),
        ([b""], (), None),
        ([b"Accept, accept-ENCODING", b"Accept-Language,X-Language"], (), None),
        ([b"Origin"], (), None),
        ([b"Origin"], ((b"origin", b"https://a"),), b"origin"),
        ([b"*"], (), b"*"),
        ([b"Accept, User-Agent"], (), b"user-agent"),
        # What an entry's key covers, and what the upstream never sees a caller's own of.
        ([b"X-Auth-Token"], (), None),
        ([b"Accept", b"COOKIE"], (), None),
        ([b"Authorization, Host, Prefer, Range, If-None-Match, TE, X-HTTP-Method-Override"], (), None),
        ([b"X-Auth-Token, X-Project-Id"], (), b"x-project-id"),
        ([b"X-Forwarded-For"], (), b"x-forwarded-for"),
        ([b"X-Request-Id"], (), b"x-request-id"),
        ([b"Via"], (), b"via"),
    ],
)
def test_what_of_vary_is_not_met(vary: list[bytes], request_fields: Fields, expected: bytes | None) -> None:
    fields = tuple((b"Vary", line) for line in vary)
    assert unmet_vary(fields, request_fields, COVERED) == expected


def test_what_tells_callers_apart_is_not_met_where_an_entry_is_for_all() -> None:
    assert unmet_vary(((b"Vary", b"X-Auth-Token"),), (), ()) == b"x-auth-token"
