"""Whether the cache takes part in a request."""

import pytest

from gateway.core.aos.route import ExecutionRef
from gateway.core.caching.cache_status import Forward, Reason
from gateway.core.caching.eligibility import Bypass, Eligible, eligibility, may_share
from gateway.core.caching.identity import Identity, IdentityReader, variant
from gateway.core.caching.request_directives import RequestDirectives
from gateway.core.http.fields import HOP_BY_HOP, is_sent_unchanged, is_uniform
from gateway.core.http.messages import Fields, values
from gateway.core.http.proxy_identity import make_proxy_identity, upstream_fields
from gateway.core.http.target import METHOD_OVERRIDES
from tests.core.kit import TOKEN, fetched_response, request
from tests.testbed.payloads import ACTION_ID, STACK_ID, TARGET

READER = IdentityReader((b"cookie",), b"", shared=False)
_VARIANT = variant(())
assert _VARIANT is not None
NO_ACCEPT = _VARIANT
token = (TOKEN, b"t0ken")


def reason_of(
    *fields: tuple[bytes, bytes], target: str = TARGET, body_bytes: int | None = 0
) -> Reason | None:
    eligible = eligibility(request(token, *fields, target=target, body_bytes=body_bytes), READER)
    if isinstance(eligible, Eligible):
        return None
    assert eligible.is_reading
    assert eligible.forward is Forward.BYPASS
    return eligible.reason


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_and_head_of_the_execution_call_may_be_answered_from_the_cache(method: str) -> None:
    eligible = eligibility(request(token, (b"Cache-Control", b"max-age=9"), method=method), READER)
    identity = READER.identify((token,))
    assert isinstance(identity, Identity)
    assert eligible == Eligible(
        execution=ExecutionRef(STACK_ID.encode(), ACTION_ID.encode(), has_query=False),
        identity=identity,
        variant=NO_ACCEPT,
        directives=RequestDirectives(max_age_s=9),
        fields=(token, (b"Cache-Control", b"max-age=9")),
    )


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "get"])
def test_another_method_on_the_execution_call_bypasses(method: str) -> None:
    eligible = eligibility(request(token, method=method), READER)
    assert eligible == Bypass(Forward.METHOD, Reason.METHOD, is_reading=False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_every_other_route_bypasses_whatever_the_method(method: str) -> None:
    eligible = eligibility(request(token, method=method, target="/v2/stacks"), READER)
    assert eligible == Bypass(Forward.BYPASS, Reason.ROUTE, is_reading=method in {"GET", "HEAD"})


@pytest.mark.parametrize("query", ["?", "?last=true"])
def test_a_query_bypasses_even_an_empty_one(query: str) -> None:
    assert reason_of(target=TARGET + query) is Reason.QUERY


@pytest.mark.parametrize("body_bytes", [None, 1])
def test_a_body_bypasses(body_bytes: int | None) -> None:
    assert reason_of(body_bytes=body_bytes) is Reason.BODY


def test_a_range_bypasses() -> None:
    assert reason_of((b"Range", b"bytes=0-1")) is Reason.RANGE


@pytest.mark.parametrize("name", [b"If-Match", b"If-Unmodified-Since"])
def test_a_precondition_bypasses(name: bytes) -> None:
    assert reason_of((name, b'"e"')) is Reason.PRECONDITION


@pytest.mark.parametrize("name", [b"If-None-Match", b"If-Modified-Since", b"If-Range", b"Prefer", b"Expect"])
def test_other_conditions_do_not_bypass(name: bytes) -> None:
    assert reason_of((name, b"x")) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (((TOKEN, b"other"),), Reason.IDENTITY),
        (((b"X_Auth_Token", b"other"),), Reason.IDENTITY),
        (((b"X-HTTP-Method-Override", b"DELETE"),), Reason.IDENTITY),
        (((b"Authorization", b"SDK-HMAC-SHA256 Access=AK"),), Reason.SIGNED),
        (((b"Accept", b"a" * 65),), Reason.VARIANT),
    ],
)
def test_a_caller_or_variant_that_cannot_be_kept_apart_bypasses(fields: Fields, reason: Reason) -> None:
    assert reason_of(*fields) is reason


def test_the_first_no_names_the_reason() -> None:
    fields = ((b"Range", b"bytes=0-1"), (b"If-Match", b"*"), (TOKEN, b"other"), (b"Accept", b"a" * 65))
    assert reason_of(*fields, target=TARGET + "?", body_bytes=1) is Reason.QUERY
    assert reason_of(*fields, body_bytes=1) is Reason.BODY
    assert reason_of(*fields) is Reason.RANGE
    assert reason_of(*fields[1:]) is Reason.PRECONDITION
    assert reason_of(*fields[2:]) is Reason.IDENTITY
    assert reason_of(*fields[3:]) is Reason.VARIANT


def test_a_caller_is_who_the_upstream_will_see() -> None:
    # What Connection names is not forwarded, so it must not separate callers.
    plain = eligibility(request(token), READER)
    nominating = eligibility(request(token, (b"Connection", b"X-Own"), (b"X-Own", b"1")), READER)
    assert plain == nominating


@pytest.mark.parametrize(
    "name",
    [
        *sorted(HOP_BY_HOP | METHOD_OVERRIDES),
        *(b"accept", b"accept-encoding", b"authorization", b"baggage", b"cookie", b"expect", b"forwarded"),
        *(b"host", b"if-match", b"if-none-match", b"if-range", b"prefer", b"range", b"user-agent", b"via"),
        *(
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"x-forwarded-user",
            b"x-request-id",
        ),
    ],
)
def test_what_is_said_of_a_field_is_what_becomes_of_it_on_its_way_up(name: bytes) -> None:
    def upstream_sees(*fields: tuple[bytes, bytes]) -> tuple[bytes, ...] | None:
        asked = request(token, *(() if name == b"host" else ((b"Host", b"h"),)), *fields)
        if isinstance(eligibility(asked, READER), Bypass):
            return None
        proxy = make_proxy_identity(b"0123", "aos.example", (), READER.names)
        return tuple(values(upstream_fields(asked, proxy, execution_call=True), name))

    none, one, other = upstream_sees(), upstream_sees((name, b"gzip")), upstream_sees((name, b"other"))
    assert is_sent_unchanged(name) is ((none, one, other) == ((), (b"gzip",), (b"other",)))
    assert is_uniform(name) is (one is None or one == other == none)


@pytest.mark.parametrize(
    ("vary", "led_with", "joined_with", "expected"),
    [
        (b"Accept-Encoding", (), ((b"Accept", b"*/*"),), True),
        (b"Accept", ((b"Accept", b"*/*"),), ((b"Accept", b"*/*"),), True),
        (b"Accept", (), ((b"Accept", b"*/*"),), False),
        (b"Cookie, X-Auth-Token", (), (), True),
        (b"User-Agent", (), (), False),
    ],
)
def test_who_joined_a_fetch_may_have_what_no_other_value_chose(
    vary: bytes, led_with: Fields, joined_with: Fields, expected: bool
) -> None:
    eligible = eligibility(request(token, *joined_with), READER)
    assert isinstance(eligible, Eligible)
    fetched = fetched_response(b"{}", (b"Vary", vary), request=(token, *led_with))
    assert may_share(eligible, fetched, READER.names) is expected
