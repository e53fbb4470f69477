"""The fast path and the parser's way give the same bytes, whatever comes and however it is cut."""

import asyncio
import contextlib
import os
import random
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.clock import Clock
from gateway.core.http.request import MAX_FIELDS
from gateway.downstream.fast_path_connection import FastPathConnection, why_closed
from tests.testbed import address
from tests.testbed.aos import ABSENT, TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, request_bytes
from tests.testbed.faultproxy import PASS, STALL, FaultProxy
from tests.testbed.gateway import DEFAULTS, GatewayProcess, RunningGateway, running
from tests.testbed.redis_server import RedisServer

from .mutation import mutate

_IS_LONG = os.environ.get("AOS_GATEWAY_LONG") == "1"
_ROUNDS = 3_000 if _IS_LONG else 120
_SHORT = {"server__body_timeout_s": 0.1, "server__header_timeout_s": 0.1, "server__keepalive_timeout_s": 1}
# Of the loop, until the gateway has read and answered what was sent.
_TURNS = 12
_NOW_S = 1_800_000_000.0
# Ids and dates that the gateway has made.
_MADE_HERE = re.compile(
    rb"((?:X-Request-Id: |urn:aos-gateway:request:)(?=[0-9a-f]{32})|\r\nDate: (?=[^\r]*GMT))[^\r\"]*"
)
_ALICE = ("X-Auth-Token", "alice")
_CAROL = ("X-Auth-Token", "carol")
_RUNNING = f"{TARGET}-running"
_THROTTLED = f"{TARGET}-throttled"
_HIT = request_bytes("GET", TARGET, [_ALICE])
_CLOSING = request_bytes("GET", "/x", [("Connection", "close")])
_REQUESTS = [
    _HIT,
    _HIT,
    _HIT,
    _HIT * 3,
    request_bytes("GET", TARGET, [("X-Request-Id", "mine-1"), _ALICE]),
    request_bytes("GET", TARGET, [_ALICE, ("traceparent", "00-1-2-01"), ("Accept", "*/*")]),
    request_bytes("GET", TARGET, [_ALICE, ("If-None-Match", "*")]),
    request_bytes("GET", TARGET, [_ALICE, ("Cache-Control", "only-if-cached")]),
    request_bytes("GET", TARGET, [("X-Auth-Token", "bob"), ("Cache-Control", "only-if-cached")]),
    request_bytes("HEAD", TARGET, [_ALICE]),
    request_bytes("GET", TARGET + "?", [_ALICE]),
    request_bytes("GET", TARGET, [_ALICE, ("Connection", "close")]),
    request_bytes("POST", "/x", [], b"abc") + _HIT,
    _HIT + request_bytes("POST", "/x", [("Transfer-Encoding", "chunked")]) + b"1\r\na\r\n0\r\n\r\n" + _HIT,
    _HIT.replace(b"HTTP/1.1", b"HTTP/1.0"),
]
# Of running executions, whose records memory alone keeps, and of a caller who is held back.
_POLLS = [
    request_bytes("GET", _RUNNING, [_ALICE]) * 2,
    request_bytes("GET", _RUNNING, [_ALICE, ("Prefer", "wait=0")]),
    request_bytes("GET", _RUNNING, [_ALICE, ("Accept", "text/event-stream, */*;q=0.1")]),
    request_bytes("GET", _THROTTLED, [_CAROL]) * 2,
    request_bytes("HEAD", _THROTTLED, [_CAROL]),
]


@pytest.fixture(autouse=True)
def _with_the_fast_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULTS, "server.fast_lane", True)


