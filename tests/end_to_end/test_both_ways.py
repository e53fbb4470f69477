"""Who is answered from what: the same through the fast path and through the parser."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.testbed.address import free_port
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, RawResponse
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.redis_server import RedisServer

from .kit import ALICE, BOB, MovableTime, all_busy, cache_status, settled, until

_Field = tuple[str, str]


@pytest.fixture(params=[True, False], ids=["fast path", "parser"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has a fast path."""
    return bool(request.param)


async def _get(gateway: RunningGateway, *fields: _Field, token: bytes = ALICE) -> RawResponse:
    """The answer to a plain GET, on a connection that goes on."""
    async with await RawClient.connect(gateway.address) as client:
        return await client.request("GET", TARGET, [("X-Auth-Token", token), *fields])


async def _ask(gateway: RunningGateway, *fields: _Field, token: bytes = ALICE) -> str:
    """What the cache did with a plain GET."""
    return cache_status(await _get(gateway, *fields, token=token))


@pytest.fixture
async def gateway(aos: ScriptedAos, fast_lane: bool) -> AsyncIterator[RunningGateway]:
    """A gateway with default settings that has stored nothing yet."""
    async with running(aos.url, server__fast_lane=fast_lane) as started:
        yield started


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (Answer(body=record("Running")), "phase"),
        (Answer(body=record(spec__actionName="delete")), "delete"),
        (Answer(body=b""), "undecodable"),
        (Answer(500, body=record()), "status"),
        (Answer(body=record(), framing="close"), "incomplete"),
        (settled(("Cache-Control", "max-age=60, NO-STORE")), "no-store"),
    ],
)
async def test_what_is_not_storable_passes_and_is_not_stored(
    aos: ScriptedAos, gateway: RunningGateway, answer: Answer, detail: str
) -> None:
    aos.answer(answer)
    for _ in range(2):
        response = await _get(gateway)
        assert (response.status, response.body) == (answer.status, answer.body)
        expected = f"aos-gateway; fwd=uri-miss; fwd-status={answer.status}; detail={detail}"
        assert cache_status(response) == expected
    assert aos.count() == 2


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        ("Baggage", "baggage"),
        ("tracestate", "TraceState"),
        ("traceparent", "traceparent"),
        ("X-B3-TraceId", "x-b3-traceid"),
        ("b3", "B3"),
        # What an upstream may take for the configured one.
        ("X_B3_SpanId", "X-B3-SpanId"),
        ("X_Tenant", "X-Tenant"),
    ],
)
async def test_a_field_that_identifies_callers_never_passes_by(
    aos: ScriptedAos, fast_lane: bool, configured: str, sent: str
) -> None:
    aos.answer(settled())
    async with running(aos.url, server__fast_lane=fast_lane, cache__identity_headers=[configured]) as gateway:
        for who in ("alice", "alice", "bob"):
            await _ask(gateway, (sent, who))
    assert [received.get(sent.lower()) for received in aos.received][-1] == b"bob"


_KEPT_APART = "X-Auth-Token, X-Project-Id, cookie, Authorization, Origin, Prefer, If-None-Match, Host"


