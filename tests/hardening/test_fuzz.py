"""Random damage on both sides: never a 500, never silence, never a request that nobody sent.

`--long` makes the runs thirty times as long. What fails is shown as bytes,
to be put among the kept ones.
"""

import asyncio
import random
import re

import pytest

from tests.testbed.answers import Conversation
from tests.testbed.aos import TARGET, Answer, Received, ScriptedAos, record
from tests.testbed.client import RawClient, TruncatedResponse, fetch
from tests.testbed.gateway import RunningGateway, running
from tests.testbed.run_length import RunLength, run_length
from tests.testbed.wire import BodyReader, ConnectionCut, MalformedMessage, Wire, split_head

from .mutation import mutate
from .segments import send_split

_IS_LONG = run_length() is not RunLength.SHORT
_ROUNDS = 3000 if _IS_LONG else 100
_SEEDS = range(8)
_TIME_LIMIT_S = 1200 if _IS_LONG else 30
_DEADLINE_S = 0.1
# Head or body, then the second in which a refused caller may still read.
_LONGEST_S = 5.0
_OTHER = "/v2/stacks"
_LINE = re.compile(rb"([A-Z-]+) [!-~]+ HTTP/1\.[01]")
_REQUESTS = [
    b"GET /x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: t\r\n\r\n",
    b"GET http://h/x HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
    b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde",
    b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nabcde",
    b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;a=b\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 31\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: h\r\n\r\nPOST /y HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab",
]
_KEPT_REQUESTS = [
    b"GET /x RTSP/1.0\r\nHost: h\r\n\r\n",
    b"GET  /x HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE",
    b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    b"GET  /y HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
]
_ANSWERS = [
    Answer(body=record()).whole(),
    Answer(404, body=b"not found").whole(),
    Answer(chunks=[b"abc", b"de"], framing="chunked", trailers=[("X-T", "1")]).whole(),
    Answer(204).whole(),
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + Answer(200, body=b"fine").whole(),
    b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nto the end",
]
_KEPT_ANSWERS = [
    b"HTTP/1.1 103\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
]


async def _meant(data: bytes) -> list[tuple[str, bytes]]:
    """Method and body of every request that a strict reader finds in the bytes before the first flaw."""
    reader = asyncio.StreamReader()
    reader.feed_data(data.lstrip(b"\r\n"))
    reader.feed_eof()
    wire = Wire(reader)
    found: list[tuple[str, bytes]] = []
    try:
        while True:
            head = await wire.until(b"\r\n\r\n", 1 << 20)
            if not head.strip(b"\r\n"):
                continue
            start, fields = split_head(head.lstrip(b"\r\n"))
            line = _LINE.fullmatch(start)
            if line is None:
                return found
            body = await BodyReader(wire, fields, unframed_to_end=False, max_bytes=1 << 20).all()
            found.append((line[1].decode(), bytes(body.data)))
    except (ConnectionCut, MalformedMessage):
        return found


async def _all_answers(client: RawClient) -> list[int]:
    """Read answers to the connection's end and return their statuses."""
    statuses: list[int] = []
    try:
        # An answer to HEAD has no body; after damage nobody knows which one that is, so heads alone count.
        raw = b""
        async with asyncio.timeout(_LONGEST_S):
            while await client._wire.fill():
                pass
            raw = bytes(client._wire._buffer)
    except ConnectionError:
        raw = bytes(client._wire._buffer)
    for match in re.finditer(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", raw):
        statuses.append(int(match[1]))
    return statuses


async def _attack(gateway: RunningGateway, aos: ScriptedAos, data: bytes, way: str) -> None:
    statuses: list[int] = []
    for _ in range(3):
        aos.received.clear()
        async with await RawClient.connect(gateway.address) as client:
            await send_split(client, data, way)
            statuses = await _all_answers(client)
        if statuses:
            break
        # On a busy machine a connection may be silent for its whole, short, idle time.
    assert 500 not in statuses, data
    meant = await _meant(data)
    sent = [(received.method, received.body) for received in aos.received]
    remaining = iter(meant)
    assert all(request in remaining for request in sent), (data, meant, sent)
    assert aos.violations == [], data
    # Silence is only for those who said nothing.
    assert statuses or not data.strip(b"\r\n"), data


async def _is_well(gateway: RunningGateway) -> None:
    # The gateway's deadlines are short here, and a busy machine may miss them; what was damaged may not matter.
    for _ in range(5):
        answer = await fetch(gateway.address, "/well", token="t")
        if answer.status != 504:
            break
    assert (answer.status, answer.body) == (200, b"well")


@pytest.mark.timeout(_TIME_LIMIT_S)
async def test_damaged_requests_never_fail_hang_or_become_others() -> None:
    async def work(seed: int) -> None:
        chooser = random.Random(seed)
        async with ScriptedAos() as aos:
            aos.answer(Answer(body=b"well"))
            async with running(
                aos.url,
                server__header_timeout_s=_DEADLINE_S,
                server__body_timeout_s=_DEADLINE_S,
                server__keepalive_timeout_s=_DEADLINE_S,
                log__access="off",
            ) as gateway:
                for data in _KEPT_REQUESTS:
                    await _attack(gateway, aos, data, "whole")
                for number in range(_ROUNDS):
                    data = mutate(chooser, _REQUESTS)
                    await _attack(gateway, aos, data, "whole" if number % 2 else f"random {number}")
                await _is_well(gateway)
                assert gateway.app.upstream.slots.in_use == 0

    await asyncio.gather(*map(work, _SEEDS))


@pytest.mark.timeout(_TIME_LIMIT_S)
async def test_damaged_answers_never_fail_hang_or_reach_the_next_request() -> None:
    async def work(seed: int) -> None:
        chooser = random.Random(seed)
        async with (
            ScriptedAos() as aos,
            running(
                aos.url,
                upstream__read_timeout_s=_DEADLINE_S,
                upstream__total_timeout_s=2 * _DEADLINE_S,
                log__access="off",
            ) as gateway,
        ):
            damaged = (mutate(chooser, _ANSWERS) for _ in range(_ROUNDS))
            for data in (*_KEPT_ANSWERS, *damaged):
                await _mislead(gateway, aos, data, chooser.choice([TARGET, _OTHER]), chooser.random())
            assert gateway.app.upstream.slots.in_use == 0

    await asyncio.gather(*map(work, _SEEDS))


async def _mislead(
    gateway: RunningGateway, aos: ScriptedAos, data: bytes, target: str, chance: float
) -> None:
    """Answer one request with damaged bytes, split in two somewhere, and look at the next one."""

    async def answer(_: Received, conversation: Conversation) -> None:
        at = int(chance * len(data))
        await conversation.send(data[:at])
        await asyncio.sleep(0)
        await conversation.send(data[at:])
        if chance < 0.5:
            conversation.close()

    aos.answer(answer)
    token = f"caller {chance}"
    try:
        got = await fetch(gateway.address, target, token=token, timeout_s=_LONGEST_S)
    except (TruncatedResponse, ConnectionCut, ConnectionError):
        pass
    except TimeoutError:
        pytest.fail(f"no end to the answer made of {data!r} for {target}, cut at {chance}")
    else:
        assert got.status != 500, data
        assert got.status >= 200, data
    aos.answer(Answer(body=b"well"))
    await _is_well(gateway)
