"""The admin application over real sockets: access, and the format of errors."""

import asyncio
import base64
import functools
import gzip
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import uvloop
from aiohttp import web

from gateway.admin.app import build_admin
from gateway.admin.server import MOST_CONNECTIONS, AdminConnection
from gateway.config.secret import Secret
from gateway.telemetry.snapshot import Snapshot, unlabelled
from gateway.telemetry.throttled import ThrottledCaller
from gateway.telemetry.top_executions import TopExecution
from tests.testbed.client import Headers, RawClient, fetch, request_bytes
from tests.testbed.gateway import loaded
from tests.testbed.response import RawResponse, TruncatedResponse

_TOKEN = "4dm1n-t0ken/with+base64=="
_JSON = ("Content-Type", "application/json")
_PROTECTED = ("/config", "/", "/page.css", "/page.js", "/icon.svg", "/status")
_PURGE = b'{"stack_id": "my-stack"}'
_METRICS = b"""\
# HELP aos_gateway_connections Open downstream connections.
# TYPE aos_gateway_connections gauge
aos_gateway_connections 1.0
"""


class _Gateway:
    """The operations behind the admin application in these tests."""

    def __init__(self) -> None:
        self.is_ready = True
        self.is_confirmed = True
        self.breaks = False
        self.purged: list[str] = []
        self.config = loaded("http://aos.invalid", cache__secret="0123456789abcdef" * 2)

    def ready(self) -> bool:
        return self.is_ready

    def health(self) -> dict[str, object]:
        if self.breaks:
            raise RuntimeError("s3cret inside")
        return {"redis": "down"}

    def metrics_snapshot(self) -> Snapshot:
        return unlabelled({"connections": 1})

    def executions(self) -> list[TopExecution]:
        return []

    def throttled(self) -> list[ThrottledCaller]:
        return []

    async def refresh(self) -> None:
        pass

    async def purge(self, stack_id: str) -> bool:
        self.purged.append(stack_id)
        return self.is_confirmed


