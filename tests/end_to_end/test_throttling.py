"""Callers whom AOS throttles: its 429 is repeated while its time runs, and nothing is sent."""

import asyncio
import gzip
import json
import logging

import msgspec
import pytest

from gateway.cache.throttle import Throttle
from gateway.config.address import TcpAddress
from gateway.telemetry.log_format import FIELDS
from gateway.twin.profiles import THROTTLED
from gateway.twin.replies import throttled
from gateway.twin.server import Twin
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, RawResponse
from tests.testbed.gateway import RunningGateway, running

from .kit import ALICE, BOB, MovableTime, all_busy, cache_status, is_hit, settled

_ELSEWHERE = TARGET + "x"
_HELD_BACK = "aos-gateway; detail=held-back"
_OWN = "aos-gateway; detail=throttled"
_Field = tuple[str, str]


@pytest.fixture(params=[True, False], ids=["fast path", "parser"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has a fast path."""
    return bool(request.param)


async def _ask(
    gateway: RunningGateway,
    *fields: _Field,
    token: bytes = ALICE,
    target: str = TARGET,
    method: str = "GET",
) -> RawResponse:
    """The answer to one request, which is plain unless there are fields."""
    async with await RawClient.connect(gateway.address) as client:
        return await client.request(method, target, [("X-Auth-Token", token), *fields])


def _throttled(policy: str, count: int = 1, *fields: _Field) -> Answer:
    """A 429 as Huawei's gateway sends it."""
    reply = throttled("0" * 32, policy, 5, count)
    return Answer(429, headers=[("Content-Type", "application/json"), *fields], body=reply.body)


def _without(response: RawResponse, *names: str) -> list[tuple[bytes, bytes]]:
    lower = {name.lower().encode() for name in names}
    return [(name, value) for name, value in response.headers if name.lower() not in lower]


@pytest.mark.parametrize(
    ("method", "retry_after", "wait_s"),
    # Without Retry-After the body says it; that of a HEAD is not there.
    [("GET", "20", 20), ("HEAD", "20", 20), ("GET", "3600", 60), ("GET", None, 5), ("HEAD", None, 2)],
)
async def test_a_held_back_caller_gets_its_429_again(
    aos: ScriptedAos, fast_lane: bool, method: str, retry_after: str | None, wait_s: int
) -> None:
    time = MovableTime()
    fields = [("X-Request-Id", "of-aos"), ("Cache-Status", "apigw; fwd=miss")]
    if retry_after is not None:
        fields.append(("Retry-After", retry_after))
    refusal = _throttled("user", 300, *fields)
    aos.queue(refusal)
    aos.answer(settled())
    async with running(aos.url, clock=time.clock, server__fast_lane=fast_lane) as gateway:
        first = await _ask(gateway, method=method)
        time.ahead_s = 1
        again = await _ask(gateway, method=method)
        assert aos.count() == 1
        time.ahead_s = wait_s
        assert (await _ask(gateway, method=method)).status == 200
        assert aos.count() == 2
    assert (first.status, first.get("Retry-After")) == (429, retry_after and retry_after.encode())
    assert (again.status, again.reason, again.body) == (429, first.reason, first.body)
    assert again.body == (b"" if method == "HEAD" else refusal.body)
    assert _without(again, "Retry-After", "Cache-Status") == _without(first, "Retry-After", "Cache-Status")
    assert wait_s - 2 <= int(again.get("Retry-After") or b"") <= wait_s - 1
    assert again.all("Cache-Status") == [b"apigw; fwd=miss", _HELD_BACK.encode()]
    assert again.get("Proxy-Status") is None


async def test_what_is_stored_is_served_and_other_callers_are_forwarded_meanwhile(
    aos: ScriptedAos, fast_lane: bool
) -> None:
    aos.on("GET", TARGET, settled())
    aos.on("GET", _ELSEWHERE, Answer(429, headers=[("Retry-After", "30")], body=b"slow down"))
    async with running(aos.url, server__fast_lane=fast_lane) as gateway:
        await _ask(gateway)
        await _ask(gateway, target=_ELSEWHERE)
        assert is_hit(await _ask(gateway))
        # A miss of any execution is held back, by the same bytes.
        held = await _ask(gateway, target=TARGET + "y")
        assert (held.status, held.body, cache_status(held)) == (429, b"slow down", _HELD_BACK)
        assert cache_status(await _ask(gateway, target=_ELSEWHERE, token=BOB)).startswith("aos-gateway; fwd=")
    assert (aos.count("GET", TARGET), aos.count("GET", _ELSEWHERE)) == (3, 2)


@pytest.mark.parametrize("directive", ["no-cache", "no-store", "max-age=0"])
async def test_a_request_that_wants_no_stored_record_is_held_back_too(
    aos: ScriptedAos, directive: str
) -> None:
    aos.answer(Answer(429, headers=[("Retry-After", "20")], body=b"slow down"))
    async with running(aos.url) as gateway:
        await _ask(gateway)
        held = await _ask(gateway, ("Cache-Control", directive))
        cached = await _ask(gateway, ("Cache-Control", "only-if-cached"))
    assert (held.body, cache_status(held)) == (b"slow down", _HELD_BACK)
    assert cached.status == 504
    assert aos.count() == 1


@pytest.mark.parametrize("policy", ["ip", "api"])
async def test_where_aos_refuses_the_gateways_address_everybody_is_held_and_gets_the_gateways_429(
    aos: ScriptedAos, fast_lane: bool, policy: str
) -> None:
    time = MovableTime()
    aos.queue(_throttled(policy, 300, ("Retry-After", "30")))
    aos.answer(settled())
    async with running(aos.url, clock=time.clock, server__fast_lane=fast_lane) as gateway:
        await _ask(gateway)
        for method in ("GET", "HEAD"):
            other = await _ask(gateway, token=BOB, method=method)
            assert (other.status, cache_status(other)) == (429, _OWN)
            assert other.get("Content-Type") == b"application/problem+json"
            assert other.get("Proxy-Status") == b"aos-gateway; error=http_request_denied"
            assert other.get("Retry-After") == b"5"
        # Only the execution call is throttled here.
        assert (await _ask(gateway, target="/v2/stacks", token=BOB)).status == 200
        assert aos.count() == 2
        time.ahead_s = 5
        assert (await _ask(gateway, token=BOB)).status == 200
        assert cache_status(await _ask(gateway)) == _HELD_BACK
    assert aos.count() == 3


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, headers=[("Retry-After", "30")], body=b"x" * 16_385),
        Answer(429, headers=[("Retry-After", "30")], body=b"perhaps cut", framing="close"),
        Answer(429, headers=[("Retry-After", "30"), ("Vary", "User-Agent")], body=b"{}"),
    ],
    ids=["too long", "perhaps cut", "chosen by another field"],
)
async def test_what_cannot_be_repeated_is_replaced_by_the_gateways_429(
    aos: ScriptedAos, fast_lane: bool, answer: Answer
) -> None:
    aos.answer(answer)
    async with running(aos.url, server__fast_lane=fast_lane) as gateway:
        first = await _ask(gateway)
        held = await _ask(gateway)
    assert first.body == answer.body
    assert (held.status, cache_status(held)) == (429, _OWN)
    assert held.json()["code"] == "GATEWAY.4290001"
    assert aos.count() == 1


