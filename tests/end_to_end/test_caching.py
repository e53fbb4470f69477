"""What is stored and served, and its Cache-Status."""

import asyncio
import gzip
import re
import threading
from hashlib import sha256

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import (
    ABSENT,
    ACTION_ID,
    STACK_ID,
    TARGET,
    Answer,
    Received,
    ScriptedAos,
    never,
    record,
)
from tests.testbed.client import RawClient, request_bytes
from tests.testbed.gateway import RunningGateway, running

from .kit import ALICE, MovableTime, cache_status, get, is_hit, running_record, settled

_STORED = "aos-gateway; fwd=uri-miss; fwd-status=200; stored"
_HIT = re.compile(r"aos-gateway; hit; ttl=(\d+)")


def _ttl_s(response_cache_status: str) -> int:
    match = _HIT.fullmatch(response_cache_status)
    assert match is not None, response_cache_status
    return int(match[1])


@pytest.mark.parametrize("phase", ["Succeeded", "ForceCancelled"])
async def test_a_terminal_record_is_stored_and_served(
    aos: ScriptedAos, gateway: RunningGateway, phase: str
) -> None:
    aos.answer(Answer(body=record(phase, spec__onFailureStrategy="DoNothing")))
    first, second = await get(gateway), await get(gateway)
    assert cache_status(first) == _STORED
    assert 295 <= _ttl_s(cache_status(second)) <= 300
    assert second.body == first.body
    assert aos.count() == 1


async def test_what_the_origin_allows_is_stored(aos: ScriptedAos, gateway: RunningGateway) -> None:
    freshness = [("Cache-Control", "public, max-age=600"), ("Pragma", "no-cache")]
    aos.answer(settled(*freshness, ("Vary", "Accept-Encoding, Origin"), ("Content-Encoding", "identity")))
    await get(gateway)
    assert is_hit(await get(gateway))


async def test_vary_origin_counts_when_the_request_has_one(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled(("Vary", "Origin")))
    assert cache_status(await get(gateway, TARGET, ("Origin", "http://x"))).endswith("detail=vary")


async def test_the_origins_max_age_caps_the_time_to_live(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled(("Cache-Control", "max-age=50"), ("Age", "10")))
    await get(gateway)
    hit = await get(gateway)
    assert 38 <= _ttl_s(cache_status(hit)) <= 40
    assert hit.get("age") in {b"10", b"11"}


@pytest.mark.parametrize("word", ["no-store", "max-age=soon"])
async def test_the_origins_freshness_is_ignored_when_configured_so(aos: ScriptedAos, word: str) -> None:
    aos.answer(settled(("Cache-Control", word)))
    async with running(aos.url, cache__origin_cache_control="ignore") as gateway:
        await get(gateway)
        hit = await get(gateway)
    assert is_hit(hit)
    assert hit.get("cache-control") == word.encode()


async def test_progress_is_visible_at_once(aos: ScriptedAos, gateway: RunningGateway) -> None:
    bodies = [record("Running", status__progress=percent) for percent in (0, 40, 90)] + [record()]
    aos.queue(*(Answer(body=body) for body in bodies))
    assert [(await get(gateway)).body for _ in range(6)] == [*bodies, record(), record()]
    assert aos.count() == 4


async def test_age_and_ttl_of_a_hit_follow_the_clock_until_access_ttl_ends(aos: ScriptedAos) -> None:
    time = MovableTime()
    aos.answer(settled())
    async with running(aos.url, clock=time.clock) as gateway:
        assert (await get(gateway)).get("age") is None
        for ahead_s in (0, 100, 290):
            time.ahead_s = ahead_s
            hit = await get(gateway)
            age = hit.get("age")
            assert age is not None
            assert ahead_s <= int(age) <= ahead_s + 2
            assert 298 <= int(age) + _ttl_s(cache_status(hit)) <= 300
        time.ahead_s = 301
        assert cache_status(await get(gateway)) == _STORED


