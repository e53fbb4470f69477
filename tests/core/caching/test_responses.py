"""The heads that callers get."""

import msgspec
import pytest

from gateway.core.caching.cache_status import CacheStatus, Forward, Reason
from gateway.core.caching.policy import StoreDecision
from gateway.core.caching.request_directives import entity_tag
from gateway.core.caching.responses import entry_of, fetched_head, forwarded_head, hit_bytes, hit_head
from gateway.core.http.framing import wire_head
from gateway.core.http.messages import Fields, Head, first, values
from tests.core.kit import NOW_S, fetched_response

VIA = b"1.1 aos-gateway (01234567)"
BODY = b'{"status": {}}'
SINCE = b"If-Modified-Since"
STORED = StoreDecision(None, 300.0, is_record=True, etag=entity_tag(BODY))
MISS = CacheStatus(forward=Forward.URI_MISS, fwd_status=200, stored=True)
RECEIVED = (
    (b"Content-Type", b"application/json"),
    (b"X-Request-Id", b"first"),
    (b"X-Own", b"1"),
    (b"Connection", b"keep-alive, X-Hop"),
    (b"X-Hop", b"h"),
    (b"x-own", b"2"),
)
ENTRY = entry_of(fetched_response(BODY, *RECEIVED), STORED, 7, b"")


def hit(*request: tuple[bytes, bytes], passed_s: float = 0.0) -> Head:
    return hit_head(ENTRY, request, b"mine", VIA, NOW_S + passed_s)


@pytest.mark.parametrize(
    ("vary", "accept"), [(b"Accept-Encoding, ACCEPT", b"|0"), (b"Accept-Encoding", b""), (b"X-Accept", b"")]
)
def test_an_entry_tells_by_which_accept_it_was_chosen(vary: bytes, accept: bytes) -> None:
    entry = entry_of(fetched_response(BODY, (b"Vary", vary)), STORED, 0, b"|0")
    assert entry.accept == accept
    assert entry.suits(b"|0")
    assert entry.suits(b"|1") is (accept == b"")


def test_an_entry_keeps_the_end_to_end_head_and_the_body() -> None:
    assert ENTRY.head() == Head(
        200,
        b"OK",
        (
            (b"Content-Type", b"application/json"),
            (b"X-Own", b"1"),
            (b"x-own", b"2"),
            (b"ETag", entity_tag(BODY)),
            (b"Content-Length", b"14"),
        ),
    )
    assert ENTRY.body == BODY


def test_an_entry_counts_from_the_start_of_the_fetch() -> None:
    assert (ENTRY.fetched_s, ENTRY.expires_s, ENTRY.upstream_age_s) == (NOW_S, NOW_S + 300, 7)


def test_an_entry_keeps_the_upstreams_own_validator() -> None:
    decision = msgspec.structs.replace(STORED, etag=b'W/"e"')
    entry = entry_of(fetched_response(BODY, (b"etag", b'W/"e"')), decision, 0, b"")
    assert values(entry.head().fields, b"etag") == [b'W/"e"']


def test_a_validator_that_is_hop_by_hop_is_none() -> None:
    entry = entry_of(fetched_response(BODY, (b"ETag", b'"e"'), (b"Connection", b"etag")), STORED, 0, b"")
    assert values(entry.head().fields, b"etag") == [entity_tag(BODY)]


def test_a_hit_is_the_stored_head_and_what_the_gateway_adds() -> None:
    assert hit(passed_s=2.5) == Head(
        200,
        b"OK",
        (
            *ENTRY.head().fields,
            (b"Age", b"9"),
            (b"X-Request-Id", b"mine"),
            (b"Via", VIA),
            (b"Cache-Status", b"aos-gateway; hit; ttl=297"),
        ),
    )


def test_a_hit_keeps_the_length_that_came() -> None:
    entry = entry_of(fetched_response(BODY, (b"content-length", b"14")), STORED, 0, b"")
    head = hit_head(entry, (), b"mine", VIA, NOW_S)
    assert values(head.fields, b"content-length") == [b"14"]


@pytest.mark.parametrize("passed_s", [-3.0, 0.0, 2.5, 299.999])
def test_a_hit_in_one_piece_has_the_same_bytes(passed_s: float) -> None:
    data, _, _ = wire_head(hit(passed_s=passed_s), method="GET", body_bytes=14, http_11=True, keep_alive=True)
    assert hit_bytes(ENTRY, b"mine", VIA, NOW_S + passed_s) == data + BODY


def test_a_hit_never_has_a_negative_age() -> None:
    assert first(hit(passed_s=-3).fields, b"age") == b"7"


def test_a_hit_that_the_caller_has_already_is_a_304() -> None:
    head = hit((b"If-None-Match", b"W/" + entity_tag(BODY)))
    assert (head.status, head.reason) == (304, b"Not Modified")
    assert [name for name, _ in head.fields] == [b"ETag", b"Age", b"X-Request-Id", b"Via", b"Cache-Status"]
    assert hit((b"If-None-Match", b'"other"')).status == 200


