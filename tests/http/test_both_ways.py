"""Who is answered from what: the same through the fast lane and through the parser."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.support.aos import TARGET, ScriptedAos
from tests.support.client import RawClient
from tests.support.gateway import RunningGateway, running

from .asking import ALICE, BOB, all_busy, settled, verdict

_Field = tuple[str, str]


@pytest.fixture(params=[True, False], ids=["fast lane", "parser"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has a fast lane."""
    return bool(request.param)


async def _ask(gateway: RunningGateway, *fields: _Field, token: bytes = ALICE) -> str:
    """What the cache did with a plain GET, on a connection that goes on."""
    async with await RawClient.connect(gateway.address) as client:
        return verdict(await client.request("GET", TARGET, [("X-Auth-Token", token), *fields]))


@pytest.fixture
async def gateway(aos: ScriptedAos, fast_lane: bool) -> AsyncIterator[RunningGateway]:
    """A gateway with default settings that has stored nothing yet."""
    async with running(aos.url, server__fast_lane=fast_lane) as started:
        yield started


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
async def test_a_field_that_tells_callers_apart_never_passes_by(
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
    hints = [line.getMessage() for line in caplog.records if line.name == "gateway.cache_hints"]
    assert len(hints) == 1
    assert f"by {name.lower()} (Vary)" in hints[0]


@pytest.mark.parametrize("scope", ["caller", "shared"])
async def test_who_joins_a_fetch_has_what_tells_callers_apart_in_common(
    aos: ScriptedAos, fast_lane: bool, scope: str
) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled(("Vary", "X-Auth-Token, Cookie"))))
    async with running(aos.url, server__fast_lane=fast_lane, cache__scope=scope) as gateway:
        asked = [asyncio.create_task(_ask(gateway, token=token)) for token in (ALICE, ALICE, BOB)]
        await all_busy(gateway, 3)
        gate.open()
        verdicts = await asyncio.gather(*asked)
    assert ["collapsed" in found for found in verdicts].count(True) == 1
    assert sorted(received.get("x-auth-token") or b"" for received in aos.received) == sorted([ALICE, BOB])