async def test_a_failed_record_that_may_reopen_is_stored_briefly(aos: ScriptedAos) -> None:
    time = MovableTime()
    async with running(aos.url, clock=time.clock) as gateway:
        for strategy in (ABSENT, "Rollback", "donothing"):
            time.ahead_s += 1000
            aos.answer(Answer(body=record("Failed", spec__onFailureStrategy=strategy)))
            assert cache_status(await get(gateway)) == _STORED
            assert 28 <= _ttl_s(cache_status(await get(gateway))) <= 30
            time.ahead_s += 31
            assert not is_hit(await get(gateway))


async def test_shared_scope_keeps_a_succeeded_record_for_a_day(aos: ScriptedAos) -> None:
    time = MovableTime()
    aos.answer(settled())
    async with running(aos.url, clock=time.clock, cache__scope="shared") as gateway:
        await get(gateway)
        assert _ttl_s(cache_status(await get(gateway))) <= 300
        time.ahead_s = 700
        await get(gateway)
        time.ahead_s = 80_000
        assert is_hit(await get(gateway))


@pytest.mark.parametrize(("method", "status"), [("GET", 401), ("GET", 404), ("HEAD", 403)])
async def test_a_401_403_or_404_of_the_upstream_ends_the_callers_own_entry(
    aos: ScriptedAos, gateway: RunningGateway, method: str, status: int
) -> None:
    aos.queue(settled(), settled(), Answer(status, body=b"no"))
    aos.answer(settled())
    await get(gateway)
    await get(gateway, token=b"neighbour")
    answer = await get(gateway, TARGET, ("Cache-Control", "no-cache"), method=method)
    assert answer.status == status
    assert answer.body == (b"no" if method == "GET" else b"")
    assert not is_hit(await get(gateway))
    assert is_hit(await get(gateway, token=b"neighbour"))