@pytest.fixture(params=["memory", "redis"])
async def pair(
    aos: ScriptedAos, request: pytest.FixtureRequest, redis: RedisServer
) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    """Two gateways for whom time stands still, with the fast path and without, that know alice's record.

    In memory, or in a Redis alone.
    """
    kept: dict[str, Any] = {}
    if request.param == "redis":
        kept = {"cache__memory_bytes": 0, "redis__url": redis.url, "redis__prefix": redis.prefix}
        # A look-up that takes long on a busy machine would be a miss of one of the two.
        kept["redis__timeout_s"] = 5.0
    else:
        kept = {"cache__ttl_running_s": 60}
    aos.answer(Answer(body=b"from upstream"))
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("GET", _RUNNING, Answer(body=record("Running", name=ABSENT)))
    aos.on(None, _THROTTLED, Answer(429, headers=[("Retry-After", "30")], body=b"slow down"))
    clock = Clock(lambda: _NOW_S, lambda: _NOW_S)
    async with (
        running(aos.url, clock=clock, server__fast_lane=True, **_SHORT, **kept) as fast,
        running(aos.url, clock=clock, server__fast_lane=False, **_SHORT, **kept) as slow,
    ):
        for gateway in (fast, slow):
            async with await RawClient.connect(gateway.address) as client:
                await client.send(_HIT)
                assert (await client.read_response()).status == 200
            await _stored(gateway, redis)
        yield fast, slow


async def _stored(gateway: RunningGateway, redis: RedisServer) -> None:
    """Wait until Redis has the record, and the subscription stands: confirmed later it would start over."""
    state = gateway.app.tiers.redis_state
    async with asyncio.timeout(5):
        while state().is_configured and not (state().is_subscribed and await redis.keys("*:entry*")):
            await asyncio.sleep(0.005)  # there is no event to wait for


async def _bytes_of(gateway: RunningGateway, data: bytes, seed: int) -> bytes:
    """Everything a connection says to some bytes, cut by the seed and mostly between heads, until it is closed."""
    reader, writer = await address.connect(gateway.address)
    sizes = random.Random(seed)
    said = b""
    try:
        async with asyncio.timeout(5):
            position = 0
            while position < len(data):
                to_head_end = data.find(b"\r\n\r\n", position) + 4 - position
                size = sizes.choice([7, 60, 10_000, to_head_end, to_head_end, to_head_end])
                size = max(size, 1)
                writer.write(data[position : position + size])
                await writer.drain()
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                position += size
            while piece := await reader.read(65_536):
                said += piece
    except ConnectionError:
        pass  # refused while it was still sending
    finally:
        writer.transport.abort()
    return _MADE_HERE.sub(rb"\1-", said)


@pytest.mark.timeout(1200 if _IS_LONG else 30)
@pytest.mark.parametrize("seed", range(4))
async def test_both_ways_give_the_same_bytes(pair: tuple[RunningGateway, RunningGateway], seed: int) -> None:
    fast, slow = pair
    dice = random.Random(seed)
    requests = _REQUESTS + _POLLS * bool(fast.app.config.cache.ttl_running_s)
    for number in range(_ROUNDS):
        data = b"".join(dice.choices(requests, k=dice.randint(1, 4)))
        if dice.random() < 0.5:
            data = mutate(dice, [data, *requests])
        data += _CLOSING
        cut = seed * _ROUNDS + number
        said, expected = await asyncio.gather(_bytes_of(fast, data, cut), _bytes_of(slow, data, cut))
        assert said == expected, data
    assert fast.app.metrics.fast_hits > _ROUNDS // 16
    assert slow.app.metrics.fast_hits == 0
    if len(requests) > len(_REQUESTS):
        assert fast.app.metrics.fast_running_hits > 0
        assert fast.app.metrics.requests["error", "held-back", "4xx"] > 0


async def test_a_miss_in_redis_is_looked_up_once_and_parsed_then(
    aos: ScriptedAos, redis: RedisServer
) -> None:
    aos.answer(Answer(500, body=b"boom"))
    kept: dict[str, Any] = {
        "cache__memory_bytes": 0,
        "redis__url": redis.url,
        "redis__prefix": redis.prefix,
    }
    async with running(aos.url, **kept) as gateway, await RawClient.connect(gateway.address) as client:
        await redis.command("CONFIG", "RESETSTAT")
        for _ in range(5):
            assert (await client.request("GET", TARGET, [_ALICE])).status == 500
        stats = await redis.command("INFO", "commandstats")
    assert isinstance(stats, bytes)
    assert b"cmdstat_mget:calls=5," in stats
    assert aos.count() == 5


