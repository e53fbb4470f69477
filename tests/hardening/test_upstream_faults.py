"""An upstream that breaks HTTP, stalls, talks out of turn, or sends bodies that nobody can read."""

import asyncio
import gzip
import resource
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, record
from tests.testbed.client import RawClient, RawResponse, fetch, request_bytes
from tests.testbed.gateway import RunningGateway, running

from .kit import BROKEN, OTHER, OWN, TARGETS, assert_not_used_again, get

_OK = b"HTTP/1.1 200 OK\r\n"
_LATE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate"


@dataclass(frozen=True)
class Fault:
    """A raw answer that is none.

    Attributes:
        name: what is wrong with it.
        data: the bytes.
        closes: the upstream ends the connection behind them.
    """

    name: str
    data: bytes
    closes: bool = False

    async def __call__(self, _: Received, conversation: Conversation) -> None:
        """Send it whole."""
        await conversation.send(self.data)
        if self.closes:
            conversation.close()

    async def slowly(self, _: Received, conversation: Conversation) -> None:
        """Send it a byte at a time, with a turn of the loop between two."""
        for byte in self.data:
            await conversation.send(bytes([byte]))
            await asyncio.sleep(0)
        if self.closes:
            conversation.close()


_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
# One of each kind; which heads and chunks are refused is tested with the reader, in the core.
_NO_HEADS = [
    Fault("another protocol", b"SSH-2.0-x\r\n"),
    Fault("a control character", _OK + b"X-A: a\x01b\r\nContent-Length: 0\r\n\r\n", closes=True),
    Fault("a head without CR", b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", closes=True),
    Fault("two lengths", _OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
    Fault("coding and length", _CHUNKED[:-2] + b"Content-Length: 1\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
    Fault("an unknown coding", _OK + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", closes=True),
    Fault("a long reason", b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    Fault("a large head", _OK + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 8000) for n in range(40)) + b"\r\n"),
    Fault("many fields", _OK + b"".join(b"X-%d: x\r\n" % n for n in range(3000)) + b"\r\n"),
    Fault("an unasked switch", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc"),
    Fault("only an interim answer", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", closes=True),
    Fault("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", closes=True),
    Fault("nothing", b"", closes=True),
    Fault("204 with a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc"),
]
_BODIES_BEHIND_NOTHING = [
    Fault("204 with a body", b"HTTP/1.1 204 No Content\r\n\r\nabc"),
    Fault("304 with an answer behind it", b"HTTP/1.1 304 Not Modified\r\n\r\n" + _LATE),
]
_HALF_BODIES = [
    Fault("too short", _OK + b"Content-Length: 9\r\n\r\nabc", closes=True),
    Fault("no last chunk", _CHUNKED + b"3\r\nabc\r\n", closes=True),
    Fault("a bad chunk size", _CHUNKED + b"3\r\nabc\r\nzz\r\n\r\n"),
    Fault("a chunk longer than its size", _CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
]


@pytest.fixture
async def gateway(aos: ScriptedAos) -> AsyncIterator[RunningGateway]:
    """A gateway with short deadlines towards the upstream."""
    async with running(aos.url, upstream__read_timeout_s=1, upstream__total_timeout_s=2) as started:
        yield started
    assert started.app.upstream.slots.in_use == 0


def _is_problem(answer: RawResponse, status: int) -> None:
    assert answer.status == status
    assert answer.get("content-type") == b"application/problem+json"
    assert (answer.get("proxy-status") or b"").startswith(b"aos-gateway; error=")


@pytest.mark.parametrize(("target", "is_slow"), [(TARGET, False), (OTHER, True)])
@pytest.mark.parametrize("fault", _NO_HEADS, ids=lambda fault: fault.name)
async def test_an_answer_that_is_none_is_a_502_and_its_connectionassert_not_used_again(
    aos: ScriptedAos, gateway: RunningGateway, fault: Fault, is_slow: bool, target: str
) -> None:
    aos.answer(fault.slowly if is_slow and len(fault.data) < 1000 else fault)
    _is_problem(await get(gateway, target), 502)
    assert len(aos.heads) == 1
    await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fault", _BODIES_BEHIND_NOTHING, ids=lambda fault: fault.name)
async def test_a_body_where_none_may_be_is_a_502(
    aos: ScriptedAos, gateway: RunningGateway, fault: Fault, target: str
) -> None:
    aos.answer(fault)
    _is_problem(await get(gateway, target), 502)
    await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fault", _HALF_BODIES, ids=lambda fault: fault.name)
async def test_a_body_that_breaks_off_is_a_502_or_cut_and_never_looks_whole(
    aos: ScriptedAos, gateway: RunningGateway, fault: Fault, target: str, is_slow: bool
) -> None:
    aos.answer(fault.slowly if is_slow else fault)
    try:
        answer = await get(gateway, target)
    except BROKEN:
        assert target == OTHER
    else:
        _is_problem(answer, 502)
    await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 199 Odd\r\n\r\n" * 5,
    ],
)
async def test_other_interim_answers_are_dropped_cleanly(
    aos: ScriptedAos, gateway: RunningGateway, interim: bytes, target: str
) -> None:
    for answer in (Fault("", interim + Answer(404, body=b"fine").whole()), Fault("", interim + _LATE)):
        for way in (answer, answer.slowly):
            aos.queue(way)
            got = await get(gateway, target)
            assert got.body in {b"fine", b"late"}
            assert got.interim == ()
            assert got.get("x-evil") is None


@pytest.mark.parametrize("target", TARGETS)
async def test_endless_interim_answers_end_in_time(
    aos: ScriptedAos, gateway: RunningGateway, target: str
) -> None:
    async def hint(_: Received, conversation: Conversation) -> None:
        for _number in range(100):
            await conversation.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.05)

    aos.answer(hint)
    answer = await get(gateway, target)
    assert answer.status in {502, 504}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
async def test_silence_is_a_504(aos: ScriptedAos, sent: bytes, target: str) -> None:
    aos.answer(Fault("", sent))
    async with running(aos.url, upstream__read_timeout_s=0.2) as gateway:
        _is_problem(await get(gateway, target), 504)
        await assert_not_used_again(aos, gateway, target)


@pytest.mark.parametrize("begins", [_OK + b"X-A: ", _OK + b"Content-Length: 1000\r\n\r\n"])
async def test_a_record_that_drips_is_a_504_after_its_whole_time(aos: ScriptedAos, begins: bytes) -> None:
    async def drip(_: Received, conversation: Conversation) -> None:
        await conversation.send(begins)
        for _number in range(100):
            await conversation.send(b"x")
            await asyncio.sleep(0.05)

    aos.answer(drip)
    async with running(aos.url, upstream__read_timeout_s=0.2, upstream__total_timeout_s=0.5) as gateway:
        _is_problem(await get(gateway), 504)
        assert gateway.app.upstream.slots.in_use == 0


async def test_a_head_that_drips_is_a_504_on_every_route(aos: ScriptedAos) -> None:
    async def drip(_: Received, conversation: Conversation) -> None:
        await conversation.send(_OK + b"X-A: ")
        for _number in range(100):
            await conversation.send(b"x")
            await asyncio.sleep(0.05)

    aos.answer(drip)
    async with running(aos.url, upstream__read_timeout_s=0.3, upstream__total_timeout_s=0.6) as gateway:
        started_s = time.monotonic()
        _is_problem(await get(gateway, OTHER), 504)
        assert time.monotonic() - started_s < 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("late", [_LATE, b"x", b"\r\n", b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\x00"])
async def test_late_bytes_close_an_idle_connection(
    aos: ScriptedAos, gateway: RunningGateway, late: bytes, target: str
) -> None:
    gate = aos.gate()

    async def talk_on(_: Received, conversation: Conversation) -> None:
        await conversation.answer(OWN)
        await gate.passed()
        await conversation.send(late)

    aos.queue(talk_on)
    aos.answer(OWN)
    assert (await get(gateway, target)).body == b"own"
    gate.open()
    await aos.wait_until(lambda: aos.open_connections == 0, "the gateway to close it")
    assert (await get(gateway, target)).body == b"own"
    assert aos.connections == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, body=b"own").whole() + _LATE,
        Answer(404, body=b"own").whole() + b"x",
        Answer(404, body=b"own").whole() + b"\r\n",
        Answer(404, chunks=[b"own"], framing="chunked").whole() + _LATE,
        Answer(404, chunks=[b"own"], framing="chunked").whole() + b"garbage",
    ],
)
async def test_bytes_beyond_a_body_are_dropped_with_their_connection(
    aos: ScriptedAos, gateway: RunningGateway, answer: bytes, target: str
) -> None:
    aos.queue(answer)
    first = await get(gateway, target)
    assert first.body == b"own" or first.status == 502
    await assert_not_used_again(aos, gateway, target)


_BOMB = gzip.compress(b'{"a": "' + b"0" * 50_000_000 + b'"}', 1)
_DEEP = b'{"x":' * 200_000 + b"1" + b"}" * 200_000


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (Answer(body=_DEEP), b"detail=undecodable"),
        (Answer(headers=[("Content-Encoding", "gzip")], body=_BOMB), b"detail=too-large"),
        (Answer(body=record(x="x" * 5_000_000)), b"detail=too-large"),
        # Python refuses to convert so many digits, but nobody asks for that number.
        (Answer(body=record(x=1).replace(b'"x": 1', b'"x": ' + b"1" * 10_000, 1)), b"stored"),
    ],
    ids=["too deep", "a gzip bomb", "a large body", "thousands of digits"],
)
async def test_a_body_that_costs_much_to_read_passes_unchanged(
    aos: ScriptedAos, gateway: RunningGateway, answer: Answer, detail: bytes
) -> None:
    aos.answer(answer)
    got = await fetch(
        gateway.address, TARGET, token="alice", headers=[("Accept-Encoding", "gzip")], timeout_s=5
    )
    assert (got.status, got.body) == (200, answer.body)
    assert got.all("cache-status")[-1].endswith(detail)


