"""What hostile callers can make the gateway write."""

from tests.testbed.aos import Answer, ScriptedAos
from tests.testbed.client import RawClient
from tests.testbed.gateway import GatewayProcess

_BAD = [
    b"GARBAGE zqxj\r\n\r\n",
    b"POST /zqxj HTTP/1.1\r\nHost: h\r\nContent-Length: zqxj\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzqxj\r\n",
    b"GET /x#zqxj HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /x?zqxj HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Auth-Token: zqxj\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: h\r\nExpect: zqxj\r\n\r\n",
    b"GET /\x1b[31m HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /" + b"x" * 30_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /x HTTP/1.1\r\nHost: h\r\nX-Auth-Token: zqxj\r\nX-A: \x00\r\n\r\n",
]


async def test_bad_requests_cost_a_bounded_number_of_short_lines_without_their_text(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    process = GatewayProcess("--upstream", aos.url)
    try:
        await process.ready()
        before = len(process.output().splitlines())
        for _ in range(60):
            for data in _BAD:
                async with await RawClient.connect(process.address) as client:
                    await client.send(data)
                    assert (await client.read_response()).status in {400, 417}
        output = process.output()
    finally:
        process.discard()
    lines = output.splitlines()[before:]
    # A burst and what the rate allows while the test runs, far from one a request.
    assert 0 < len(lines) < 250
    assert all(len(line) < 600 and line.isprintable() for line in lines)
    assert "Traceback" not in output
    assert "zqxj" not in "".join(lines).replace("/x#zqxj", "").replace('"path":"/zqxj"', "")


async def test_no_password_of_a_target_is_logged(aos: ScriptedAos) -> None:
    aos.answer(Answer())
    process = GatewayProcess("--upstream", aos.url)
    try:
        await process.ready()
        for line in (
            b"GET http://u:zqxjpassword@h/x HTTP/1.1",
            b"CONNECT u:zqxjpassword@h:443 HTTP/1.1",
            b"GET /x?t=zqxjpassword HTTP/1.1",
            b"GET /x#zqxjpassword HTTP/1.1",
        ):
            async with await RawClient.connect(process.address) as client:
                await client.send(line + b"\r\nHost: h\r\nConnection: close\r\n\r\n")
                await client.read_response()
        assert await process.stop() == 0
        assert "zqxjpassword" not in process.output()
    finally:
        process.discard()
