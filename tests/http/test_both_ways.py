"""Who is answered from what: the same through the fast lane and through the parser."""

from collections.abc import AsyncIterator

import pytest

from tests.support.aos import TARGET, ScriptedAos
from tests.support.client import RawClient
from tests.support.gateway import RunningGateway, running

from .asking import ALICE, settled, verdict

_Field = tuple[str, str]


@pytest.fixture(params=[True, False], ids=["fast lane", "parser"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Whether the gateway has a fast lane."""
    return bool(request.param)


async def _ask(gateway: RunningGateway, *fields: _Field) -> str:
    """What the cache did with a plain GET of Alice's, on a connection that goes on."""
    async with await RawClient.connect(gateway.address) as client:
        return verdict(await client.request("GET", TARGET, [("X-Auth-Token", ALICE), *fields]))


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