@pytest.mark.parametrize("max_body_bytes", [1_000, 4_194_304])
async def test_a_429_longer_than_any_stored_record_is_repeated_whole_or_not_at_all(
    aos: ScriptedAos, max_body_bytes: int
) -> None:
    aos.answer(Answer(429, body=b"x" * 16_384, headers=[("Retry-After", "30")], framing="chunked"))
    async with running(aos.url, cache__max_body_bytes=max_body_bytes) as gateway:
        assert len((await _ask(gateway)).body) == 16_384
        held = await _ask(gateway)
    assert cache_status(held) == (_OWN if max_body_bytes == 1_000 else _HELD_BACK)
    assert held.json() if max_body_bytes == 1_000 else len(held.body) == 16_384
    assert aos.count() == 1


async def test_a_coded_429_is_read_and_repeated_to_who_accepts_its_coding(aos: ScriptedAos) -> None:
    time = MovableTime()
    coded = gzip.compress(throttled("r", "ip", 5, 1).body)
    aos.answer(Answer(429, headers=[("Content-Encoding", "gzip")], body=coded))
    async with running(aos.url, clock=time.clock) as gateway:
        first = await _ask(gateway, ("Accept-Encoding", "gzip"))
        again = await _ask(gateway, ("Accept-Encoding", "gzip"))
        plain = await _ask(gateway)
        other = await _ask(gateway, token=BOB)
        assert aos.count() == 1
        time.ahead_s = 1
        await _ask(gateway, token=BOB)
    assert first.body == again.body == coded
    assert (again.get("Retry-After"), cache_status(again)) == (b"1", _HELD_BACK)
    assert cache_status(plain) == cache_status(other) == _OWN
    assert aos.count() == 2


async def test_who_joined_the_refused_fetch_and_who_comes_later_get_the_same_429(
    aos: ScriptedAos, fast_lane: bool
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(_throttled("user")))
    async with running(aos.url, server__fast_lane=fast_lane) as gateway:
        clients = [await RawClient.connect(gateway.address) for _ in range(5)]
        for client in clients:
            await client.send(
                b"GET %b HTTP/1.1\r\nHost: h\r\nX-Auth-Token: %b\r\n\r\n" % (TARGET.encode(), ALICE)
            )
        await all_busy(gateway, 5)
        gate.open()
        answers = [await client.read_response() for client in clients]
        for client in clients:
            await client.close()
        answers.append(await _ask(gateway))
    assert {(answer.status, answer.body) for answer in answers} == {(429, _throttled("user").body)}
    assert aos.count() == 1


