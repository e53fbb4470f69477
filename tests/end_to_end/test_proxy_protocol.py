"""Callers behind a load balancer that speaks the PROXY protocol, over plain connections and over TLS."""

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.app.gateway import Gateway
from gateway.core.http.messages import Fields
from gateway.downstream import proxy_protocol
from gateway.downstream.connection import DownstreamConnection
from gateway.runtime.listeners import ListeningSockets
from tests.testbed.aos import TARGET, ScriptedAos, record
from tests.testbed.client import RawClient, RawResponse, request_bytes
from tests.testbed.gateway import GatewayProcess, RunningGateway, loaded, running
from tests.testbed.tls import Authority

from .kit import ALICE, OTHER_ROUTE, is_hit, settled, until

_TOKEN = ("X-Auth-Token", ALICE)
_GET = request_bytes("GET", TARGET, [_TOKEN])
_OTHER = request_bytes("GET", OTHER_ROUTE, [_TOKEN])
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def _v1(source: str = "192.0.2.7") -> bytes:
    return f"PROXY TCP4 {source} 10.0.0.1 4000 443\r\n".encode()


def _v2(command: int, kind: int, rest: bytes) -> bytes:
    return _SIGNATURE + struct.pack("!BBH", command, kind, len(rest)) + rest


_INET = socket.inet_aton("192.0.2.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4000, 443)
_INET6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack("!HH", 4000, 443)
_HEADERS: dict[str, tuple[bytes, bytes]] = {
    "1": (_v1(), b"192.0.2.7"),
    "1, UNKNOWN": (b"PROXY UNKNOWN\r\n", b"127.0.0.1"),
    "2, IPv4": (_v2(0x21, 0x11, _INET), b"192.0.2.7"),
    "2, IPv6": (_v2(0x21, 0x21, _INET6), b"2001:db8::7"),
    "2, a Unix socket": (_v2(0x21, 0x31, b"/a".ljust(216, b"\0")), b"unknown"),
    "2, LOCAL": (_v2(0x20, 0x00, b""), b"127.0.0.1"),
    # More than the socket gives at once.
    "2, IPv4 and 65 kB": (_v2(0x21, 0x11, _INET + b"\x04\xfe\x00" + b"x" * 65_024), b"192.0.2.7"),
}


async def _connect(gateway: RunningGateway, sent: bytes) -> RawClient:
    client = await RawClient.connect(gateway.address)
    # It may have been closed unread.
    with contextlib.suppress(ConnectionError):
        await client.send(sent)
    return client


async def _in_one_segment(client: RawClient, header: bytes, context: ssl.SSLContext, asked: bytes) -> bytes:
    """Send the header together with the first bytes of TLS, and return what the request is answered with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    reader = client._wire._reader
    sent, answer = header, b""
    is_asked = False
    while b"\r\n\r\n" not in answer:
        try:
            if not is_asked:
                tls.do_handshake()
                tls.write(asked)
                is_asked = True
            answer += tls.read()
        except ssl.SSLWantReadError:
            await client.send(sent + outgoing.read())
            sent = b""
            async with asyncio.timeout(5):
                incoming.write(await reader.read(65_536))
    return answer


@pytest.fixture
def files(authority: Authority) -> dict[str, Any]:
    certificate, key = authority.files("127.0.0.1")
    return {"server__tls_cert": str(certificate), "server__tls_key": str(key)}


@pytest.mark.parametrize(("header", "xff"), _HEADERS.values(), ids=_HEADERS.keys())
async def test_the_upstream_gets_the_address_of_the_header(
    aos: ScriptedAos, lane: str, header: bytes, xff: bytes
) -> None:
    aos.answer(settled())
    async with running(aos.url, server__proxy_protocol=True) as gateway:
        # What follows in the same bytes is the first request.
        async with await _connect(gateway, header + _GET) as client:
            assert (await client.read_response()).body == record()
            assert is_hit(await client.request("GET", TARGET, [_TOKEN]))
            await client.request("GET", OTHER_ROUTE, [("X-Forwarded-For", "203.0.113.9")])
        assert (gateway.app.metrics.fast_hits > 0) is (lane == "fast path")
        assert gateway.app.metrics.connections_unfit.total() == 0
    assert aos.received[0].get("X-Forwarded-For") == xff
    assert aos.received[1].get("X-Forwarded-For") == b"203.0.113.9, " + xff


@pytest.mark.parametrize("header", [_v1(), _v2(0x21, 0x11, _INET + b"\x04\x00\x01x")], ids=["1", "2"])
async def test_a_header_may_come_byte_by_byte(aos: ScriptedAos, lane: str, header: bytes) -> None:
    aos.answer(settled())
    async with (
        running(aos.url, server__proxy_protocol=True) as gateway,
        await RawClient.connect(gateway.address) as client,
    ):
        for byte in header + _GET[:3]:
            await client.send(bytes([byte]))
            for _ in range(3):
                await asyncio.sleep(0)
        await client.send(_GET[3:])
        assert (await client.read_response()).status == 200
    assert aos.received[0].get("X-Forwarded-For") == b"192.0.2.7"


@pytest.mark.parametrize("cut", [0, 1, 20, None])
async def test_the_header_comes_before_tls(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any], cut: int | None
) -> None:
    aos.answer(settled())
    async with (
        running(aos.url, server__proxy_protocol=True, **files) as gateway,
        await _connect(gateway, _v1()[: cut or 0]) as client,
    ):
        rest = _v1()[cut or 0 :]
        if cut is None:
            # All of it before TLS begins.
            await client.send(rest)
            for _ in range(10):
                await asyncio.sleep(0)
            rest = b""
        answer = await _in_one_segment(client, rest, authority.client_context(), _GET)
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert aos.received[0].get("X-Forwarded-For") == b"192.0.2.7"
    assert aos.received[0].get("X-Forwarded-Proto") == b"https"


_UNFIT: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "a request": (_GET, {}, "missing"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {}, "missing"),
    "a bad header": (b"PROXY TCP4 1.2.3.4 10.0.0.1 1 65536\r\n" + _GET, {}, "malformed"),
    "a bad header of version 2": (_v2(0x21, 0x11, b"x") + _GET, {}, "malformed"),
    "a second half that never comes": (_v1()[:20], {"server__header_timeout_s": 0.1}, "late"),
    "a TLV that never comes": (_v2(0x21, 0x11, _INET + b"x")[:-1], {"server__header_timeout_s": 0.1}, "late"),
    "nothing": (b"", {"server__header_timeout_s": 0.1}, "late"),
    "a stranger": (_v1() + _GET, {"server__trusted_proxies": ["10.0.0.0/8", "unix"]}, "untrusted"),
}


@pytest.mark.parametrize(("sent", "settings", "why"), _UNFIT.values(), ids=_UNFIT.keys())
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_who_begins_otherwise_is_closed_counted_and_named(
    aos: ScriptedAos,
    files: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    settings: dict[str, Any],
    why: str,
    is_tls: bool,
) -> None:
    tls = files if is_tls else {}
    async with running(aos.url, server__proxy_protocol=True, **settings, **tls) as gateway:
        async with await _connect(gateway, sent) as client:
            assert await client.at_eof(3)
        assert dict(gateway.app.metrics.connections_unfit) == {why: 1}
        assert len(gateway.app.server.connections) == 0
    assert aos.heads == []
    lines = [each for each in caplog.records if each.name == "gateway.downstream.proxy_protocol"]
    assert [each.getMessage() for each in lines] == [
        f"connection of 127.0.0.1 closed: PROXY protocol header {why}"
    ]
    assert lines[0].levelno == logging.WARNING


async def test_who_leaves_before_a_header_is_counted_and_fills_no_log(
    aos: ScriptedAos, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(aos.url, server__proxy_protocol=True) as gateway:
        unfit = gateway.app.metrics.connections_unfit
        for sent, leave in ((b"", RawClient.close), (_v1()[:9], RawClient.close)):
            await leave(await _connect(gateway, sent))
        aborting = await _connect(gateway, b"")
        aborting.abort()
        await until(lambda: unfit["ended"] == 3)
    assert not [each for each in caplog.records if each.name == "gateway.downstream.proxy_protocol"]


async def test_connections_are_bounded_by_whom_the_header_names(aos: ScriptedAos) -> None:
    aos.answer(settled())
    async with running(aos.url, server__proxy_protocol=True, server__max_connections_per_peer=1) as gateway:
        async with await _connect(gateway, _v1() + _GET) as first:
            assert (await first.read_response()).status == 200
            async with await _connect(gateway, _v1()) as second:
                assert (await second.read_response()).status == 503
            async with await _connect(gateway, _v1("192.0.2.8") + _GET) as other:
                assert (await other.read_response()).status == 200
        await until(lambda: not gateway.app.server.connections)
        async with await _connect(gateway, _v1() + _GET) as again:
            assert (await again.read_response()).status == 200


async def test_connections_beyond_the_bound_get_an_error_and_silent_ones_do_not_pile_up(
    aos: ScriptedAos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_protocol, "_MOST_BEYOND", 2)
    aos.answer(settled())
    async with (
        running(aos.url, server__proxy_protocol=True, server__max_connections=1) as gateway,
        await _connect(gateway, _v1() + _GET) as first,
    ):
        assert (await first.read_response()).status == 200
        async with await _connect(gateway, _v1()) as second:
            assert (await second.read_response()).status == 503
        silent = [await _connect(gateway, b"") for _ in range(3)]
        assert await silent[-1].at_eof(3)
        assert gateway.app.metrics.connections_refused == 2
        for client in silent:
            await client.close()


def _callers(gateway: RunningGateway, *xff: bytes) -> list[bytes]:
    """Who asks over the one connection there is, by a parsed head and by one that was not."""
    lines: Fields = tuple((b"X-Forwarded-For", value) for value in xff)
    head = b"GET / HTTP/1.1\r\n" + b"".join(b"%s: %s\r\n" % line for line in lines) + b"\r\n"
    (connection,) = gateway.app.server.connections
    assert isinstance(connection, DownstreamConnection)
    return [connection.origin.caller_address(lines), connection.origin.caller_address(head)]


async def test_the_caller_is_whom_trusted_proxies_name(aos: ScriptedAos, lane: str) -> None:
    aos.answer(settled())

    async def seen(*xff: bytes, header: bytes, **settings: Any) -> list[bytes]:
        async with running(aos.url, **settings) as gateway, await _connect(gateway, header + _GET) as client:
            assert (await client.read_response()).status == 200
            return _callers(gateway, *xff)

    xff = (b"1.1.1.1, 203.0.113.9", b"10.0.0.2")
    trusted: dict[str, Any] = {"server__trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    proxied: dict[str, Any] = {"server__proxy_protocol": True}
    assert await seen(*xff, header=b"") == [b"127.0.0.1"] * 2
    assert await seen(*xff, header=b"", **trusted) == [b"203.0.113.9"] * 2
    assert await seen(*xff, header=b"", server__trusted_proxies=["127.0.0.2"]) == [b"127.0.0.1"] * 2
    assert await seen(*xff, header=_v1(), **proxied, **trusted) == [b"192.0.2.7"] * 2
    assert await seen(*xff, header=_v1("10.0.0.3"), **proxied, **trusted) == [b"203.0.113.9"] * 2
    assert await seen(*xff, header=_v1("10.0.0.3"), **proxied) == [b"10.0.0.3"] * 2
    assert await seen(*xff, header=_HEADERS["2, LOCAL"][0], **proxied, **trusted) == [b"203.0.113.9"] * 2
    # The upstream gets each hop's own peer, whoever is trusted.
    assert {received.get("X-Forwarded-For") for received in aos.received} <= {
        b"127.0.0.1",
        b"192.0.2.7",
        b"10.0.0.3",
    }


async def test_an_address_of_version_4_is_one_on_a_socket_of_both_versions_too(aos: ScriptedAos) -> None:
    aos.answer(settled())
    config = loaded(aos.url, server__trusted_proxies=["127.0.0.0/8"], server__max_connections_per_peer=9)
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    app = Gateway(config)
    await app.start(ListeningSockets(config.server.listen, [listening]))
    try:
        gateway = RunningGateway(app, address)
        async with await _connect(gateway, _GET) as client:
            assert (await client.read_response()).status == 200
            assert _callers(gateway) == [b"127.0.0.1"] * 2
            assert _callers(gateway, b"203.0.113.9") == [b"203.0.113.9"] * 2
    finally:
        await app.close(1.0)
    assert aos.received[0].get("X-Forwarded-For") == b"127.0.0.1"


async def test_who_connects_over_a_unix_socket_is_trusted_when_that_is_named(
    aos: ScriptedAos, socket_folder: Path
) -> None:
    aos.answer(settled())
    listen = f"unix:{socket_folder / 'g.sock'}"
    for trusted, expected in (([], b"unix"), (["10.0.0.0/8"], b"unix"), (["unix"], b"203.0.113.9")):
        async with (
            running(aos.url, server__listen=listen, server__trusted_proxies=trusted) as gateway,
            await _connect(gateway, _GET) as client,
        ):
            assert (await client.read_response()).status == 200
            assert _callers(gateway, b"203.0.113.9") == [expected] * 2
    assert aos.received[0].get("X-Forwarded-For") == b"unknown"


@contextlib.contextmanager
def _no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_it_accepts_again_a_moment_later(
    aos: ScriptedAos, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proxy_protocol, "_PAUSE_S", 0.05)
    aos.answer(settled())
    async with running(aos.url, server__proxy_protocol=True) as gateway:
        host, _, port = gateway.address.rpartition(":")
        with socket.create_connection((host, int(port))) as waiting:
            with _no_descriptor_left():
                await until(lambda: "cannot accept connections" in caplog.text)
            waiting.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=waiting)
            async with RawClient(reader, writer) as client:
                await client.send(_v1() + _GET)
                assert (await client.read_response()).status == 200


async def test_a_drain_waits_for_requests_and_for_no_header(aos: ScriptedAos) -> None:
    gate = aos.gate()
    aos.answer(gate.before(settled()))
    async with running(aos.url, server__proxy_protocol=True) as gateway:
        silent = await _connect(gateway, b"")
        begun = await _connect(gateway, _v1()[:10])
        asking = await _connect(gateway, _v1() + _GET)
        await gate.wait_reached()
        closing = asyncio.ensure_future(gateway.app.close(5.0))
        assert await silent.at_eof(3)
        assert await begun.at_eof(3)
        assert not closing.done()
        gate.open()
        assert (await asking.read_response()).status == 200
        for client in (silent, begun, asking):
            await client.close()
        await closing


async def test_a_drain_waits_for_no_handshake(aos: ScriptedAos, files: dict[str, Any]) -> None:
    async with running(aos.url, server__proxy_protocol=True, **files) as gateway:
        assert gateway.app._proxied is not None
        async with await _connect(gateway, _v1()) as client:
            tasks = gateway.app._proxied._tasks
            await until(lambda: len(tasks) == 1 and not gateway.app._proxied)
            async with asyncio.timeout(3):
                await gateway.app.close(10.0)
            assert await client.at_eof(3)


async def test_a_changed_certificate_and_other_trusted_proxies_hold_for_new_connections(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any]
) -> None:
    aos.answer(settled())
    settings: dict[str, Any] = {"server__proxy_protocol": True, **files}
    async with running(aos.url, **settings) as gateway:
        for trusted in ([], ["127.0.0.1"], ["127.0.0.2"]):
            await gateway.app.apply(loaded(aos.url, **settings, server__trusted_proxies=trusted))
            async with await RawClient.connect(gateway.address) as client:
                if trusted == ["127.0.0.2"]:
                    await client.send(_v1())
                    assert await client.at_eof(3)
                else:
                    answer = await _in_one_segment(client, _v1(), authority.client_context(), _GET)
                    assert answer.startswith(b"HTTP/1.1 200 ")


async def _asked(address: str, header: bytes, token: bytes = ALICE) -> RawResponse:
    async with await RawClient.connect(address) as client:
        await client.send(header + request_bytes("GET", TARGET, [("X-Auth-Token", token)]))
        return await client.read_response()


async def test_a_unix_socket_takes_headers_from_whoever_may_connect(
    aos: ScriptedAos, socket_folder: Path
) -> None:
    aos.answer(settled())
    listen = f"unix:{socket_folder / 'g.sock'}"
    for trusted, xff in (([], b"192.0.2.7"), (["unix"], b"192.0.2.7"), (["10.0.0.1"], None)):
        async with running(
            aos.url,
            server__listen=listen,
            server__proxy_protocol=True,
            server__trusted_proxies=trusted,
        ) as gateway:
            async with await _connect(gateway, _v1() + _GET) as client:
                if xff is None:
                    assert await client.at_eof(3)
                else:
                    assert (await client.read_response()).status == 200
                    assert aos.received[-1].get("X-Forwarded-For") == xff
            assert gateway.app.metrics.connections_unfit["untrusted"] == (xff is None)


def test_asyncios_own_loop_takes_headers_too(
    authority: Authority, files: dict[str, Any], socket_folder: Path
) -> None:
    async def check(ask: Callable[[RunningGateway, ScriptedAos], Awaitable[None]], **settings: Any) -> None:
        async with ScriptedAos() as aos:
            aos.answer(settled())
            async with running(aos.url, server__proxy_protocol=True, **settings) as gateway:
                await ask(gateway, aos)
                await until(lambda: not gateway.app.server.connections)
                assert gateway.app.metrics.connections_unfit == {"missing": 1}

    async def plain(gateway: RunningGateway, aos: ScriptedAos) -> None:
        assert (await _asked(gateway.address, _v1())).status == 200
        assert is_hit(await _asked(gateway.address, _HEADERS["2, IPv6"][0]))
        assert aos.received[0].get("X-Forwarded-For") == b"192.0.2.7"
        async with await _connect(gateway, _GET) as client:
            assert await client.at_eof(3)

    async def over_tls(gateway: RunningGateway, aos: ScriptedAos) -> None:
        # A handshake that fails takes nobody else's descriptor with it.
        for _ in range(3):
            async with await _connect(gateway, _v1() + _GET) as client:
                assert await client.at_eof(3)
        for _ in range(2):
            async with await RawClient.connect(gateway.address) as client:
                answer = await _in_one_segment(client, _v1(), authority.client_context(), _GET)
                assert answer.startswith(b"HTTP/1.1 200 ")
        assert aos.count() == 1
        async with await _connect(gateway, _GET) as client:
            assert await client.at_eof(3)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(check(plain))
        runner.run(check(plain, server__listen=f"unix:{socket_folder / 'g.sock'}"))
        runner.run(check(over_tls, **files))


async def test_workers_take_headers_and_a_plain_request_is_counted_and_logged(aos: ScriptedAos) -> None:
    aos.answer(settled())
    gateway = GatewayProcess(
        *("--upstream", aos.url, "--workers", "2"), environ={"AOS_GATEWAY_SERVER__PROXY_PROTOCOL": "true"}
    )
    try:
        await gateway.ready()
        for _ in range(8):
            assert (await _asked(gateway.address, _v1())).status == 200
        assert {received.get("X-Forwarded-For") for received in aos.received} == {b"192.0.2.7"}
        async with await RawClient.connect(gateway.address) as client:
            await client.send(_GET)
            assert await client.at_eof(3)
        async with await RawClient.connect(gateway.admin) as admin:
            metrics = await admin.request("GET", "/metrics")
        assert b'aos_gateway_connections_unfit_total{why="missing"} 1.0' in metrics.body
        assert await gateway.stop() == 0
        assert gateway.output().count("PROXY protocol header missing") == 1
    finally:
        gateway.discard()
