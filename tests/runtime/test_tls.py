"""TLS towards callers, the upstream and Redis, and Unix sockets in the place of all of them."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.config.errors import ConfigError
from gateway.runtime.tls import check_files
from tests.store.kit import until
from tests.testbed.answers import Conversation, Received
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawClient, TruncatedResponse, fetch, request_bytes
from tests.testbed.gateway import GatewayProcess, loaded, running
from tests.testbed.redis_server import RedisServer
from tests.testbed.secrets import token
from tests.testbed.tls import Authority, tls_in_front

A = token("a")
TOKEN = [("X-Auth-Token", A)]
OLD = Answer(headers=[("Content-Type", "application/json")], body=record())


@pytest.fixture
def files(authority: Authority) -> dict[str, Any]:
    """Settings of a gateway that speaks TLS to its callers."""
    certificate, key = authority.files("127.0.0.1")
    return {"server__tls_cert": str(certificate), "server__tls_key": str(key)}


@asynccontextmanager
async def over_tls(address: str, context: ssl.SSLContext) -> AsyncIterator[RawClient]:
    async with await RawClient.connect(address, tls=context, server_hostname="127.0.0.1") as client:
        yield client


async def test_callers_are_served_over_tls_by_both_ways(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any], lane: str
) -> None:
    aos.on("GET", "/", OLD)
    aos.on("POST", "/", Answer(201, body=b"made"))
    async with (
        running(aos.url, **files) as gateway,
        over_tls(gateway.address, authority.client_context()) as client,
    ):
        for _ in range(3):
            answer = await client.request("GET", TARGET, TOKEN)
            assert (answer.status, answer.body) == (200, record())
        assert b"; hit" in (answer.get("Cache-Status") or b"")
        assert (gateway.app.metrics.fast_hits > 0) is (lane == "fast path")
        assert (await client.request("POST", "/x", body=b"y" * 100_000)).body == b"made"
        assert aos.received[0].get("X-Forwarded-Proto") == b"https"
        refused = await client.request("GET", "/x y")
        assert refused.status == 400
        assert await client.at_eof()


async def test_nothing_below_tls_1_2_is_spoken(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    aos.on("GET", "/", OLD)
    async with running(aos.url, **files) as gateway:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = authority.client_context()
            context.minimum_version = context.maximum_version = version
            async with over_tls(gateway.address, context) as client:
                assert (await client.request("GET", TARGET, TOKEN)).status == 200
        context = authority.client_context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            async with over_tls(gateway.address, context):
                pass
        # Plain HTTP gets no response, and the log no traceback.
        async with await RawClient.connect(gateway.address) as plain:
            await plain.send(request_bytes("GET", TARGET, TOKEN))
            assert await plain.at_eof()
        metrics = gateway.app.metrics
        assert metrics.requests.total() + metrics.fast_hits == 2
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_with_a_client_authority_only_its_certificates_get_in(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any], tmp_path: Path
) -> None:
    aos.on("GET", "/", OLD)
    stranger = Authority(tmp_path)
    async with running(aos.url, **files, server__tls_client_ca=str(authority.ca_file)) as gateway:
        async with over_tls(gateway.address, authority.client_context(shows="alice.example")) as client:
            assert (await client.request("GET", TARGET, TOKEN)).status == 200
        strange = authority.client_context()
        certificate, key = stranger.files("mallory.example")
        strange.load_cert_chain(certificate, key)
        for context in (authority.client_context(), strange):
            # In TLS 1.3 a client sees the rejection at its first read.
            with contextlib.suppress(OSError):
                async with over_tls(gateway.address, context) as client:
                    await client.send(request_bytes("GET", TARGET, TOKEN))
                    assert await client.at_eof()
    assert aos.count() == 1


async def test_connections_beyond_the_bound_are_rejected_over_tls_too(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any]
) -> None:
    async with (
        running(aos.url, **files, server__max_connections=1) as gateway,
        over_tls(gateway.address, authority.client_context()) as first,
    ):
        await until(lambda: len(gateway.app.server.connections) == 1, "the first connection")
        async with over_tls(gateway.address, authority.client_context()) as second:
            assert (await second.read_response()).status == 503
        del first


async def test_the_upstream_is_shown_a_certificate_and_has_to_have_the_name(authority: Authority) -> None:
    certificate, key = authority.files("gateway.example")
    shown: dict[str, Any] = {
        "upstream__ca_file": str(authority.ca_file),
        "upstream__client_cert": str(certificate),
        "upstream__client_key": str(key),
    }
    wanting = authority.server_context("aos.example", wants_client=True)
    async with ScriptedAos(tls=wanting) as aos:
        aos.on("GET", "/", OLD)
        async with running(aos.url, **shown, upstream__server_name="aos.example") as gateway:
            assert (await fetch(gateway.address, TARGET, token=A)).status == 200
        async with running(aos.url, **shown) as gateway:
            assert (await fetch(gateway.address, TARGET, token=A)).status == 502
        alone: dict[str, Any] = {
            "upstream__ca_file": str(authority.ca_file),
            "upstream__server_name": "aos.example",
        }
        async with running(aos.url, **alone) as gateway:
            assert (await fetch(gateway.address, TARGET, token=A)).status == 502
        assert aos.count() == 1


async def test_redis_is_reached_over_tls_with_its_authority_and_not_without(
    aos: ScriptedAos,
    redis: RedisServer,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    aos.on("GET", "/", OLD)
    async with tls_in_front(redis.address, authority.server_context("127.0.0.1")) as port:
        settings: dict[str, Any] = {
            "redis__url": f"rediss://127.0.0.1:{port}/0",
            "redis__prefix": redis.prefix,
            "redis__timeout_s": 1.0,
        }
        async with running(aos.url, **settings, redis__ca_file=str(authority.ca_file)) as gateway:
            state = gateway.app.tiers.redis_state
            await until(lambda: state().is_subscribed, "the subscription")
            assert (await fetch(gateway.address, TARGET, token=A)).status == 200
            await until(lambda: state().is_up and state().queued_writes == 0, "the store")
        assert len(await redis.keys(f"{redis.prefix}*")) == 2
        stranger = Authority(tmp_path)
        async with running(aos.url, **settings, redis__ca_file=str(stranger.ca_file)) as gateway:
            assert (await fetch(gateway.address, TARGET, token=A)).status == 200
            assert gateway.app.metrics.redis_failures.total() > 0
        [line] = [message for message in caplog.messages if message.startswith("redis down")]
        assert "certificate verify failed" in line
    assert aos.count("GET") == 2


async def test_everything_is_reached_over_unix_sockets(aos: ScriptedAos, socket_folder: Path) -> None:
    aos.on("GET", "/", OLD)
    listen, admin = socket_folder / "g.sock", socket_folder / "a.sock"
    with RedisServer(unix=True) as redis:
        gateway = GatewayProcess(
            *("--upstream", aos.url, "--redis", redis.url),
            *("--listen", f"unix:{listen}", "--admin", f"unix:{admin}"),
            environ={"AOS_GATEWAY_REDIS__TIMEOUT_S": "1"},
        )
        try:
            await gateway.ready()
            for _ in range(2):
                answer = await fetch(f"unix:{listen}", TARGET, token=A)
            assert b"; hit" in (answer.get("Cache-Status") or b"")
            health = (await fetch(f"unix:{admin}", "/readyz")).json()
            assert (health["ready"], health["redis"]) == (True, "up")
            assert await gateway.stop() == 0
            assert not listen.exists()
            assert not admin.exists()
        finally:
            gateway.discard()


def test_files_that_are_of_no_use_stop_the_start_with_one_line(authority: Authority, tmp_path: Path) -> None:
    certificate, key = map(str, authority.files("one.example"))
    _, other_key = map(str, authority.files("other.example"))
    encrypted = tmp_path / "encrypted.key"
    plain = load_pem_private_key(Path(key).read_bytes(), None)
    encrypted.write_bytes(
        plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    for settings, line in (
        ({"server__tls_cert": certificate}, "server.tls_cert = .* needs server.tls_key; name that file too"),
        ({"upstream__client_key": key}, "upstream.client_key = .* needs upstream.client_cert"),
        (
            {"server__tls_client_ca": str(authority.ca_file)},
            "server.tls_client_ca = .* needs server",
        ),
        ({"server__tls_cert": "/no/file", "server__tls_key": key}, "server.tls_cert = .* can't be read"),
        ({"server__tls_cert": certificate, "server__tls_key": other_key}, "are no pair"),
        ({"server__tls_cert": certificate, "server__tls_key": certificate}, "hold no certificate and key"),
        ({"server__tls_cert": certificate, "server__tls_key": str(encrypted)}, "the key is encrypted"),
    ):
        with pytest.raises(ConfigError, match=line) as caught:
            check_files(loaded("https://aos.example", **settings))
        assert "\n" not in str(caught.value)


async def test_a_response_that_breaks_off_over_tls_is_no_error_of_the_connection(
    aos: ScriptedAos, authority: Authority, files: dict[str, Any], lane: str
) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    gate = aos.gate()

    async def cut(_: Received, conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123")
        await gate.passed()
        conversation.close()

    aos.answer(cut)
    async with (
        running(aos.url, **files) as gateway,
        over_tls(gateway.address, authority.client_context()) as client,
    ):
        await client.send(request_bytes("GET", "/x", TOKEN))
        await client.read_head()
        gate.open()
        with pytest.raises(TruncatedResponse):
            await client.read_body()
        await until(lambda: not gateway.app.server.connections, "the end of the connection")
    assert errors == []