async def test_who_joined_a_fetch_and_was_refused_alone_is_held_back_too(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled(("Vary", "Accept"))), Answer(429, headers=[("Retry-After", "30")]))
    async with running(aos.url) as gateway, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(_ask(gateway, ("Accept", "*/*")))
        await aos.wait_received(1)
        other = tasks.create_task(_ask(gateway, ("Accept", "application/json")))
        await all_busy(gateway, 2)
        gate.open()
        assert ((await first).status, (await other).status) == (200, 429)
        assert cache_status(await _ask(gateway, target=_ELSEWHERE)) == _OWN
    assert aos.count() == 2


async def test_where_callers_share_a_fetch_that_is_refused_for_the_gateways_address_nobody_repeats_it(
    aos: ScriptedAos,
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(_throttled("ip", 300)))
    async with (
        running(aos.url, cache__scope="shared", cache__ttl_running_s=1) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        asked = [tasks.create_task(_ask(gateway, token=b"token-%d" % number)) for number in range(5)]
        await all_busy(gateway, 5)
        gate.open()
        found = sorted([cache_status(await one) for one in asked])
    assert found == [*[_OWN] * 4, "aos-gateway; fwd=uri-miss; fwd-status=429; detail=status"]
    assert aos.count() == 1


async def test_of_the_calls_beyond_the_limit_of_an_address_aos_sees_one_a_window(fast_lane: bool) -> None:
    time, twin = MovableTime(), Twin(THROTTLED)
    twin.world.clock.freeze()
    await twin.start(TcpAddress(host="127.0.0.1", port=0))
    try:
        async with running(twin.url, clock=time.clock, server__fast_lane=fast_lane) as gateway:
            for _ in range(3):
                answers = [await _ask(gateway, token=b"project:user-%d" % number) for number in range(10)]
                assert [answer.status for answer in answers] == [404] * 5 + [429] * 5
                assert b"policy ip over ratelimit,limit:5,time:1 second" in answers[5].body
                assert [cache_status(answer) for answer in answers[6:]] == [_OWN] * 4
                again = await _ask(gateway, token=b"project:user-5")
                assert (again.body, again.get("Retry-After")) == (answers[5].body, b"1")
                time.ahead_s += 1
                twin.world.clock.advance(1)
        assert sum(twin.world.received.values()) == 3 * 6
    finally:
        await twin.close()


async def test_switched_off_every_request_goes_to_aos(aos: ScriptedAos, fast_lane: bool) -> None:
    aos.answer(_throttled("ip", 300, ("Retry-After", "30")))
    async with running(aos.url, upstream__hold_back=False, server__fast_lane=fast_lane) as gateway:
        for token in (ALICE, ALICE, BOB):
            answer = await _ask(gateway, token=token)
            assert (answer.status, answer.get("Retry-After")) == (429, b"30")
            assert cache_status(answer) == "aos-gateway; fwd=uri-miss; fwd-status=429; detail=status"
    assert aos.count() == 3


async def test_holding_back_is_switched_off_and_on_by_a_reload(aos: ScriptedAos) -> None:
    aos.answer(_throttled("user", 300))
    async with running(aos.url) as gateway:
        on = gateway.app.config
        off = msgspec.structs.replace(on, upstream=msgspec.structs.replace(on.upstream, hold_back=False))
        await _ask(gateway)
        await gateway.app.apply(off)
        assert [(await _ask(gateway)).get("Retry-After") for _ in range(2)] == [None, None]
        assert aos.count() == 3
        await gateway.app.apply(on)
        # The times are known all along, the 429s are not kept meanwhile.
        assert cache_status(await _ask(gateway)) == _OWN
    assert aos.count() == 3


async def test_without_any_throttling_nothing_is_looked_up(
    aos: ScriptedAos, fast_lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("looked up")

    monkeypatch.setattr(Throttle, "_left_s", never)
    aos.answer(Answer(body=record("Running")))
    async with running(aos.url, server__fast_lane=fast_lane) as gateway:
        assert (await _ask(gateway)).status == 200


async def test_a_repeated_429_is_counted_and_logged_as_the_gateways(
    aos: ScriptedAos, fast_lane: bool, caplog: pytest.LogCaptureFixture
) -> None:
    aos.answer(_throttled("user"))
    with caplog.at_level(logging.INFO, logger="gateway.access"):
        async with running(aos.url, server__fast_lane=fast_lane) as gateway:
            for _ in range(3):
                await _ask(gateway)
            metrics, [caller] = gateway.app.metrics, gateway.app.throttled()
    assert metrics.throttled == {"upstream": 1, "gateway": 2}
    assert metrics.requests == {("miss", "status", "4xx"): 1, ("error", "held-back", "4xx"): 2}
    assert (caller.upstream, caller.here) == (1, 2)
    lines = [getattr(record, FIELDS) for record in caplog.records if hasattr(record, FIELDS)]
    assert [
        (line["status"], line["cache"], line["reason"], line["answered_by"], line["upstream_ms"] is None)
        for line in lines
    ] == [(429, "miss", "status", "aos", False), *[(429, "none", "held-back", "gateway", True)] * 2]
    assert ALICE.decode() not in json.dumps(lines)