async def test_an_unstorable_200_ends_the_callers_own_entry(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.queue(settled(), running_record())
    aos.answer(settled())
    await get(gateway)
    await get(gateway, TARGET, ("Cache-Control", "no-cache"))
    assert not is_hit(await get(gateway))


@pytest.mark.parametrize("status", [400, 503])
async def test_another_error_leaves_the_entry(aos: ScriptedAos, gateway: RunningGateway, status: int) -> None:
    aos.queue(settled(), Answer(status))
    await get(gateway)
    await get(gateway, TARGET, ("Cache-Control", "no-cache"))
    assert is_hit(await get(gateway))


async def test_a_fetch_that_began_before_a_404_is_not_stored_any_more(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    gate = aos.gate()
    aos.queue(gate.before(settled()), Answer(404))
    aos.answer(running_record())
    older = asyncio.create_task(get(gateway))
    await gate.wait_reached()
    assert (await get(gateway, TARGET, ("Cache-Control", "no-cache"))).status == 404
    gate.open()
    assert cache_status(await older).endswith("detail=invalidated")
    assert not is_hit(await get(gateway))


async def test_a_body_beyond_the_bound_streams_through_and_is_not_stored(aos: ScriptedAos) -> None:
    body = record(spec__objectData="x" * 300_000)
    async with running(aos.url, cache__max_body_bytes=100_000) as gateway:
        for large in (Answer(body=body), Answer(chunks=[body[:150_000], body[150_000:]], framing="chunked")):
            aos.answer(large)
            for _ in range(2):
                answer = await get(gateway)
                assert sha256(answer.body).digest() == sha256(body).digest()
                found = "aos-gateway; fwd=uri-miss; fwd-status=200; detail=too-large"
                assert cache_status(answer) == found
        assert gateway.app.upstream.slots.in_use == 0
    assert aos.connections == 1


async def test_a_body_beyond_the_bound_reaches_the_caller_before_its_end(aos: ScriptedAos) -> None:
    gate = aos.gate()
    body = record(spec__objectData="x" * 3000)

    async def answer(_: Received, conversation: Conversation) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
        await conversation.send(head % len(body) + body[:2000])
        await gate.passed()
        await conversation.send(body[2000:])

    aos.answer(answer)
    async with (
        running(aos.url, cache__max_body_bytes=1000) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        await client.send(request_bytes("GET", TARGET, [("X-Auth-Token", ALICE)]))
        await client.read_head()
        assert body.startswith(await client.read_some())
        gate.open()
        assert (await client.read_body()).body == body


async def test_a_body_of_exactly_the_bound_is_stored(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, cache__max_body_bytes=len(record())) as gateway:
        await get(gateway)
        assert is_hit(await get(gateway))
    async with running(aos.url, cache__max_body_bytes=len(record()) - 1) as gateway:
        await get(gateway)
        assert not is_hit(await get(gateway))


async def test_gzip_is_a_variant_of_its_own_and_stays_packed(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    packed = gzip.compress(record())
    aos.queue(settled(("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"), body=packed), settled())
    gzips = ("Accept-Encoding", "br, gzip;q=0.8")
    for _ in range(2):
        answer = await get(gateway, TARGET, gzips)
        assert answer.body == packed
        assert answer.get("content-encoding") == b"gzip"
    assert aos.received[0].all("accept-encoding") == [b"gzip"]
    plain = await get(gateway)
    assert plain.body == record()
    assert cache_status(plain) == _STORED
    assert is_hit(await get(gateway, TARGET, ("Accept-Encoding", "identity, gzip;q=0")))
    assert aos.count() == 2


async def test_a_gzip_bomb_passes_and_is_not_stored(aos: ScriptedAos) -> None:
    bomb = gzip.compress(b" " * 5_000_000 + record())
    aos.answer(settled(("Content-Encoding", "gzip"), body=bomb))
    async with running(aos.url, cache__max_body_bytes=100_000) as gateway:
        answer = await get(gateway, TARGET, ("Accept-Encoding", "gzip"))
    assert answer.body == bomb
    assert cache_status(answer) == "aos-gateway; fwd=uri-miss; fwd-status=200; detail=too-large"


async def test_variants_do_not_answer_for_each_other(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    variants = [("Accept", "a/b"), ("Accept-Language", "a/b"), ("X-Language", "a/b"), ("Accept", "A/b")]
    for field in variants:
        assert not is_hit(await get(gateway, TARGET, field))
    for field in variants:
        assert is_hit(await get(gateway, TARGET, field))
    assert aos.count() == 4


@pytest.mark.parametrize(
    "target",
    [
        f"/v2/stacks/{STACK_ID}/actions/{ACTION_ID}x",
        f"/v2/stacks/{STACK_ID}x/actions/{ACTION_ID}",
        f"/v2/stacks/{STACK_ID.upper()}/actions/{ACTION_ID}",
    ],
)
async def test_executions_do_not_answer_for_each_other(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    aos.answer(settled(body=record(name=ABSENT)))
    await get(gateway)
    assert not is_hit(await get(gateway, target))


async def test_nothing_is_stored_without_any_tier(aos: ScriptedAos, free_port: int) -> None:
    aos.answer(settled())
    redis_url = f"redis://127.0.0.1:{free_port}/0"
    async with running(aos.url, cache__memory_bytes=0, redis__url=redis_url) as gateway:
        found = cache_status(await get(gateway))
        assert found == "aos-gateway; fwd=uri-miss; fwd-status=200; detail=not-kept"
        assert not is_hit(await get(gateway))


async def test_a_hit_needs_no_upstream(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.queue(settled())
    aos.answer(never)
    await get(gateway)
    async with await RawClient.connect(gateway.address) as client:
        for _ in range(50):
            answer = await client.request("GET", TARGET, [("X-Auth-Token", ALICE)])
            assert is_hit(answer)
    assert aos.count() == 1


async def test_decoding_a_large_record_holds_up_nobody_else(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    large = f"/v2/stacks/{STACK_ID}/actions/large"
    name = "large"
    nodes = {f"node-{number}": {"phase": "Succeeded"} for number in range(2_000)}
    aos.on("GET", TARGET, settled())
    aos.on("GET", large, settled(body=record(name=name, status__subObjectStatuses=nodes)))
    await get(gateway)
    # The one thread for such work is busy until the event is set.
    is_free = threading.Event()
    busy = gateway.app.executor.submit(is_free.wait, 10)
    try:
        asked = asyncio.create_task(get(gateway, large))
        await aos.wait_received(2)
        for _ in range(3):
            assert is_hit(await get(gateway))
        assert not asked.done()
    finally:
        is_free.set()
    assert cache_status(await asked) == _STORED
    assert busy.result()
    assert is_hit(await get(gateway, large))
