"""Which faults affect which responses, without sockets and clock."""

import json
from typing import Literal

import msgspec
import pytest

from gateway.core.caching.retry_after import limit
from gateway.core.caching.retry_after import retry_after_s as stated_s
from gateway.twin.fault_book import MAX_FAULTS, Effects, Facts, FaultBook, TooManyFaultsError
from gateway.twin.faults import (
    KINDS,
    Cut,
    Fault,
    Header,
    Latency,
    RateLimited,
    SlowBody,
    Status,
    Throttle,
    Truncated,
)

RECORD = "/v2/stacks/s/actions/a"


def facts(path: str = RECORD, method: str = "GET", user: str = "alice", peer: str = "::1") -> Facts:
    return Facts(method=method, path=path, user=user, peer=peer, request_id="0" * 32)


def book_of(*faults: Fault) -> FaultBook:
    book = FaultBook()
    for fault in faults:
        book.add(fault, 0.0)
    return book


def status_of(effects: Effects) -> int | None:
    return None if effects.reply is None else effects.reply.status


def test_without_faults_nothing_happens() -> None:
    assert FaultBook().take(facts(), 0.0) == Effects()


def test_a_fault_with_a_count_affects_that_many_responses() -> None:
    book = book_of(Status(status=503, count=2))
    assert [status_of(book.take(facts(), 0.0)) for _ in range(3)] == [503, 503, None]
    assert book.waiting(0.0) == []


def test_a_fault_with_a_duration_waits_that_long() -> None:
    book = book_of(Status(status=503, duration_s=10))
    assert [status_of(book.take(facts(), now_s)) for now_s in (0.0, 9.9, 10.0)] == [503, 503, None]


def test_a_fault_acts_on_matching_requests_alone_and_counts_them_alone() -> None:
    book = book_of(Status(status=500, count=1, path="/v2/stacks/*/actions/*", method="GET"))
    assert status_of(book.take(facts(path="/v2/stacks/s"), 0.0)) is None
    assert status_of(book.take(facts(method="PUT"), 0.0)) is None
    assert status_of(book.take(facts(), 0.0)) == 500


def test_several_faults_act_on_one_response_together() -> None:
    book = book_of(
        Latency(delay_s=1),
        Latency(delay_s=2),
        Header(value="no-store"),
        Header(name="Age", value="3"),
        Truncated(share=0.25),
        SlowBody(bytes_per_s=10),
        Cut(share=0.75),
    )
    assert book.take(facts(), 0.0) == Effects(
        delay_s=3,
        headers=(("Cache-Control", "no-store"), ("Age", "3")),
        keep_share=0.25,
        cut_share=0.75,
        bytes_per_s=10,
    )


def test_of_two_replies_the_older_one_is_sent_and_the_other_waits() -> None:
    book = book_of(Status(status=502, count=1), RateLimited(count=1))
    assert [status_of(book.take(facts(), 0.0)) for _ in range(3)] == [502, 429, None]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_status_comes_in_the_shape_of_its_sender(status: int) -> None:
    replies = {}
    for shape in ("aos", "apigw", "html"):
        replies[shape] = book_of(Status(status=status, shape=shape, retry_after_s=7)).take(facts(), 0.0).reply
    aos, apigw, html = replies["aos"], replies["apigw"], replies["html"]
    assert aos is not None
    assert apigw is not None
    assert html is not None
    assert list(json.loads(aos.body)) == ["message", "code", "extend", "showdetail"]
    assert list(json.loads(apigw.body)) == ["error_code", "error_msg", "request_id"]
    assert html.content_type == "text/html"
    assert str(status).encode() in html.body
    assert {reply.status for reply in (aos, apigw, html)} == {status}
    assert aos.headers == (("Retry-After", "7"),)


def test_rate_limiting_has_retry_after_unless_switched_off() -> None:
    with_field = book_of(RateLimited(retry_after_s=30)).take(facts(), 0.0).reply
    without_field = book_of(RateLimited(retry_after_s=None)).take(facts(), 0.0).reply
    assert with_field is not None
    assert without_field is not None
    assert with_field.headers == (("Retry-After", "30"),)
    assert without_field.headers == ()
    assert json.loads(with_field.body)["error_code"] == "APIGW.0308"


def test_a_throttle_counts_each_user_in_each_second() -> None:
    book = book_of(Throttle(limit=2))
    calls = [("alice", 0.0), ("alice", 0.1), ("alice", 0.2), ("bob", 0.3), ("alice", 1.0), ("alice", 1.5)]
    found = [status_of(book.take(facts(user=user), now_s)) for user, now_s in calls]
    assert found == [None, None, 429, None, None, None]