async def test_a_deep_or_packed_body_does_not_stall_the_others(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.on("GET", TARGET, Answer(headers=[("Content-Encoding", "gzip")], body=_BOMB))
    aos.answer(OWN)
    loop = asyncio.get_running_loop()
    longest_s = 0.0

    async def look() -> None:
        nonlocal longest_s
        while True:
            before_s = loop.time()
            await asyncio.sleep(0.005)
            longest_s = max(longest_s, loop.time() - before_s)

    looking = asyncio.create_task(look())
    await fetch(gateway.address, TARGET, token="alice", headers=[("Accept-Encoding", "gzip")])
    looking.cancel()
    assert longest_s < 0.25


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_50_mb_stream_through_in_bounded_memory(aos: ScriptedAos, framing: str, target: str) -> None:
    piece, count = b"0123456789abcdef" * 4096, 800
    heads = {
        "length": b"Content-Length: %d\r\n\r\n" % (len(piece) * count),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n",
        "close": b"Connection: close\r\n\r\n",
    }

    async def flow(_: Received, conversation: Conversation) -> None:
        await conversation.send(_OK + heads[framing])
        framed = b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece
        for _number in range(count):
            await conversation.send(framed)
        if framing == "chunked":
            await conversation.send(b"0\r\n\r\n")
        if framing == "close":
            conversation.close()

    aos.answer(flow)
    async with running(aos.url) as gateway, await RawClient.connect(gateway.address) as client:
        await client.send(request_bytes("GET", target, [("X-Auth-Token", "alice")]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        response = await client.read_head()
        size = 0
        while some := await client.read_some():
            size += len(some)
            # The test itself must hold nothing either.
            response.framing.data.clear()
            response.framing.raw.clear()
        assert size == len(piece) * count
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kib < 30_000