def test_a_date_that_the_caller_has_already_makes_a_304_as_well() -> None:
    modified = b"Tue, 14 Nov 2023 22:13:20 GMT"
    received = fetched_response(
        BODY, (b"Last-Modified", modified), (b"Age", b"7"), request=((SINCE, modified),)
    )
    stored = hit_head(entry_of(received, STORED, 7, b""), received.request, b"mine", VIA, NOW_S)
    assert stored.status == 304
    assert values(stored.fields, b"age") == [b"7"]
    fetched = fetched_head(received, STORED, VIA, MISS)
    assert fetched.status == 304
    assert [name for name, _ in fetched.fields] == [b"Age", b"ETag", b"Via", b"Cache-Status"]
    assert with_request((SINCE, modified)).status == 200


def test_a_fetched_record_gets_a_validator_when_it_has_none() -> None:
    head = fetched_head(fetched_response(BODY, *RECEIVED), STORED, VIA, MISS)
    assert head.fields == (
        (b"Content-Type", b"application/json"),
        (b"X-Request-Id", b"first"),
        (b"X-Own", b"1"),
        (b"x-own", b"2"),
        (b"ETag", entity_tag(BODY)),
        (b"Via", VIA),
        (b"Cache-Status", b"aos-gateway; fwd=uri-miss; fwd-status=200; stored"),
    )


def test_a_record_that_is_not_stored_gets_a_validator_too() -> None:
    running = StoreDecision(Reason.PHASE, 0.0, is_record=True, phase="Running", etag=entity_tag(BODY))
    assert first(fetched_head(fetched_response(BODY), running, VIA, MISS).fields, b"etag") == entity_tag(BODY)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_what_is_no_record_gets_nothing_but_via_and_cache_status(status: int) -> None:
    cache_status = CacheStatus(forward=Forward.URI_MISS, fwd_status=status, reason=Reason.STATUS)
    received = ((b"X-A", b"1"), (b"Via", b"1.0 x"), (b"Cache-Status", b"other; hit"))
    head = fetched_head(
        fetched_response(b"x", *received, status=status),
        StoreDecision(Reason.STATUS, 0.0, is_record=False),
        VIA,
        cache_status,
    )
    assert head == Head(status, b"OK", (*received, (b"Via", VIA), (b"Cache-Status", cache_status.member())))


def with_request(*fields: tuple[bytes, bytes], status: int = 200, etag: Fields = ()) -> Head:
    received = fetched_response(BODY, (b"X-A", b"1"), *etag, status=status, request=fields)
    own = etag[0][1] if etag else entity_tag(BODY)
    return fetched_head(
        received, msgspec.structs.replace(STORED, is_record=status == 200, etag=own), VIA, MISS
    )


def test_a_fetched_record_that_the_caller_has_already_is_a_304() -> None:
    head = with_request((b"If-None-Match", entity_tag(BODY)))
    assert (head.status, head.reason) == (304, b"Not Modified")
    assert [name for name, _ in head.fields] == [b"ETag", b"Via", b"Cache-Status"]
    assert with_request((b"If-None-Match", b'"u"'), etag=((b"ETag", b'W/"u"'),)).status == 304


def test_a_304_in_place_of_a_fetched_record_tells_of_the_exchange() -> None:
    asked = ((b"If-None-Match", b"*"), (b"X-Request-Id", b"mine"))
    cookies = ((b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"))
    upstreams = with_request(*asked, etag=((b"x-request-id", b"theirs"), *cookies)).fields
    assert values(upstreams, b"x-request-id") == [b"theirs"]
    assert values(upstreams, b"set-cookie") == [b"a=1", b"b=2"]
    assert values(with_request(*asked).fields, b"x-request-id") == [b"mine"]
    unfit = with_request(asked[0], (b"X-Request-Id", b"not\xfffit"))
    assert first(unfit.fields, b"x-request-id") is None


def test_only_a_200_turns_into_a_304() -> None:
    assert with_request((b"If-None-Match", b"*"), status=404, etag=((b"ETag", b'"u"'),)).status == 404


def test_a_forwarded_head_loses_what_is_hop_by_hop_and_nothing_else() -> None:
    cache_status = CacheStatus(forward=Forward.BYPASS, reason=Reason.ROUTE)
    head = forwarded_head(Head(599, b"\xe4", RECEIVED), VIA, cache_status)
    assert head == Head(
        599,
        b"\xe4",
        (
            RECEIVED[0],
            RECEIVED[1],
            RECEIVED[2],
            RECEIVED[5],
            (b"Via", VIA),
            (b"Cache-Status", b"aos-gateway; fwd=bypass; detail=route"),
        ),
    )