def test_a_throttle_counts_over_its_window() -> None:
    book = book_of(Throttle(limit=2, window_s=300))
    found = [status_of(book.take(facts(), now_s)) for now_s in (0.0, 100.0, 299.9, 300.0, 301.0, 302.0)]
    assert found == [None, None, 429, None, None, 429]


@pytest.mark.parametrize(
    ("window_s", "words", "wait_s"),
    [(1, "1 second", 1.0), (90, "90 second", 5.0), (300, "5 minute", 5.0), (7_200, "2 hour", 5.0)],
)
@pytest.mark.parametrize("per", ["user", "ip", "api"])
def test_a_throttle_refuses_in_the_words_that_the_gateway_understands(
    per: Literal["user", "ip", "api"], window_s: int, words: str, wait_s: float
) -> None:
    for retry_after_s in (None, 7):
        book = book_of(Throttle(limit=1, per=per, window_s=window_s, retry_after_s=retry_after_s))
        assert book.take(facts(), 0.0).reply is None
        reply = book.take(facts(), 0.0).reply
        assert reply is not None
        message = json.loads(reply.body)["error_msg"]
        assert message.endswith(f"policy {per} over ratelimit,limit:1,time:{words}")
        fields = tuple((name.encode(), value.encode()) for name, value in reply.headers)
        assert stated_s(fields, 0.0) == retry_after_s
        assert (limit(reply.body).wait_s, limit(reply.body).counts_all) == (wait_s, per != "user")


def test_a_throttle_can_count_addresses_or_everything() -> None:
    by_ip, by_api = book_of(Throttle(limit=1, per="ip")), book_of(Throttle(limit=1, per="api"))
    for book, other_peer in ((by_ip, None), (by_api, 429)):
        assert status_of(book.take(facts(user="alice", peer="::1"), 0.0)) is None
        assert status_of(book.take(facts(user="bob", peer="::2"), 0.0)) == other_peer
        assert status_of(book.take(facts(user="carol", peer="::1"), 0.0)) == 429


def test_a_throttle_uses_up_its_count_by_refusals_alone() -> None:
    book = book_of(Throttle(limit=1, count=1))
    assert [status_of(book.take(facts(), 0.0)) for _ in range(4)] == [None, 429, None, None]


def test_the_number_of_waiting_faults_is_bounded() -> None:
    book = book_of(Latency(delay_s=1, duration_s=5), *[Latency(delay_s=1)] * (MAX_FAULTS - 1))
    with pytest.raises(TooManyFaultsError):
        book.add(Latency(delay_s=1), 4.0)
    book.add(Latency(delay_s=1), 5.0)
    book.clear()
    assert book.waiting(5.0) == []


def test_every_kind_can_be_written_as_json() -> None:
    decoder: msgspec.json.Decoder[Fault] = msgspec.json.Decoder(Fault)
    least = {"latency": {"delay_s": 1}, "status": {"status": 500}, "throttle": {"limit": 1}}
    least |= {"slow_body": {"bytes_per_s": 1}}
    texts = [json.dumps({"kind": kind, **least.get(kind, {}), **_header(kind)}) for kind in KINDS]
    assert [msgspec.to_builtins(decoder.decode(text))["kind"] for text in texts] == list(KINDS)


def _header(kind: str) -> dict[str, str]:
    return {"value": "no-store"} if kind == "header" else {}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"kind": "latency"}', "delay_s"),
        ('{"kind": "latency", "delay_s": -1}', "$.delay_s"),
        ('{"kind": "status", "status": 200}', "$.status"),
        ('{"kind": "status", "status": 500, "shape": "xml"}', "$.shape"),
        ('{"kind": "throttle", "limit": 1, "per": "app"}', "$.per"),
        ('{"kind": "throttle", "limit": 1, "window_s": 0}', "$.window_s"),
        ('{"kind": "cut", "share": 1}', "$.share"),
        ('{"kind": "cut", "count": 0}', "$.count"),
        ('{"kind": "header", "value": "a\\r\\nb: c"}', "$.value"),
        ('{"kind": "header", "name": "a b", "value": ""}', "$.name"),
        ('{"kind": "slow_body", "bytes_per_s": 5, "speed": 1}', "speed"),
    ],
)
def test_a_wrong_fault_is_refused_by_its_field(text: str, named: str) -> None:
    decoder: msgspec.json.Decoder[Fault] = msgspec.json.Decoder(Fault)
    with pytest.raises(msgspec.ValidationError) as refused:
        decoder.decode(text)
    assert named in str(refused.value)