async def test_vary_on_what_the_key_holds_or_no_request_has_is_met(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(settled(("Vary", _KEPT_APART)))
    for fields in ([], [("X-Project-Id", "p")], [("Cookie", "a=b")]):
        assert (await _ask(gateway, *fields)).endswith("stored")
        assert "; hit" in await _ask(gateway, *fields)
    assert (await _ask(gateway, token=BOB)).endswith("stored")


@pytest.mark.parametrize("name", ["X-Auth-Token", "Cookie", "X-Project-Id", "X-Tenant", "*"])
async def test_vary_that_a_shared_entry_cannot_meet_is_said_once(
    aos: ScriptedAos, fast_lane: bool, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    aos.answer(settled(("Vary", name)))
    with caplog.at_level(logging.WARNING):
        async with running(aos.url, server__fast_lane=fast_lane, cache__scope="shared") as gateway:
            for _ in range(3):
                assert (await _ask(gateway)).endswith("; detail=vary")
    hints = [line.getMessage() for line in caplog.records if line.name == "gateway.cache.hints"]
    assert len(hints) == 1
    assert f"by {name.lower()} (Vary)" in hints[0]


@pytest.mark.parametrize("scope", ["caller", "shared"])
async def test_only_callers_with_the_same_identity_share_a_fetch(
    aos: ScriptedAos, fast_lane: bool, scope: str
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled(("Vary", "X-Auth-Token, Cookie"))))
    async with running(aos.url, server__fast_lane=fast_lane, cache__scope=scope) as gateway:
        asked = [asyncio.create_task(_ask(gateway, token=token)) for token in (ALICE, ALICE, BOB)]
        await all_busy(gateway, 3)
        gate.open()
        statuses = await asyncio.gather(*asked)
    assert ["collapsed" in found for found in statuses].count(True) == 1
    assert sorted(received.get("x-auth-token") or b"" for received in aos.received) == sorted([ALICE, BOB])


# As curl, Go, requests, axios, jQuery and an SDK send it.
_PREFERS_JSON = (
    None,
    "*/*",
    "application/json",
    "application/json, text/plain, */*",
    "application/json, text/javascript, */*; q=0.01",
    "*/*;q=0.8",
)


def _accepting(accept: str | None) -> list[_Field]:
    return [] if accept is None else [("Accept", accept)]


@pytest.mark.parametrize("first", _PREFERS_JSON)
async def test_all_who_prefer_json_are_answered_from_one_fetch(
    aos: ScriptedAos, gateway: RunningGateway, fast_lane: bool, first: str | None
) -> None:
    aos.answer(settled())
    await _ask(gateway, *_accepting(first))
    for accept in _PREFERS_JSON:
        assert "; hit" in await _ask(gateway, *_accepting(accept))
    assert gateway.app.metrics.fast_hits == (len(_PREFERS_JSON) if fast_lane else 0)
    for accept in ("text/html, */*;q=0.8", "application/json;version=2"):
        assert (await _ask(gateway, *_accepting(accept))).endswith("uri-miss; fwd-status=200; stored")


@pytest.mark.parametrize("vary", ["Accept", "accept-encoding, ACCEPT"])
@pytest.mark.parametrize("kept", ["memory", "redis", "both"])
async def test_what_the_origin_chooses_by_accept_is_for_that_one_alone_and_all_are_kept(
    aos: ScriptedAos, fast_lane: bool, vary: str, kept: str, redis: RedisServer
) -> None:
    aos.answer(settled(("Vary", vary)))
    settings: dict[str, Any] = {}
    if kept != "memory":
        settings = {"redis__url": redis.url, "redis__prefix": redis.prefix, "redis__timeout_s": 5.0}
    if kept == "redis":
        settings["cache__memory_bytes"] = 0
    async with running(aos.url, server__fast_lane=fast_lane, **settings) as gateway:
        for number, accept in enumerate(_PREFERS_JSON):
            miss = "vary-miss" if number else "uri-miss"
            assert (
                await _ask(gateway, *_accepting(accept)) == f"aos-gateway; fwd={miss}; fwd-status=200; stored"
            )
            await until(lambda: gateway.app.tiers.redis_state().queued_writes == 0)
        for accept in _PREFERS_JSON * 2:
            assert "; hit" in await _ask(gateway, *_accepting(accept))
    assert [received.get("accept") for received in aos.received] == [
        None if accept is None else accept.encode() for accept in _PREFERS_JSON
    ]


async def test_who_joins_a_fetch_gets_nothing_chosen_by_another_accept(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled(("Vary", "Accept"))))
    asked = [asyncio.create_task(_ask(gateway, *_accepting("*/*")))]
    await gate.wait_reached()
    asked += [asyncio.create_task(_ask(gateway, *_accepting(accept))) for accept in (None, "*/*")]
    await all_busy(gateway, 3)
    gate.open()
    statuses = await asyncio.gather(*asked)
    assert ["collapsed" in found for found in statuses].count(True) == 1
    assert sorted(received.get("accept") or b"" for received in aos.received) == [b"", b"*/*"]


@pytest.mark.parametrize("set_s", [-3_600, -200])
async def test_a_clock_that_was_set_back_gives_no_entry_a_longer_life(
    aos: ScriptedAos, fast_lane: bool, set_s: float
) -> None:
    time = MovableTime()
    aos.answer(settled())
    async with running(aos.url, clock=time.clock, server__fast_lane=fast_lane) as gateway:
        await _ask(gateway)
        time.ahead_s, time.set_s = 295, set_s
        hit = await _get(gateway)
        assert re.fullmatch(r"aos-gateway; hit; ttl=[345]", cache_status(hit))
        assert int(hit.get("age") or 0) >= 295
        time.ahead_s = 301
        assert (await _ask(gateway)).endswith("fwd=uri-miss; fwd-status=200; stored")


async def test_an_entry_that_is_over_by_the_wall_clock_is_called_stale(
    aos: ScriptedAos, fast_lane: bool
) -> None:
    time = MovableTime()
    aos.answer(settled())
    async with running(aos.url, clock=time.clock, server__fast_lane=fast_lane) as gateway:
        await _ask(gateway)
        time.set_s = 301
        assert await _ask(gateway, ("Cache-Control", "only-if-cached")) == (
            "aos-gateway; detail=request-only-if-cached"
        )
        assert await _ask(gateway) == "aos-gateway; fwd=stale; fwd-status=200; stored"
        assert "; hit" in await _ask(gateway)


async def test_what_could_not_be_sent_was_not_forwarded(aos: ScriptedAos, fast_lane: bool) -> None:
    async with running(f"http://127.0.0.1:{free_port()}", server__fast_lane=fast_lane) as gateway:
        assert await _ask(gateway) == "aos-gateway; detail=unreachable"
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    busy: dict[str, Any] = {"upstream__max_connections": 1, "upstream__max_waiting": 0}
    async with running(aos.url, server__fast_lane=fast_lane, **busy) as gateway:
        first = asyncio.create_task(_ask(gateway))
        await gate.wait_reached()
        assert await _ask(gateway, token=BOB) == "aos-gateway; detail=upstream-busy"
        gate.open()
        assert (await first).endswith("stored")