async def test_what_comes_behind_a_question_to_redis_waits_for_its_turn(
    aos: ScriptedAos, redis: RedisServer, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    proxy = await fault_proxy(redis.address)
    aos.on("GET", TARGET, Answer(body=record()))
    aos.on("GET", "/x", Answer(body=b"x"))
    kept: dict[str, Any] = {
        "cache__memory_bytes": 0,
        "redis__url": f"redis://{proxy.address}",
        "redis__prefix": redis.prefix,
        "redis__timeout_s": 5,
    }
    async with running(aos.url, **kept) as gateway, await RawClient.connect(gateway.address) as client:
        await client.request("GET", TARGET, [_ALICE])
        await _stored(gateway, redis)
        proxy.mode = STALL
        await client.send(_HIT)
        await _asked(gateway)
        await client.send(request_bytes("GET", "/x") + _HIT)
        client.half_close()
        assert gateway.app.metrics.fast_hits == 0
        proxy.mode = PASS
        assert (await client.read_response()).body == record()
        assert (await client.read_response()).body == b"x"
        last = await client.read_response()
        assert b"; hit;" in last.all("cache-status")[-1], last
        assert await client.at_eof(3)
    assert [received.target for received in aos.received] == [TARGET, "/x"]


async def test_a_caller_who_leaves_while_redis_is_asked_harms_nobody(
    aos: ScriptedAos, redis: RedisServer, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    proxy = await fault_proxy(redis.address)
    aos.answer(Answer(body=record()))
    kept: dict[str, Any] = {
        "cache__memory_bytes": 0,
        "redis__url": f"redis://{proxy.address}",
        "redis__prefix": redis.prefix,
        "redis__timeout_s": 5,
    }
    async with running(aos.url, **kept) as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.request("GET", TARGET, [_ALICE])
            await _stored(gateway, redis)
            proxy.mode = STALL
            await client.send(_HIT)
            await _asked(gateway)
            client.abort()
        await _gone(gateway)
        proxy.mode = PASS
        async with await RawClient.connect(gateway.address) as client:
            assert (await client.request("GET", TARGET, [_ALICE])).body == record()
    assert aos.count() == 1


async def _asked(gateway: RunningGateway) -> None:
    """Wait until a connection has asked Redis and waits for the answer."""
    async with asyncio.timeout(5):
        while not any(
            isinstance(connection, FastPathConnection) and connection.is_answering
            for connection in gateway.app.server.connections
        ):  # there is no event to wait for
            await asyncio.sleep(0.005)


async def test_a_hit_costs_no_parsing_and_keeps_the_connections_order(
    pair: tuple[RunningGateway, RunningGateway],
) -> None:
    fast, _ = pair
    async with await RawClient.connect(fast.address) as client:
        for number in range(3):
            answer = await client.request("GET", TARGET, [_ALICE, ("X-Request-Id", f"id-{number}")])
            assert (answer.status, answer.get("x-request-id")) == (200, b"id-%d" % number)
        assert (await client.request("GET", "/x")).body == b"from upstream"
        assert (await client.request("GET", TARGET, [_ALICE])).status == 200
    assert fast.app.metrics.fast_hits == 4


@pytest.mark.parametrize("name", ["b3", "X-Other"])
@pytest.mark.parametrize("target", [TARGET, f"{TARGET}-missing"])
async def test_both_ways_take_as_many_field_lines(
    pair: tuple[RunningGateway, RunningGateway], name: str, target: str
) -> None:
    # The client adds Host.
    fields = [_ALICE, ("X-Request-Id", "id"), *[(name, "x")] * (MAX_FIELDS - 3)]
    for gateway in pair:
        for more, status in (([], 200), ([(name, "x")], 431)):
            async with await RawClient.connect(gateway.address) as client:
                assert (await client.request("GET", target, [*fields, *more])).status == status


async def test_a_hit_behind_a_request_under_way_waits_for_its_turn(
    aos: ScriptedAos, pair: tuple[RunningGateway, RunningGateway]
) -> None:
    gate = aos.gate()
    aos.on("GET", "/slow", gate.before(Answer(body=b"slow")))
    fast, _ = pair
    async with await RawClient.connect(fast.address) as client:
        await client.send(request_bytes("GET", "/slow"))
        await gate.wait_reached()
        await client.send(_HIT)
        gate.open()
        assert (await client.read_response()).body == b"slow"
        assert (await client.read_response()).body == record()
    assert fast.app.metrics.fast_hits == 0


async def test_hits_keep_a_connection_open_and_silence_closes_it(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    async with (
        running(aos.url, server__keepalive_timeout_s=0.4, server__header_timeout_s=0.2) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        for _ in range(6):
            assert (await client.request("GET", TARGET, [_ALICE])).status == 200
            await asyncio.sleep(0.15)
        assert await client.at_eof(2)
    assert aos.count() == 1


async def test_a_caller_who_takes_nothing_is_given_no_more(aos: ScriptedAos) -> None:
    large = record(spec__objectData="x" * 1_000_000)
    aos.answer(Answer(body=large))
    async with running(aos.url, server__body_timeout_s=0.3) as gateway:
        async with await RawClient.connect(gateway.address) as client:
            await client.request("GET", TARGET, [_ALICE])
        async with await RawClient.connect(gateway.address) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(50):
                with contextlib.suppress(ConnectionError):  # cut by now, on a slow machine
                    await client.send(_HIT)
                await asyncio.sleep(0.005)
            assert gateway.app.metrics.fast_hits < 25
            await _gone(gateway)


async def _gone(gateway: RunningGateway) -> None:
    async with asyncio.timeout(5):
        while gateway.app.server.connections:  # there is no event to wait for
            await asyncio.sleep(0.02)


async def test_while_draining_a_hit_closes_its_connection(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    async with running(aos.url) as gateway:
        assert gateway.app.fast_path is not None
        async with await RawClient.connect(gateway.address) as client:
            await client.request("GET", TARGET, [_ALICE])
            gateway.app.fast_path.close()
            assert (await client.request("GET", TARGET, [_ALICE])).status == 200
    assert gateway.app.metrics.fast_hits == 0


async def test_a_write_invalidates_the_copies_of_the_fast_path_too(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        for _ in range(3):
            await client.request("GET", TARGET, [_ALICE])
        assert aos.count() == 1
        assert (await client.request("DELETE", TARGET, [_ALICE])).status == 200
        await client.request("GET", TARGET, [_ALICE])
    assert [received.method for received in aos.received] == ["GET", "DELETE", "GET"]


async def test_field_lines_that_never_repeat_are_not_kept_for_ever(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record()))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        await client.request("GET", TARGET, [_ALICE])
        lane = gateway.app.fast_path
        assert lane is not None
        for number in range(5_000):
            lane.answer(request_bytes("GET", TARGET, [_ALICE, ("X-Odd", f"{number}")]))
        assert len(lane._owners) <= 4_096
        for number in range(200):
            lane.answer(request_bytes("GET", TARGET, [_ALICE, ("X-Odd", f"{number}" + "x" * 60_000)]))
        assert len(lane._owners) < 200


async def test_a_poll_that_comes_again_is_sent_as_before_but_for_its_id(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record("Running")))
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        for _ in range(3):
            assert (await client.request("GET", TARGET, [_ALICE])).status == 200
        lane = gateway.app.fast_path
        assert lane is not None
        assert len(lane._known) == 1
    split = [re.split(rb"X-Request-Id: ([0-9a-f]{32})", received.raw_head) for received in aos.received]
    assert len({request_id for _, request_id, _ in split}) == 3
    assert len({(before, behind) for before, _, behind in split}) == 1


@pytest.mark.parametrize("connection", [(), (("Connection", "keep-alive"),)])
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_polls_that_differ_in_their_own_id_are_known_together_and_sent_with_it(
    aos: ScriptedAos, place: int, connection: tuple[tuple[str, str], ...]
) -> None:
    aos.answer(Answer(body=record("Running"), headers=[("Vary", "X-Request-Id")]))

    def request(request_id: str) -> bytes:
        fields = [_ALICE, *connection, ("Accept", "application/json")]
        fields.insert(place, ("x-request-id", request_id))
        return request_bytes("GET", TARGET, fields)

    odd = [request(value) for value in ("", "x" * 129, "a b", "a,b", "\t1")]
    odd += [
        request("1").replace(b"x-request-id: 1", b"x-request-id:" + value) for value in (b"", b"1", b"  1")
    ]
    odd.append(request("1").replace(b"x-request-id: 1", b"X-Request-Id: 2\r\nx-request-id: 1"))
    sent = [request(request_id) for request_id in ("a", "b" * 128, "c-3", "c-3")]
    received: list[list[bytes]] = []
    for is_fast in (True, False):
        begin = aos.count()
        async with (
            running(aos.url, server__fast_lane=is_fast) as gateway,
            await RawClient.connect(gateway.address) as client,
        ):
            for data in (*sent, *odd, *sent):
                await client.send(data)
                assert (await client.read_response()).status == 200
            if gateway.app.fast_path is not None:
                assert len(gateway.app.fast_path._known) == 1
        made_here = re.compile(rb"(?<=X-Request-Id: )[0-9a-f]{32}")
        received.append([made_here.sub(b"", each.raw_head) for each in aos.received[begin:]])
    assert received[0] == received[1]
    assert len(received[0]) == 2 * len(sent) + len(odd)


async def test_a_longer_id_makes_a_known_head_too_large(aos: ScriptedAos) -> None:
    aos.answer(Answer(body=record("Running")))
    polls = [
        request_bytes("GET", TARGET, [_ALICE, ("X-Odd", "x" * 5_000), ("X-Request-Id", "x" * size)])
        for size in (1, 100, 101)
    ]
    async with (
        running(aos.url, server__max_header_bytes=len(polls[1])) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        for data, status in zip(polls, (200, 200, 431), strict=True):
            await client.send(data)
            assert (await client.read_response()).status == status
    assert aos.count() == 2


def test_the_installed_aiohttp_is_as_expected() -> None:
    assert why_closed() is None


_RENAMED = [("_waiter", "_waits_for"), ("_next_keepalive_close_time", "_closes_s")]


@pytest.mark.parametrize(("name", "other"), _RENAMED)
async def test_another_aiohttp_makes_it_fall_back_with_one_line(
    aos: ScriptedAos, tmp_path: Path, name: str, other: str
) -> None:
    copy_aiohttp(tmp_path, name, other)
    aos.answer(Answer(body=record()))
    gateway = GatewayProcess("--upstream", aos.url, environ={"PYTHONPATH": str(tmp_path)})
    try:
        await gateway.ready()
        async with await RawClient.connect(gateway.address) as client:
            for _ in range(3):
                assert (await client.request("GET", TARGET, [_ALICE])).body == record()
        assert await gateway.stop() == 0
        lines = [line for line in gateway.output().splitlines() if "fast_lane" in line]
    finally:
        gateway.discard()
    assert len(lines) == 1
    assert name in lines[0]
    assert aos.count() == 1


def copy_aiohttp(folder: Path, name: str, other: str) -> None:
    """Put an aiohttp of which one inner name differs into a folder."""
    installed = Path(aiohttp.__file__).parent
    shutil.copytree(installed, folder / "aiohttp", ignore=shutil.ignore_patterns("__pycache__"))
    protocol = folder / "aiohttp" / "web_protocol.py"
    protocol.write_text(re.sub(rf"\b{name}\b", other, protocol.read_text("utf-8")), "utf-8")