class _FarConnection(AdminConnection):
    """A connection from loopback that takes its peer for another machine."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport._extra["peername"] = ("203.0.113.9", 40_000)  # type: ignore[attr-defined]
        super().connection_made(transport)


@asynccontextmanager
async def _running(
    gateway: _Gateway, *, token: str = "", is_far: bool = False, path: str | None = None
) -> AsyncIterator[str]:
    """Serve the admin application and yield its address."""
    hosts = ("gateway.internal", "dotted.internal.")
    server = msgspec.structs.replace(gateway.config.server, admin_token=Secret(token), admin_hosts=hosts)
    gateway.config = msgspec.structs.replace(gateway.config, server=server)
    runner = web.AppRunner(build_admin(gateway), access_log=None, handle_signals=False)
    await runner.setup()
    assert runner.server is not None
    make = functools.partial(_FarConnection if is_far else AdminConnection, runner.server, {})
    loop = asyncio.get_running_loop()
    if path is not None:
        listener = await loop.create_unix_server(make, path)
        address = f"unix:{path}"
    else:
        listener = await loop.create_server(make, "127.0.0.1", 0)
        address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield address
    finally:
        listener.close()
        await runner.cleanup()


Start = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def gateway() -> _Gateway:
    """A gateway that is ready and well."""
    return _Gateway()


@pytest.fixture
async def near(gateway: _Gateway) -> AsyncIterator[str]:
    """Address without token, for a loopback peer."""
    async with _running(gateway) as address:
        yield address


@pytest.fixture
async def far(gateway: _Gateway) -> AsyncIterator[str]:
    """Address with token, for a peer on the network."""
    async with _running(gateway, token=_TOKEN, is_far=True) as address:
        yield address


async def _purge(address: str, headers: Headers = (), body: bytes = _PURGE) -> RawResponse:
    return await fetch(address, "/purge", method="POST", headers=[_JSON, *headers], body=body)


def _assert_problem(response: RawResponse, status: int, number: str) -> None:
    """Check the format of an error, and that it quotes nothing of the request."""
    assert response.status == status
    assert response.get("Content-Type") == b"application/problem+json"
    problem = response.json()
    request_id = (response.get("X-Request-Id") or b"").decode()
    assert len(request_id) == 32
    assert problem["instance"].endswith(request_id)
    assert problem["status"] == status
    assert problem["code"] == f"GATEWAY.{status}{number}"
    assert problem["message"] == problem["detail"]
    assert (problem["extend"], problem["showdetail"]) == ("", False)
    assert {"type", "title"} < set(problem)
    assert response.get("Proxy-Status") is None
    _assert_guarded(response)


def _assert_guarded(response: RawResponse) -> None:
    assert response.get("Cache-Control") == b"no-store"
    assert response.get("X-Content-Type-Options") == b"nosniff"
    assert response.get("Content-Security-Policy") == b"default-src 'none'; frame-ancestors 'none'"
    assert response.get("Access-Control-Allow-Origin") is None
    assert b"/" not in (response.get("Server") or b"")


# For everybody.


async def test_healthz_is_200_even_when_the_process_is_not_ready(gateway: _Gateway, near: str) -> None:
    gateway.is_ready = False
    response = await fetch(near, "/healthz")
    assert (response.status, response.body) == (200, b"ok\n")
    _assert_guarded(response)


async def test_readyz_follows_readiness_and_only_reports_redis(gateway: _Gateway, near: str) -> None:
    response = await fetch(near, "/readyz")
    assert (response.status, response.json()) == (200, {"ready": True, "redis": "down"})
    gateway.is_ready = False
    response = await fetch(near, "/readyz")
    assert (response.status, response.json()) == (503, {"ready": False, "redis": "down"})
    _assert_guarded(response)


async def test_metrics_are_text_unless_another_format_is_accepted(near: str) -> None:
    response = await fetch(near, "/metrics")
    assert (response.status, response.body) == (200, _METRICS)
    assert response.get("Content-Type") == b"text/plain; version=0.0.4; charset=utf-8"
    assert response.get("Server") is None
    _assert_guarded(response)


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("br", False),
        ("", False),
    ],
)
async def test_metrics_are_compressed_where_gzip_is_accepted(
    near: str, accepted: str, is_compressed: bool
) -> None:
    response = await fetch(near, "/metrics", headers=[("Accept-Encoding", accepted)])
    assert response.get("Content-Encoding") == (b"gzip" if is_compressed else None)
    body = gzip.decompress(response.body) if is_compressed else response.body
    assert body == _METRICS
    assert response.get("Vary") == b"Accept, Accept-Encoding"


async def test_all_accept_lines_of_a_scraper_count(near: str) -> None:
    openmetrics = ("Accept", "application/openmetrics-text")
    response = await fetch(near, "/metrics", headers=[("Accept", "text/plain;q=0.1"), openmetrics])
    assert (response.get("Content-Type") or b"").startswith(b"application/openmetrics-text")


async def test_health_and_metrics_are_for_the_network_too_without_a_token(far: str) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await fetch(far, path)).status == 200


async def test_head_has_no_body(near: str) -> None:
    response = await fetch(near, "/metrics", method="HEAD")
    assert (response.status, response.body) == (200, b"")


# Access to the configuration and to purging.


async def test_a_loopback_peer_needs_no_token(gateway: _Gateway, near: str) -> None:
    response = await fetch(near, "/config")
    assert (response.status, response.json()["cache"]["secret"]) == (200, "***")
    _assert_guarded(response)
    response = await _purge(near)
    assert (response.status, response.json()) == (200, {"forgotten": True})
    assert gateway.purged == ["my-stack"]


async def test_a_loopback_peer_with_a_wrong_token_is_still_a_loopback_peer(near: str) -> None:
    assert (await fetch(near, "/config", headers=[("Authorization", "Bearer wrong")])).status == 200


async def test_a_unix_peer_needs_no_token(gateway: _Gateway, tmp_path: Path) -> None:
    async with _running(gateway, token=_TOKEN, path=str(tmp_path / "admin.sock")) as address:
        assert (await fetch(address, "/config")).status == 200
        assert (await _purge(address)).status == 200
    assert gateway.purged == ["my-stack"]


@pytest.mark.parametrize(
    "authorization",
    [
        f"Bearer {_TOKEN}",
        f"bearer   {_TOKEN}",
        "Basic " + base64.b64encode(f"anybody:{_TOKEN}".encode()).decode(),
        "basic " + base64.b64encode(f":{_TOKEN}".encode()).decode(),
    ],
)
async def test_the_token_opens_the_protected_paths_from_the_network(
    gateway: _Gateway, far: str, authorization: str
) -> None:
    headers = [("Authorization", authorization)]
    for path in _PROTECTED:
        assert (await fetch(far, path, headers=headers)).status == 200
    assert (await _purge(far, headers)).status == 200
    assert gateway.purged == ["my-stack"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", f"Bearer {_TOKEN}x")],
        [("Authorization", f"Bearer {_TOKEN[:-1]}")],
        [("Authorization", f"Bearer {_TOKEN.upper()}")],
        [("Authorization", _TOKEN)],
        [("Authorization", f"Digest {_TOKEN}")],
        [("Authorization", "Bearer \xff\xfe")],
        [("Authorization", "Basic !!!")],
        [("Authorization", "Basic " + base64.b64encode(_TOKEN.encode()).decode())],
        [("Authorization", "Basic " + base64.b64encode(f"{_TOKEN}:".encode()).decode())],
        [("Authorization", f"Bearer {_TOKEN}"), ("Authorization", f"Bearer {_TOKEN}")],
        [("X-Auth-Token", _TOKEN)],
        [("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "for=127.0.0.1"), ("X-Real-IP", "127.0.0.1")],
    ],
)
async def test_without_the_one_right_token_the_network_gets_401(
    gateway: _Gateway, far: str, headers: Headers
) -> None:
    answers = [await fetch(far, path, headers=headers) for path in _PROTECTED]
    for response in (*answers, await _purge(far, headers)):
        _assert_problem(response, 401, "0901")
        assert response.all("WWW-Authenticate") == [
            b'Bearer realm="aos-gateway admin"',
            b'Basic realm="aos-gateway admin", charset="UTF-8"',
        ]
        assert _TOKEN.encode() not in response.body
    assert gateway.purged == []


async def test_a_browser_asks_for_the_token_and_shows_how_to_enter_it(far: str) -> None:
    page = await fetch(far, "/", headers=[("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")])
    assert (page.status, page.get("Content-Type")) == (401, b"text/plain; charset=utf-8")
    assert page.all("WWW-Authenticate")[-1].startswith(b"Basic ")
    assert b"server.admin_token" in page.body
    assert b"password" in page.body


async def test_polls_of_the_page_do_not_make_the_browser_ask_for_the_token(far: str) -> None:
    status = await fetch(far, "/status", headers=[("Accept", "application/json")])
    _assert_problem(status, 401, "0901")
    assert status.all("WWW-Authenticate") == [b'Bearer realm="aos-gateway admin"']


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer", "Basic Og==", "Basic YTo="])
async def test_without_a_configured_token_the_network_has_no_access(
    gateway: _Gateway, authorization: str | None
) -> None:
    headers = [] if authorization is None else [("Authorization", authorization)]
    async with _running(gateway, is_far=True) as address:
        _assert_problem(await fetch(address, "/config", headers=headers), 401, "0901")
        _assert_problem(await _purge(address, headers), 401, "0901")
    assert gateway.purged == []


def test_peers_are_distinguished_on_uvloop_too(gateway: _Gateway, tmp_path: Path) -> None:
    async def check() -> list[int]:
        async with _running(gateway, path=str(tmp_path / "admin.sock")) as unix, _running(gateway) as tcp:
            return [(await fetch(address, "/config")).status for address in (unix, tcp)]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(check()) == [200, 200]


# By which name it may be called.


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9901",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1:9901",
        "127.9.9.9",
        "[::1]",
        "[::1]:9901",
        "10.1.2.3:9901",
        "[2001:db8::1]:9901",
        "gateway.internal",
        "Gateway.Internal:80",
        "gateway.internal.:80",
        "dotted.internal",
    ],
)
async def test_loopback_names_ip_addresses_and_configured_names_are_its_own(near: str, host: str) -> None:
    assert (await fetch(near, "/config", headers=[("Host", host)])).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9901",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "gateway.internal.evil.example",
        "xgateway.internal",
        "127.0.0.1:9901:80",
        "127.0.0.1@evil.example",
        "user@localhost",
        "localhost,evil.example",
        "localhost evil.example",
        "1.2.3",
        "2130706433",
        "[::1",
        "::1",
        "[localhost]",
        "[gateway.internal]",
        "localhost:port",
        "",
        ":9901",
    ],
)
async def test_a_foreign_host_is_misdirected_whatever_the_path_and_token(
    gateway: _Gateway, near: str, far: str, host: str
) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/config", "/nothing"):
        _assert_problem(await fetch(near, path, headers=[("Host", host)]), 421, "0901")
    _assert_problem(await _purge(near, [("Host", host)]), 421, "0901")
    _assert_problem(await _purge(far, [("Host", host), ("Authorization", f"Bearer {_TOKEN}")]), 421, "0901")
    assert gateway.purged == []


async def test_the_authority_of_an_absolute_target_cannot_stand_in_for_the_host(near: str) -> None:
    _assert_problem(await fetch(near, "http://evil.example/config"), 400, "0901")


async def test_one_host_is_needed_and_http_1_0_may_do_without(near: str) -> None:
    two = [("Host", "localhost"), ("Host", "evil.example")]
    assert (await fetch(near, "/config", headers=two)).status == 400
    async with await RawClient.connect(near) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await client.read_response()).status == 400
    async with await RawClient.connect(near) as client:
        await client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await client.read_response()).status == 200


# Purging.


async def test_a_purge_that_redis_has_not_confirmed_is_503_and_may_be_repeated(
    gateway: _Gateway, near: str
) -> None:
    gateway.is_confirmed = False
    response = await _purge(near)
    _assert_problem(response, 503, "0901")
    assert response.get("Retry-After") == b"1"


@pytest.mark.parametrize(
    "body",
    [
        b'{"stack_id":"s"}',
        b' {"stack_id" : "' + b"s" * 64 + b'"}\n',
        b'{"stack_id":".A~-_9"}',
    ],
)
async def test_an_id_that_a_stack_can_have_is_purged(gateway: _Gateway, near: str, body: bytes) -> None:
    assert (await _purge(near, body=body)).status == 200
    assert len(gateway.purged) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"my-stack"',
        b"{}",
        b'{"stack_id":""}',
        b'{"stack_id":"' + b"s" * 65 + b'"}',
        b'{"stack_id":"*"}',
        b'{"stack_id":"my-*"}',
        b'{"stack_id":".."}',
        b'{"stack_id":"a/b"}',
        b'{"stack_id":"a%20b"}',
        b'{"stack_id":"' + "栈".encode() + b'"}',
        b'{"stack_id":5}',
        b'{"stack_id":null}',
        b'{"stack_id":["s"]}',
        b'{"stack_id":"s","other":1}',
        b'{"Stack_Id":"s"}',
        b'{"stack_id":"s"} x',
        b'{"stack_id":"s"',
        b'{"stack_id":"\\ud800"}',
        b'{"stack_id":"\xff"}',
        b"stack_id=s",
        b"[" * 4000,
    ],
)
async def test_any_other_body_is_refused(gateway: _Gateway, near: str, body: bytes) -> None:
    _assert_problem(await _purge(near, body=body), 400, "0902")
    assert gateway.purged == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Type", "text/plain")],
        [("Content-Type", "application/x-www-form-urlencoded")],
        [("Content-Type", "text/plain; application/json")],
        [("Content-Type", "application/jsonp")],
        [_JSON, ("Content-Encoding", "gzip")],
    ],
)
async def test_only_plain_json_is_taken_so_that_no_page_can_send_it_unasked(
    gateway: _Gateway, near: str, headers: Headers
) -> None:
    response = await fetch(near, "/purge", method="POST", headers=headers, body=_PURGE)
    _assert_problem(response, 415, "0901")
    assert gateway.purged == []


async def test_a_media_type_with_parameters_is_json_all_the_same(near: str) -> None:
    headers = [("Content-Type", "Application/JSON; charset=utf-8")]
    assert (await fetch(near, "/purge", method="POST", headers=headers, body=_PURGE)).status == 200


async def test_a_large_body_is_refused_with_and_without_a_length(gateway: _Gateway, near: str) -> None:
    large = b'{"stack_id":"' + b"s" * 5_000 + b'"}'
    _assert_problem(await _purge(near, body=large), 413, "0901")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
    _assert_problem(await _purge(near, [("Transfer-Encoding", "chunked")], chunked), 413, "0901")
    assert gateway.purged == []


async def test_a_body_that_does_not_arrive_is_given_up(
    gateway: _Gateway, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.app._BODY_TIMEOUT_S", 0.05)
    async with await RawClient.connect(near) as client:
        await client.send(request_bytes("POST", "/purge", [_JSON, ("Content-Length", "20")], b'{"sta'))
        _assert_problem(await client.read_response("POST"), 408, "0901")
        assert await client.at_eof(5)
    assert gateway.purged == []


async def test_other_methods_are_refused_with_the_one_that_is_taken(gateway: _Gateway, near: str) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = await fetch(near, "/purge", method=method)
        _assert_problem(response, 405, "0901")
        assert response.get("Allow") == b"POST"
    response = await fetch(near, "/config", method="POST", body=b"")
    _assert_problem(response, 405, "0901")
    assert response.get("Allow") == b"GET, HEAD"
    assert gateway.purged == []


# Everything else.


@pytest.mark.parametrize("path", ["/nothing", "/config/", "/metrics/x", "//config", "/v2/stacks/s/actions/a"])
async def test_an_unknown_path_is_not_found(near: str, path: str) -> None:
    _assert_problem(await fetch(near, path), 404, "0901")


async def test_a_failure_inside_is_500_with_a_request_id_that_the_log_names(
    gateway: _Gateway, near: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.breaks = True
    response = await fetch(near, "/readyz")
    _assert_problem(response, 500, "0901")
    assert b"s3cret" not in response.body
    assert response.json()["instance"].rpartition(":")[2] in caplog.text


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"s3cret s3cret s3cret\r\n\r\n", 400),
        (b"GET /config HTTP/1.1\r\nHost: localhost\r\nAuthorization s3cret\r\n\r\n", 400),
        (b"GET /config HTTP/1.1\r\nHost: localhost\r\nX: " + b"s3cret" * 3_000 + b"\r\n\r\n", 400),
        (b"GET /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: s3cret\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_parsed_is_refused_without_an_echo_and_not_logged(
    near: str, message: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with await RawClient.connect(near) as client:
        await client.send(message)
        response = await client.read_response()
        assert await client.at_eof()
    _assert_problem(response, status, "0901")
    assert b"s3cret" not in response.raw_head + response.body
    assert "s3cret" not in caplog.text


async def test_an_unknown_expectation_is_refused(near: str) -> None:
    response = await fetch(near, "/healthz", headers=[("Expect", "s3cret")])
    _assert_problem(response, 417, "0901")
    assert b"s3cret" not in response.raw_head + response.body


async def test_100_continue_is_sent_to_a_client_that_waits_for_it(gateway: _Gateway, near: str) -> None:
    async with await RawClient.connect(near) as client:
        length = ("Content-Length", str(len(_PURGE)))
        await client.send(request_bytes("POST", "/purge", [_JSON, length, ("Expect", "100-continue")]))
        await client.send(_PURGE)
        response = await client.read_response("POST")
    assert [interim.status for interim in response.interim] == [100]
    assert response.status == 200


@pytest.mark.parametrize("line", [b"GET /config", b"GET /config HTTP/0.9", b"GET /config HTTP/2.0"])
async def test_another_version_than_http_1_is_refused(near: str, line: bytes) -> None:
    host, _, port = near.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.split(b" ")[1] == b"400"
    assert b'"secret"' not in answer


async def test_a_connection_carries_one_request_after_the_other(near: str) -> None:
    async with await RawClient.connect(near) as client:
        for path, status in (("/healthz", 200), ("/nothing", 404), ("/config", 200), ("/purge", 405)):
            assert (await client.request("GET", path)).status == status


async def test_idle_connections_are_bounded_and_keep_no_other_out(near: str) -> None:
    silent = [await RawClient.connect(near) for _ in range(2 * MOST_CONNECTIONS)]
    async with await RawClient.connect(near) as probe:
        for _ in range(3):
            assert (await probe.request("GET", "/healthz")).status == 200
        # It was active after them.
        silent += [await RawClient.connect(near) for _ in range(MOST_CONNECTIONS - 2)]
        assert (await probe.request("GET", "/healthz")).status == 200
    assert all([await client.at_eof() for client in silent[:MOST_CONNECTIONS]])
    assert not await silent[-1].at_eof(0.01)
    for client in silent:
        client.abort()


async def test_a_peer_that_reads_nothing_of_a_response_is_cut(
    gateway: _Gateway, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin.server._WRITE_S", 0.2)
    server = msgspec.structs.replace(gateway.config.server, admin_hosts=("x" * 16_000_000,))
    gateway.config = msgspec.structs.replace(gateway.config, server=server)
    async with await RawClient.connect(near) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request_bytes("GET", "/config"))
        await asyncio.sleep(0.5)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, TruncatedResponse)):
            await client.read_response()
